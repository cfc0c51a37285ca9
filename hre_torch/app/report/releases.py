"""How old the released updates were, and whose they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from hre_torch.app.report.read import Run
from hre_torch.app.report.theme import (
    SIZES,
    Picture,
    Theme,
    apologise,
    dress,
    new_figure,
    percent,
    shorten,
    title,
)

__all__ = ["contributors_picture", "staleness_picture"]

# More bars or columns than these are thinner than their gaps; neighbours are merged.
_MOST_BARS: Final = 40
_MOST_COLUMNS: Final = 400

# Up to here each bar has room for its own percentage.
_MOST_LABELLED_BARS: Final = 16

# Columns wide enough to be told apart by a gap.
_MOST_PARTED_COLUMNS: Final = 100

# Rows of participants beyond this are too low for a name each.
_MOST_NAMES: Final = 32


def staleness_picture(runs: Sequence[Run]) -> Picture:
    """Describe the histogram of staleness of these runs."""
    return Picture(
        name="staleness",
        title="Staleness",
        caption=(
            "Share of the released updates by staleness: how many releases had been "
            "made between the weights an update was computed from and its own release."
        ),
        alt="Histogram of the staleness of released updates. "
        + " ".join(_staleness_sentence(run) for run in runs),
        draw=lambda theme: _draw_staleness(runs, theme),
    )


def contributors_picture(runs: Sequence[Run]) -> Picture:
    """Describe who contributed to each release of these runs."""
    return Picture(
        name="contributors",
        title="Contributors per release",
        caption=(
            "A filled cell: the participant has an update in that release. At the "
            "right, in how many of the releases. Long runs merge neighbouring "
            "releases into one column, darker where more of them are filled."
        ),
        alt="Which participant contributed to which release. "
        + " ".join(_contributors_sentence(run) for run in runs),
        draw=lambda theme: _draw_contributors(runs, theme),
    )


def _staleness_of(run: Run) -> list[int]:
    return [age for release in run.releases for age in release.staleness]


def _staleness_summary(ages: Sequence[int]) -> str:
    ninth = int(np.percentile(ages, 90, method="inverted_cdf"))
    return f"mean {np.mean(ages):.1f}, 90 % at most {ninth}, largest {max(ages)}"


def _staleness_sentence(run: Run) -> str:
    ages = _staleness_of(run)
    if not ages:
        return f"{run.label}: no release."
    return f"{run.label}: {len(ages):,} updates, {_staleness_summary(ages)}."


def _contributors_sentence(run: Run) -> str:
    if not run.releases:
        return f"{run.label}: no release."
    filled = _presence(run)
    shares = zip(run.participants, filled.mean(axis=1), strict=True)
    listed = ", ".join(f"{name} in {percent(share)}" for name, share in shares)
    return (
        f"{run.label}: {len(run.releases):,} releases with {_crowd(filled)}; {listed}."
    )


def _crowd(filled: npt.NDArray[np.float64]) -> str:
    """Say how many participants a release has: the least, the mean, the most."""
    crowd = filled.sum(axis=0)
    least, most = int(crowd.min()), int(crowd.max())
    if least == most:
        return f"{most} contributor{'s' if most > 1 else ''} each"
    return f"{least} to {most} contributors, mean {crowd.mean():.1f}"


def _draw_staleness(runs: Sequence[Run], theme: Theme) -> Figure:
    figure = new_figure(theme, 0.5 + 1.75 * len(runs))
    grid = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)
    rows: list[Axes] = list(grid[:, 0])
    largest = max((max(_staleness_of(run), default=0) for run in runs), default=0)
    merged = -(-(largest + 1) // _MOST_BARS)
    bars = -(-(largest + 1) // merged)
    labelled = bars <= _MOST_LABELLED_BARS
    tallest = 0.0
    for index, (axes, run) in enumerate(zip(rows, runs, strict=True)):
        ages = _staleness_of(run)
        dress(axes, theme, None if labelled else "y")
        title(axes, theme, shorten(run.label), _staleness_summary(ages) if ages else "")
        if not ages:
            apologise(axes, theme, "no release recorded")
            continue
        counts = Counter(age // merged for age in ages)
        shares = [100.0 * counts[bar] / len(ages) for bar in range(bars)]
        tallest = max(tallest, *shares)
        axes.bar(range(bars), shares, 0.82, color=theme.colour(index))
        if labelled:
            _label_bars(axes, shares, theme)
    if tallest:
        rows[0].set_ylim(0.0, 1.22 * tallest)
        rows[0].yaxis.set_major_locator(NullLocator() if labelled else MaxNLocator(4))
        rows[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
        rows[-1].set_xlim(-0.6, max(bars, 5) - 0.4)
        rows[-1].xaxis.set_major_locator(MaxNLocator(16, integer=True))
        rows[-1].xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x * merged:g}")
        )
        rows[-1].set_xlabel("staleness (releases)")
    return figure


def _label_bars(axes: Axes, shares: Sequence[float], theme: Theme) -> None:
    for bar, share in enumerate(shares):
        if share:
            axes.annotate(
                percent(share / 100.0),
                (bar, share),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=SIZES["remark"],
                color=theme.ink,
            )


def _presence(run: Run) -> npt.NDArray[np.float64]:
    """Return 1 where a participant is in a release, shape (participants, releases)."""
    rows = {name: row for row, name in enumerate(run.participants)}
    filled = np.zeros((len(rows), len(run.releases)))
    for column, release in enumerate(run.releases):
        for name in release.contributors:
            filled[rows[name], column] = 1.0
    return filled


def _merge_columns(
    filled: npt.NDArray[np.float64], width: int
) -> npt.NDArray[np.float64]:
    """Average each `width` neighbouring columns; the last may hold fewer."""
    starts = np.arange(0, filled.shape[1], width)
    sizes = np.diff(np.append(starts, filled.shape[1]))
    return np.asarray(np.add.reduceat(filled, starts, axis=1) / sizes)


def _draw_contributors(runs: Sequence[Run], theme: Theme) -> Figure:
    # A row is as high as a line of small text while names fit, and lower after that.
    lines = [min(len(run.participants), _MOST_NAMES) for run in runs]
    heights = [max(0.9, 0.18 * count) for count in lines]
    figure = new_figure(theme, sum(heights) + 0.75 * len(runs))
    grid = figure.subplots(len(runs), 1, squeeze=False, height_ratios=heights)
    rows: list[Axes] = list(grid[:, 0])
    for index, (axes, run) in enumerate(zip(rows, runs, strict=True)):
        dress(axes, theme, None)
        filled = _presence(run)
        title(axes, theme, shorten(run.label), _crowd(filled) if filled.size else "")
        if not filled.size:
            apologise(axes, theme, "no release recorded")
            continue
        _draw_presence(axes, run, filled, theme, theme.colour(index))
    if runs[-1].releases:
        rows[-1].set_xlabel("release")
    return figure


def _draw_presence(
    axes: Axes, run: Run, filled: npt.NDArray[np.float64], theme: Theme, colour: str
) -> None:
    names, releases = run.participants, len(run.releases)
    width = -(-releases // _MOST_COLUMNS)
    cells = _merge_columns(filled, width)
    edges = np.append(np.arange(0, releases, width), releases) + 0.5
    axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        cells,
        cmap=LinearSegmentedColormap.from_list("presence", [theme.grid, colour]),
        vmin=0.0,
        vmax=cells.max(),
    )
    axes.hlines(
        np.arange(1, len(names)) - 0.5, 0.5, releases + 0.5, theme.paper, linewidth=1.5
    )
    if releases <= _MOST_PARTED_COLUMNS:
        axes.vlines(edges, -0.5, len(names) - 0.5, theme.paper, linewidth=1.2)
    every = -(-len(names) // _MOST_NAMES)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(0, len(names), every))
    axes.set_yticklabels(
        [shorten(name) for name in names[::every]], color=theme.ink, parse_math=False
    )
    axes.set_xlim(0.5, releases + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    for row in range(0, len(names), every):
        axes.text(
            1.01,
            row,
            percent(filled[row].mean()),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=SIZES["remark"],
            color=theme.muted,
        )
