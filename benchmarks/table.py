"""Records as Markdown tables, every system beside the one it is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Record
from benchmarks.targets import Verdict

__all__ = ["ROLE_PHASES", "TRAINING_PHASE", "figures", "markdown"]

ROLE_PHASES: Final = (
    "client_push",
    "dsp_push",
    "kts_push",
    "dsp_release",
    "kts_release",
    "dsp_recipient_first",
    "dsp_recipient",
    "kts_recipient_first",
    "kts_recipient",
    "client_pull",
)
"""Everything that somebody waits for, in the order of a round."""

TRAINING_PHASE: Final = "train_step"
"""How the names of all phases of training begin."""

_CLIENT_PHASES: Final = ("client_push", "client_pull")
_HEADER: Final = (
    "phase",
    "system",
    "ms",
    "µs per value",
    "peak MiB",
    "bytes",
    "bytes per value",
    "time / {0}",
    "bytes / {0}",
)
_TARGET_HEADER: Final = ("figure", "measured", "wanted", "unit", "met")


def markdown(
    environment: Mapping[str, Any],
    records: Sequence[Record],
    verdicts: Sequence[Verdict] = (),
    pictures: Sequence[Path] = (),
) -> str:
    """Return the whole page: targets, tables per update length, circumstances.

    Args:
        environment: what `environment.describe` returned.
        records: at least one; the first one's system is what the others are compared
            with.
        verdicts: targets and whether they are met.
        pictures: PNG files in the folder of the page.
    """
    reference = records[0].system
    lines = ["# What privacy costs", ""]
    for picture in pictures:
        lines += [f"![{picture.stem}]({picture.name})", ""]
    lines += _targets(verdicts) if verdicts else []
    training = [r for r in records if r.phase.startswith(TRAINING_PHASE)]
    rounds = [r for r in records if not r.phase.startswith(TRAINING_PHASE)]
    lines += _summary(rounds)
    for values in dict.fromkeys(record.values for record in rounds):
        chosen = [record for record in rounds if record.values == values]
        roles = [record for record in chosen if record.phase in ROLE_PHASES]
        inner = [record for record in chosen if record.phase not in ROLE_PHASES]
        lines += [f"## {values:,} values", ""]
        lines += [*_table(roles, reference), ""] if roles else []
        lines += ["Inside these phases:", ""] if roles and inner else []
        lines += [*_table(inner, reference), ""] if inner else []
        lines += [*_notes(chosen), ""]
    for values in dict.fromkeys(record.values for record in training):
        chosen = [record for record in training if record.values == values]
        lines += [f"## Training {values:,} parameters, per local step", ""]
        lines += [*_table(chosen, reference), ""]
    return "\n".join(lines + _circumstances(environment))


def figures(value: float) -> str:
    """Return a number with three significant figures, thousands separated.

    >>> [figures(x) for x in (0, 0.004567, 6.54321, 412.9, 2987654.0)]
    ['0', '0.00457', '6.54', '413', '2,990,000']
    """
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def _targets(verdicts: Sequence[Verdict]) -> list[str]:
    rows: list[tuple[str, ...]] = [
        _TARGET_HEADER,
        ("---", "---:", "---:", "---", "---"),
    ]
    rows += [
        (
            verdict.what + ("*" if verdict.scaled else ""),
            figures(verdict.measured),
            f"{'at most' if verdict.at_most else 'at least'} {verdict.bound:g}",
            verdict.unit or "times",
            "yes" if verdict.met else "**no**",
        )
        for verdict in verdicts
    ]
    scaled = any(verdict.scaled for verdict in verdicts)
    note = (
        ["", "\\* one side was measured on a sample and scaled up."] if scaled else []
    )
    return ["## Targets", "", *map(_line, rows), *note, ""]


def _summary(records: Sequence[Record]) -> list[str]:
    """Return one line per system: push and pull at every length, and upload size."""
    lengths = sorted({record.values for record in records})
    cells = {(r.system, r.phase, r.values): r for r in records}
    systems = dict.fromkeys(r.system for r in records if r.phase == "client_push")
    if not systems or len(lengths) < 2:
        return []

    def cell(system: str, phase: str, values: int) -> str:
        record = cells.get((system, phase, values))
        if record is None:
            return "-"
        return figures(1e3 * record.seconds) + ("*" if record.sampled else "")

    rows = [
        ("system", *(f"{verb} {n:,}" for verb in ("push", "pull") for n in lengths)),
        ("---", *("---:" for _ in range(2 * len(lengths)))),
    ]
    rows += [
        (system, *(cell(system, p, n) for p in _CLIENT_PHASES for n in lengths))
        for system in systems
    ]
    return ["## A participant's milliseconds", "", *map(_line, rows), ""]


def _table(records: Sequence[Record], reference: str) -> list[str]:
    beside = {r.phase: r for r in records if r.system == reference}
    rows = [tuple(title.format(reference) for title in _HEADER)]
    rows.append(("---", "---", *("---:" for _ in _HEADER[2:])))
    phases = dict.fromkeys(record.phase for record in records)
    order = {phase: place for place, phase in enumerate(ROLE_PHASES)}
    for phase in sorted(phases, key=lambda phase: order.get(phase, len(order))):
        rows += [
            _row(record, beside.get(phase))
            for record in records
            if record.phase == phase
        ]
    return [_line(row) for row in rows]


def _row(record: Record, reference: Record | None) -> tuple[str, ...]:
    return (
        record.phase,
        record.system + ("*" if record.sampled else ""),
        figures(1e3 * record.seconds),
        figures(1e6 * record.seconds / record.values),
        "-" if record.peak_mib is None else f"{record.peak_mib:,.1f}",
        "-" if record.bytes is None else f"{record.bytes:,}",
        "-" if record.bytes is None else figures(record.bytes_per_value),
        _ratio(record.seconds, reference.seconds if reference else 0.0),
        _ratio(record.bytes, reference.bytes if reference else None),
    )


def _ratio(value: float | None, reference: float | None) -> str:
    return figures(value / reference) if value and reference else "-"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(records: Sequence[Record]) -> list[str]:
    samples = {r.system: r.measured_values for r in records if r.sampled}
    settings = {r.system: (r.modulus_bits, r.lanes, r.uploads) for r in records}
    notes = [
        f"Cores: {records[0].threads}; profile: {records[0].profile}. "
        + "; ".join(f"{name}: {_setting(*s)}" for name, s in settings.items())
        + "."
    ]
    if samples:
        parts = ", ".join(f"{name} from {n:,} values" for name, n in samples.items())
        notes += ["", f"\\* measured on a sample and scaled up: {parts}."]
    return notes


def _setting(modulus_bits: int | None, lanes: int | None, uploads: int) -> str:
    parts = [f"{uploads} uploads"]
    if modulus_bits is not None:
        parts.append(f"{modulus_bits} bit")
    if lanes is not None and lanes > 1:
        parts.append(f"{lanes} lanes")
    return ", ".join(parts)


def _circumstances(environment: Mapping[str, Any]) -> list[str]:
    machine, commit = environment["machine"], environment["git_commit"]
    changes = " with changes" if environment["git_changes"] else ""
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    return [
        "## Circumstances",
        "",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_mib']} MiB, {machine['system']} {machine['architecture']}; "
        f"load before: {machine['load_before']}",
        f"- versions: {versions}",
        f"- command: `{environment['command']}`",
        f"- commit: {commit or 'none'}{changes}; {environment['date']}",
        "",
    ]
