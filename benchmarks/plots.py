"""Pictures of a run: what a push and a pull cost, who pays, what training feels of it.

They are drawn the way the reports of `hre-torch report` are, for light paper. Every
picture names the machine, the versions and the command at its foot.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.measure import Record
from benchmarks.table import ROLE_PHASES, TRAINING_PHASE, figures
from hre_torch.app.report.theme import (
    LIGHT,
    SIZES,
    dress,
    marker,
    new_figure,
    png,
    title,
)

__all__ = ["draw"]

_COLOURS: Final = (*LIGHT.colours, LIGHT.ink, "#8c510a", "#7b3294", LIGHT.muted)
"""The report's, and more: there are more systems than runs in a report."""
_FOOT_COLUMNS: Final = 150
# A bar on a logarithmic axis begins anywhere, so that its length says little; up to
# this ratio of the longest to the shortest, an axis from zero shows all.
_LOGARITHMIC_FROM: Final = 20.0
_BAR: Final = 0.8
"""Of the room between two groups of bars."""
_ROW_INCHES: Final = 0.2
_FRAME_INCHES: Final = 1.6


def draw(
    environment: Mapping[str, Any], records: Sequence[Record], stem: Path
) -> list[Path]:
    """Draw whatever the records suffice for.

    Args:
        environment: what `environment.describe` returned.
        records: of one run.
        stem: start of the files' names; `results/full` gives `results/full-push.png`.

    Returns:
        The files.
    """
    painters: dict[str, Callable[[Sequence[Record]], Figure | None]] = {
        "push": _exchange,
        "bytes": _upload_bytes,
        "roles": _roles,
        "training": _training,
    }
    written = []
    for name, paint in painters.items():
        figure = paint(records)
        if figure is None:
            continue
        _sign(figure, environment)
        path = stem.with_name(f"{stem.name}-{name}.png")
        path.write_bytes(png(figure))
        written.append(path)
    return written


def _exchange(records: Sequence[Record]) -> Figure | None:
    """Draw time against length, for push and pull, one line per system."""
    phases = {"client_push": "Client push", "client_pull": "Client pull"}
    chosen = [record for record in records if record.phase in phases]
    if len({record.values for record in chosen}) < 2:
        return None
    systems = _systems(chosen)
    figure = new_figure(LIGHT, height=4.2)
    for place, (phase, words) in enumerate(phases.items(), start=1):
        axes = figure.add_subplot(1, 2, place)
        for index, system in enumerate(systems):
            rows = [r for r in chosen if (r.system, r.phase) == (system, phase)]
            axes.plot(
                [r.values for r in rows],
                [1e3 * r.seconds for r in rows],
                color=_COLOURS[index % len(_COLOURS)],
                marker=marker(index)[0],
                # A sample that was scaled up is no measurement: its mark is hollow.
                markerfacecolor="none" if any(r.sampled for r in rows) else None,
                label=system,
            )
        axes.set(xscale="log", yscale="log", xlabel="values", ylabel="ms")
        axes.xaxis.set_minor_formatter(NullFormatter())
        title(axes, LIGHT, words)
        dress(axes, LIGHT, grid="both")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=SIZES["tick"],
    )
    return figure


def _upload_bytes(records: Sequence[Record]) -> Figure | None:
    """Draw bytes per value of an upload, for the reference length."""
    chosen = [r for r in records if r.phase == "client_push"]
    if not chosen:
        return None
    shortest = min(record.values for record in chosen)
    rows = [record for record in chosen if record.values == shortest]
    figure = new_figure(LIGHT, height=_FRAME_INCHES + 1.5 * _ROW_INCHES * len(rows))
    axes = figure.add_subplot()
    bars = axes.barh(
        [_named(record) for record in rows],
        [record.bytes_per_value for record in rows],
        color=LIGHT.colour(0),
        height=_BAR,
    )
    _label(axes, bars, [record.bytes_per_value for record in rows])
    _scale(axes, "bytes per value", [record.bytes_per_value for record in rows])
    axes.invert_yaxis()
    title(axes, LIGHT, f"Upload of {shortest:,} values")
    dress(axes, LIGHT, grid="x")
    return figure


