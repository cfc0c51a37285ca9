"""How every figure of the report looks, on light and on dark paper.

Figures are made through `matplotlib.figure.Figure` and drawn by the Agg canvas, never
through pyplot: no global state is touched, so a report can be written from a thread or
from inside somebody else's program. Run colours are those of Okabe and Ito (2008,
"Color Universal Design"), which people with the common colour-vision deficiencies can
tell apart; each run also has its own marker, so that colour never carries alone.

**Units** are those a person reads at a glance. Text for single numbers (`duration`,
`size`, `percent`, `number`) and, for axes, the divisor that turns raw values into the
largest unit that still leaves readable ticks (`second_unit`, `byte_unit`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.filesize import decimal

__all__ = [
    "DARK",
    "LIGHT",
    "SIZES",
    "Picture",
    "Theme",
    "apologise",
    "byte_unit",
    "dress",
    "duration",
    "marker",
    "new_figure",
    "number",
    "percent",
    "png",
    "second_unit",
    "shorten",
    "size",
    "title",
]

# Inches. On the page, whose column is about this wide, text keeps its size in points;
# 180 dots per inch is twice what the column has, so that dense screens stay sharp.
_WIDTH: Final = 9.4
_DOTS_PER_INCH: Final = 180

# Points: text of labels and titles, ticks, and small remarks.
SIZES: Final = {"title": 11.0, "label": 10.0, "tick": 9.0, "remark": 8.5}

# Characters: of the figure's width a name may take a fifth.
_LONGEST_NAME: Final = 27

# matplotlib's marker and the glyph of the same shape for labels.
_MARKERS: Final = (
    ("o", "●"),
    ("s", "■"),
    ("^", "▲"),
    ("D", "◆"),
    ("v", "▼"),
    ("*", "★"),
)


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of paper, text and runs.

    Attributes:
        paper: Background of figure and page card.
        ink: Text.
        muted: Secondary text and axis lines; at least 4.5:1 against `paper`.
        grid: Grid lines and empty cells.
        colours: One per run, in order; they start again after the last.
    """

    paper: str
    ink: str
    muted: str
    grid: str
    colours: tuple[str, ...]

    def colour(self, index: int) -> str:
        """Return the colour of the run at position `index`."""
        return self.colours[index % len(self.colours)]


LIGHT: Final = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#5b646e",
    grid="#e3e7eb",
    colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK: Final = Theme(
    paper="#171b21",
    ink="#e8ebee",
    muted="#9aa4af",
    grid="#2c333c",
    colours=("#56b4e9", "#e69f00", "#1dbf92", "#dd94bc", "#f0e442", "#f0732b"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the report with the words that go with it.

    Attributes:
        name: Stem of the PNG file.
        title: Heading on the page.
        caption: What to look for, for everybody.
        alt: What the figure shows, for who cannot see it.
        draw: Draws the figure in a theme.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]


def marker(index: int) -> tuple[str, str]:
    """Return matplotlib's marker of the run at position `index`, and its glyph."""
    # Shifted by one each time the colours start again: 36 runs differ in one or both.
    return _MARKERS[(index + index // len(_MARKERS)) % len(_MARKERS)]


def new_figure(theme: Theme, height: float) -> Figure:
    """Return an empty figure of the report's width and of `height` inches."""
    figure = Figure(
        figsize=(_WIDTH, height),
        dpi=_DOTS_PER_INCH,
        facecolor=theme.paper,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    )
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, theme: Theme, grid: Literal["x", "y", "both"] | None) -> None:
    """Give axes the report's look: no box, quiet grid, readable ticks."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
    axes.tick_params(
        colors=theme.muted, labelsize=SIZES["tick"], length=3, which="both"
    )
    axes.tick_params(axis="y", length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(theme.muted)
        axis.label.set_fontsize(SIZES["label"])
    if grid is not None:
        axes.grid(axis=grid, color=theme.grid, linewidth=0.8)


def shorten(name: str) -> str:
    """Cut the middle out of a name that would push the figure aside.

    >>> shorten("mnist-mlp-with-thirty-participants-seed-4")
    'mnist-mlp-with-…ants-seed-4'
    """
    return name if len(name) <= _LONGEST_NAME else f"{name[:15]}…{name[-11:]}"


def title(axes: Axes, theme: Theme, text: str, remark: str = "") -> None:
    """Write a title flush left, and a remark flush right on the same line."""
    # Names come from file names and recipes: a dollar sign in them is no mathematics.
    axes.set_title(
        text,
        loc="left",
        fontsize=SIZES["title"],
        fontweight="bold",
        color=theme.ink,
        parse_math=False,
    )
    if remark:
        axes.set_title(
            remark,
            loc="right",
            fontsize=SIZES["remark"],
            color=theme.muted,
            parse_math=False,
        )


def apologise(axes: Axes, theme: Theme, text: str) -> None:
    """Say inside empty axes why there is nothing to see."""
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=SIZES["label"],
        color=theme.muted,
    )
    axes.set_xticks([])
    axes.set_yticks([])


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the page beside the
        # figure writes it out, so a warning would help nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


_SECOND_UNITS: Final = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))
_BYTE_UNITS: Final = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))

# An axis that ends below 2 of its unit has ticks such as 0.25; one unit smaller reads
# better.
_LEAST_AXIS_END: Final = 2.0


def duration(seconds: float) -> str:
    """Return a duration with two or three significant digits and its unit.

    Args:
        seconds: A duration, ``0 <= seconds``.

    Returns:
        Milliseconds below one second, then seconds, minutes and hours.

    >>> [duration(s) for s in (0, 0.00042, 0.041, 2.93, 200, 3900)]
    ['0 ms', '0.42 ms', '41 ms', '2.9 s', '3 min 20 s', '1 h 05 min']
    """
    milliseconds = 1000.0 * seconds
    if milliseconds == 0:
        return "0 ms"
    if milliseconds < 0.01:
        return "< 0.01 ms"
    if milliseconds < 1:
        return f"{milliseconds:.2f} ms"
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(count: float) -> str:
    """Return a number of bytes in decimal units.

    >>> [size(c) for c in (532, 875_000, 20_100_000)]
    ['532 bytes', '875.0 kB', '20.1 MB']
    """
    return decimal(round(count))


def percent(fraction: float) -> str:
    """Return a fraction in [0, 1] as per cent with one decimal.

    >>> percent(0.9667)
    '96.7 %'
    """
    return f"{100.0 * fraction:.1f} %"


def number(value: float) -> str:
    """Return a count with thousands separated, or a real number with four digits.

    >>> number(109386), number(0.0321987)
    ('109,386', '0.0322')
    """
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def second_unit(largest: float) -> tuple[float, str]:
    """Return divisor and name of the unit for an axis of seconds up to `largest`."""
    return _axis_unit(largest, _SECOND_UNITS)


def byte_unit(largest: float) -> tuple[float, str]:
    """Return divisor and name of the unit for an axis of bytes up to `largest`.

    >>> byte_unit(20_100_000)
    (1000000.0, 'MB')
    """
    return _axis_unit(largest, _BYTE_UNITS)


def _axis_unit(
    largest: float, units: tuple[tuple[float, str], ...]
) -> tuple[float, str]:
    chosen = units[0]
    for unit in units:
        if largest / unit[0] >= _LEAST_AXIS_END:
            chosen = unit
    return chosen
