"""Accuracy against local steps, seconds and bytes, for several runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hre_torch.app.report.read import Evaluation, Run
from hre_torch.app.report.theme import (
    SIZES,
    Picture,
    Theme,
    apologise,
    byte_unit,
    dress,
    duration,
    marker,
    new_figure,
    number,
    percent,
    second_unit,
    shorten,
    title,
)
from hre_torch.app.report.theme import size as byte_size

__all__ = ["accuracy_picture"]

# Encrypted runs take many times the seconds of `plain` ones. Beyond this ratio the
# shorter curve would be a vertical stroke on a linear axis.
_LOGARITHMIC_FROM: Final = 12.0

# Inches: the height of the figure for a few runs, what of it is not axes, and one line
# of text. Many runs make the figure higher, so that their labels fit.
_HEIGHT: Final = 3.6
_MARGINS: Final = 0.9
_LINE_HEIGHT: Final = 0.23

# Share of the accuracies shown that the axis goes on above 100 %.
_HEAD_ROOM: Final = 0.03

# Points: the line drawn last, and what the first of many runs approaches.
_LINE: Final = 1.8
_WIDEST_LINE: Final = 6.0


class _Cost(NamedTuple):
    """One way to count what training costs: one panel of the figure."""

    title: str
    value: Callable[[Evaluation], float]
    unit: Callable[[float], tuple[float, str]]
    axis: str


_COSTS: Final = (
    _Cost(
        "local steps",
        lambda evaluation: evaluation.global_step,
        lambda largest: (1.0, ""),
        "of all participants",
    ),
    _Cost(
        "time",
        lambda evaluation: evaluation.seconds,
        second_unit,
        "wall clock ({unit})",
    ),
    _Cost(
        "traffic",
        lambda evaluation: evaluation.bytes_up + evaluation.bytes_down,
        byte_unit,
        "both ways ({unit})",
    ),
)


def accuracy_picture(runs: Sequence[Run]) -> Picture:
    """Describe the accuracy figure of these runs."""
    return Picture(
        name="accuracy",
        title="Test accuracy",
        caption=(
            "Accuracy of the released weights on the test data against three ways to "
            "count the cost. Steps and bytes are those of all participants together."
        ),
        alt="Test accuracy against local steps, seconds and bytes, three panels. "
        + " ".join(_sentence(run) for run in runs),
        draw=lambda theme: _draw(runs, theme),
    )


def _sentence(run: Run) -> str:
    if not run.evaluations:
        return f"{run.label} was never evaluated."
    last = run.evaluations[-1]
    return (
        f"{run.label} ends at {percent(last.accuracy)} after "
        f"{number(last.global_step)} local steps, {duration(last.seconds)} and "
        f"{byte_size(last.bytes_up + last.bytes_down)}."
    )


def _draw(runs: Sequence[Run], theme: Theme) -> Figure:
    room = max(_HEIGHT - _MARGINS, _LINE_HEIGHT * (len(runs) + 1))
    figure = new_figure(theme, room + _MARGINS)
    panels: Sequence[Axes] = figure.subplots(1, len(_COSTS), sharey=True)
    evaluated = [(i, run) for i, run in enumerate(runs) if run.evaluations]
    for axes, cost in zip(panels, _COSTS, strict=True):
        dress(axes, theme, "both")
        title(axes, theme, cost.title)
        if evaluated:
            _draw_panel(axes, cost, evaluated, theme)
        else:
            apologise(axes, theme, "no evaluation recorded")
    if evaluated:
        lowest = min(e.accuracy for _, run in evaluated for e in run.evaluations)
        _scale_accuracy(panels[0], max(0.0, 100.0 * lowest - 5.0))
        _label_ends(panels[-1], evaluated, _LINE_HEIGHT / room, theme)
    return figure


def _scale_accuracy(axes: Axes, lowest: float) -> None:
    """Show percents from `lowest` to 100 and a little more, where no tick stands."""
    # The head-room keeps the markers of a perfect run whole.
    axes.set_ylim(lowest, 100.0 + _HEAD_ROOM * (100.0 - lowest))
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(lowest, 100.0)
    axes.set_yticks([tick for tick in ticks if lowest <= tick <= 100.0])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0f} %"))


def _draw_panel(
    axes: Axes, cost: _Cost, runs: Sequence[tuple[int, Run]], theme: Theme
) -> None:
    totals = [cost.value(run.evaluations[-1]) for _, run in runs]
    logarithmic = min(totals) > 0 and max(totals) / min(totals) > _LOGARITHMIC_FROM
    divisor, unit = cost.unit(min(totals) if logarithmic else max(totals))
    for rank, (index, run) in enumerate(runs):
        points = [
            (cost.value(evaluation) / divisor, 100.0 * evaluation.accuracy)
            for evaluation in run.evaluations
            if cost.value(evaluation) > 0 or not logarithmic
        ]
        xs, ys = zip(*points, strict=True)
        # Runs that agree bit for bit lie on top of each other: the lower ones are drawn
        # wider, so that every one of them stays visible.
        width = _WIDEST_LINE - (_WIDEST_LINE - _LINE) * (rank + 1) / len(runs)
        axes.plot(
            xs,
            ys,
            color=theme.colour(index),
            linewidth=width,
            marker=marker(index)[0],
            markersize=3.2 + width if len(points) <= 40 else 0.0,
            markeredgecolor=theme.paper,
            markeredgewidth=0.6,
            solid_capstyle="round",
            zorder=3 + rank,
        )
    axes.set_xlabel(cost.axis.format(unit=unit))
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))


def _label_ends(
    axes: Axes, runs: Sequence[tuple[int, Run]], line: float, theme: Theme
) -> None:
    """Name each run beside its last value; `line` is a text's share of the axis."""
    low, high = axes.get_ylim()
    ends = [100.0 * run.evaluations[-1].accuracy for _, run in runs]
    heights = _spread(ends, line * (high - low), high)
    for (index, run), end, height in zip(runs, ends, heights, strict=True):
        name = f"{shorten(run.label)}  {end:.1f} %"
        pieces = (
            (8.0, marker(index)[1], theme.colour(index)),
            (21.0, name, theme.ink),
        )
        for right, text, colour in pieces:
            axes.annotate(
                text,
                (1.0, height),
                xycoords=axes.get_yaxis_transform(),
                xytext=(right, 0.0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=SIZES["label"],
                parse_math=False,
            )


def _spread(values: Sequence[float], gap: float, ceiling: float) -> list[float]:
    """Move values apart until neighbours are `gap` apart, all below `ceiling`.

    Going down from the largest, each value is lowered only as far as it must be.
    Equal values keep their order, the first on top.
    """
    places = list(values)
    limit = ceiling - gap / 2.0
    for index in sorted(range(len(values)), key=lambda i: (-values[i], i)):
        places[index] = min(values[index], limit)
        limit = places[index] - gap
    return places