def _roles(records: Sequence[Record]) -> Figure | None:
    """Draw what every role pays in the first system, and how it grows with length."""
    reference = records[0].system
    chosen = {
        (record.phase, record.values): 1e3 * record.seconds
        for record in records
        if record.system == reference and record.phase in ROLE_PHASES
    }
    if not chosen:
        return None
    phases = [phase for phase in ROLE_PHASES if phase in {key for key, _ in chosen}]
    lengths = sorted({values for _, values in chosen})
    groups = {
        f"{values:,} values": [chosen.get((phase, values), 0.0) for phase in phases]
        for values in lengths
    }
    return _grouped(phases, groups, f"What each role pays in {reference!r}")


def _training(records: Sequence[Record]) -> Figure | None:
    """Draw the time of a training step for every course and system."""
    chosen = {
        (f"{record.values:,} parameters\n{_interval(record.phase)}", record.system): (
            1e3 * record.seconds
        )
        for record in records
        if record.phase.startswith(TRAINING_PHASE)
    }
    if not chosen:
        return None
    courses = list(dict.fromkeys(course for course, _ in chosen))
    systems = list(dict.fromkeys(system for _, system in chosen))
    groups = {
        system: [chosen.get((course, system), 0.0) for course in courses]
        for system in systems
    }
    return _grouped(courses, groups, "A training step, its share of the exchange in it")


def _grouped(
    rows: Sequence[str], groups: Mapping[str, Sequence[float]], heading: str
) -> Figure:
    """Draw one group of horizontal bars per row, in milliseconds."""
    inches = _FRAME_INCHES + _ROW_INCHES * len(rows) * (len(groups) + 1)
    figure = new_figure(LIGHT, height=inches)
    axes = figure.add_subplot()
    width = _BAR / len(groups)
    for index, (name, lengths) in enumerate(groups.items()):
        offset = width * (index - (len(groups) - 1) / 2)
        bars = axes.barh(
            [row + offset for row in range(len(rows))],
            lengths,
            height=width,
            color=_COLOURS[index % len(_COLOURS)],
            label=name,
        )
        _label(axes, bars, lengths)
    axes.set_yticks(range(len(rows)), rows)
    _scale(axes, "ms", [length for group in groups.values() for length in group])
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=SIZES["tick"])
    title(axes, LIGHT, heading)
    dress(axes, LIGHT, grid="x")
    return figure


def _scale(axes: Axes, label: str, lengths: Sequence[float]) -> None:
    """Scale the axis below bars: from zero, or by powers where some would vanish."""
    axes.set_xlabel(label)
    seen = [length for length in lengths if length > 0]
    if seen and max(seen) > _LOGARITHMIC_FROM * min(seen):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _label(axes: Axes, bars: Any, lengths: Sequence[float]) -> None:
    axes.bar_label(
        bars,
        [figures(length) if length else "" for length in lengths],
        padding=3,
        fontsize=SIZES["remark"],
        color=LIGHT.muted,
    )
    axes.margins(x=0.1)


def _sign(figure: Figure, environment: Mapping[str, Any]) -> None:
    """Write machine, versions, date and command at the foot."""
    machine = environment["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    text = (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} "
        f"before; {environment['date']}; {versions}"
    )
    lines = [
        line
        for part in (text, environment["command"])
        for line in textwrap.wrap(part, _FOOT_COLUMNS)
    ]
    figure.supxlabel(
        "\n".join(lines),
        x=0.01,
        ha="left",
        fontsize=6.5,
        color=LIGHT.muted,
        parse_math=False,
    )


def _systems(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record.system for record in records))


def _named(record: Record) -> str:
    return record.system + ("*" if record.sampled else "")


def _interval(phase: str) -> str:
    every = phase.removeprefix(TRAINING_PHASE).lstrip("_") or "1"
    return "exchange every step" if every == "1" else f"exchange every {every} steps"
