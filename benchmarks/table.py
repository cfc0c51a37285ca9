"""Records as a Markdown table, every system beside the one it is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.measure import Record

__all__ = ["figures", "markdown"]

_HEADER: Final = (
    "phase",
    "system",
    "ms",
    "µs per value",
    "bytes per value",
    "time / {0}",
    "bytes / {0}",
)


def markdown(environment: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Return the whole page: one table per update length, then the circumstances.

    Args:
        environment: what `environment.describe` returned.
        records: at least one; the first one's system is what the others are compared
            with.
    """
    lines = ["# What privacy costs", ""]
    for values in dict.fromkeys(record.values for record in records):
        chosen = [record for record in records if record.values == values]
        lines += [f"## {values:,} values", "", *_table(chosen), *_notes(chosen), ""]
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


def _table(records: Sequence[Record]) -> list[str]:
    reference = records[0].system
    beside = {r.phase: r for r in records if r.system == reference}
    rows = [tuple(title.format(reference) for title in _HEADER)]
    rows.append(("---", "---", *("---:" for _ in _HEADER[2:])))
    for phase in dict.fromkeys(record.phase for record in records):
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
        figures(record.bytes_per_value),
        _ratio(record.seconds, reference.seconds if reference else 0.0),
        _ratio(record.bytes_per_value, reference.bytes_per_value if reference else 0.0),
    )


def _ratio(value: float, reference: float) -> str:
    return figures(value / reference) if reference else "-"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(records: Sequence[Record]) -> list[str]:
    samples = {r.system: r.measured_values for r in records if r.sampled}
    settings = {r.system: (r.modulus_bits, r.lanes) for r in records}
    notes = [
        f"Cores: {records[0].threads}; profile: {records[0].profile}. "
        + "; ".join(f"{name}: {_setting(*s)}" for name, s in settings.items())
        + "."
    ]
    if samples:
        parts = ", ".join(f"{name} from {n:,} values" for name, n in samples.items())
        notes.append(f"\\* measured on a sample and scaled up: {parts}.")
    return ["", *notes]


def _setting(modulus_bits: int | None, lanes: int | None) -> str:
    if modulus_bits is None:
        return "no encryption"
    return f"{modulus_bits} bit" + (f", {lanes} lanes" if lanes and lanes > 1 else "")


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
