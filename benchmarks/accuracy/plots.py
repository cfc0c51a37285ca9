"""Learning curves: one panel per case, one colour per method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes

from benchmarks.accuracy.matrix import METHODS, Case, Method
from benchmarks.accuracy.summary import Outcome
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

_METHODS: Final[tuple[Method, ...]] = tuple(m for m in METHODS if m != "equality")
_COLUMNS: Final = 2
_ROW_INCHES: Final = 2.6
_LEGEND_INCHES: Final = 0.5
# Above the best curve there is room for nothing; below the final points of the worst,
# the beginning of a curve says little.
_ROOM: Final = 0.1


def draw(outcomes: Sequence[Outcome]) -> bytes:
    """Return the picture as PNG: means over seeds, and a band from least to most."""
    cases = list(
        dict.fromkeys(o.cell.case for o in outcomes if o.cell.method == "federated")
    )
    rows = max(1, -(-len(cases) // _COLUMNS))
    figure = new_figure(LIGHT, height=_LEGEND_INCHES + _ROW_INCHES * rows)
    for place, case in enumerate(cases, start=1):
        _panel(figure.add_subplot(rows, _COLUMNS, place), case, outcomes)
    if figure.axes:
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(_METHODS),
            frameon=False,
            fontsize=SIZES["tick"],
        )
    return png(figure)


def _panel(axes: Axes, case: Case, outcomes: Sequence[Outcome]) -> None:
    lowest_end = 100.0
    highest = 0.0
    for index, method in enumerate(_METHODS):
        curves = [o.curve for o in outcomes if _belongs(o, case, method)]
        if not curves:
            continue
        # Methods and seeds of one case are tested at the same epochs, or nearly so.
        points = list(zip(*curves, strict=False))
        epochs = [statistics.fmean(epoch for epoch, _ in point) for point in points]
        percents = [[100.0 * accuracy for _, accuracy in point] for point in points]
        means = [statistics.fmean(percent) for percent in percents]
        lowest_end, highest = min(lowest_end, means[-1]), max(highest, *means)
        axes.plot(
            epochs,
            means,
            color=LIGHT.colour(index),
            marker=marker(index)[0],
            markersize=4,
            label=method,
        )
        axes.fill_between(
            epochs,
            [min(percent) for percent in percents],
            [max(percent) for percent in percents],
            color=LIGHT.colour(index),
            alpha=0.15,
            linewidth=0,
        )
    room = _ROOM * (highest - lowest_end) + 0.1
    axes.set_ylim(max(0.0, lowest_end - 3 * room), highest + room)
    axes.set(xlabel="epochs", ylabel="test accuracy, %")
    title(
        axes, LIGHT, f"{case.network}, {case.participants} participants, {case.split}"
    )
    dress(axes, LIGHT, grid="both")


def _belongs(outcome: Outcome, case: Case, method: Method) -> bool:
    other = outcome.cell.case
    if outcome.cell.method != method:
        return False
    if method == "pooled":
        return (other.network, other.epochs) == (case.network, case.epochs)
    return other == case
