"""What one call of each phase costs, beside what was predicted.

The bars are grouped and not stacked: phases are called differently often (a pull merges
several releases, the DSP adds once per upload), so their means do not add up to a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hre_torch.app.report.read import Run
from hre_torch.app.report.theme import (
    SIZES,
    Picture,
    Theme,
    apologise,
    dress,
    duration,
    new_figure,
    shorten,
)

__all__ = ["PHASES", "phase_title", "phases_of", "phases_picture", "predicted_ms"]

# In the order in which an update meets them; who works is said where it is a server.
PHASES: Final = {
    "train": "train",
    "quantise": "quantise",
    "encrypt": "encrypt",
    "submit": "submit",
    "check": "check (DSP)",
    "log": "log (KTS)",
    "add": "add (DSP)",
    "first_phase": "first phase (DSP)",
    "second_phase": "second phase (KTS)",
    "fetch": "fetch",
    "open": "open",
    "load": "load",
    "evaluate": "evaluate",
}

# Free room between two phases, in bars.
_GAP: Final = 0.7


def phase_title(phase: str) -> str:
    """Return the words for a phase; a name not known here is made readable."""
    return PHASES.get(phase, phase.replace("_", " "))


def phases_of(runs: Sequence[Run]) -> list[str]:
    """Return the phases that any of the runs measured, in the order of the work."""
    measured = {phase for run in runs for phase in run.summary.phases_ms}
    known = [phase for phase in PHASES if phase in measured]
    return known + sorted(measured - set(PHASES))


def predicted_ms(run: Run, phase: str) -> float | None:
    """Return what the estimate said about one phase in milliseconds, if it did."""
    phases = run.start.predicted.get("phases_ms")
    value = phases.get(phase) if isinstance(phases, dict) else None
    return float(value) if isinstance(value, int | float) else None


def phases_picture(runs: Sequence[Run]) -> Picture:
    """Describe the figure of the phases of these runs."""
    phases = phases_of(runs)
    predicted = any(predicted_ms(run, phase) for run in runs for phase in phases)
    return Picture(
        name="phases",
        title="Cost per phase",
        caption=(
            "Mean wall-clock time of one call. Phases without a server's name are the "
            "participant's work; DSP is the data service provider, KTS the key "
            "transform server."
            + (" The upright stroke is what was predicted." if predicted else "")
        ),
        alt="Mean time of one call of each phase, horizontal bars. "
        + " ".join(_sentence(run, phases) for run in runs),
        draw=lambda theme: _draw(runs, phases, theme),
    )


def _sentence(run: Run, phases: Sequence[str]) -> str:
    costs = [
        f"{phase_title(phase)} {duration(run.summary.phases_ms[phase] / 1000.0)}"
        for phase in phases
        if phase in run.summary.phases_ms
    ]
    return f"{run.label}: {', '.join(costs) or 'nothing measured'}."


def _draw(runs: Sequence[Run], phases: Sequence[str], theme: Theme) -> Figure:
    bars = sum(phase in run.summary.phases_ms for run in runs for phase in phases)
    lines = bars + _GAP * len(phases)
    figure = new_figure(theme, max(2.0, 0.9 + 0.21 * lines))
    axes = figure.subplots()
    dress(axes, theme, "x")
    if not phases:
        apologise(axes, theme, "no phase measured")
        return figure
    place, centres = 0.0, []
    for phase in phases:
        first = place
        for index, run in enumerate(runs):
            if phase in run.summary.phases_ms:
                _draw_bar(axes, place, run, phase, theme, theme.colour(index))
                if len(runs) > 1:
                    _draw_key(axes, place, theme.colour(index))
                place += 1.0
        centres.append((first + place - 1.0) / 2.0)
        place += _GAP
    axes.set_ylim(lines - _GAP / 2.0 - 0.5, -_GAP / 2.0 - 0.5)
    axes.set_yticks(centres)
    axes.set_yticklabels([phase_title(phase) for phase in phases], color=theme.ink)
    axes.tick_params(axis="y", pad=14 if len(runs) > 1 else 6)
    _scale(axes, runs)
    if len(runs) > 1:
        _name_runs(figure, runs, theme)
    return figure


def _draw_bar(
    axes: Axes, place: float, run: Run, phase: str, theme: Theme, colour: str
) -> None:
    milliseconds = end = run.summary.phases_ms[phase]
    text = duration(milliseconds / 1000.0)
    axes.barh(place, milliseconds, 0.8, color=colour)
    predicted = predicted_ms(run, phase)
    if predicted is not None:
        end = max(end, predicted)
        text += f"  (predicted {duration(predicted / 1000.0)})"
        axes.vlines(predicted, place - 0.5, place + 0.5, theme.ink, linewidth=1.6)
    axes.annotate(
        text,
        (end, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=SIZES["remark"],
        color=theme.ink,
    )


def _draw_key(axes: Axes, place: float, colour: str) -> None:
    """Put the run's colour before its bar, which may be too short to show any."""
    axes.annotate(
        "■",
        (0.0, place),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=SIZES["remark"],
        color=colour,
    )


def _scale(axes: Axes, runs: Sequence[Run]) -> None:
    largest = max(
        max(milliseconds, predicted_ms(run, phase) or 0.0)
        for run in runs
        for phase, milliseconds in run.summary.phases_ms.items()
    )
    seconds = largest >= 2000.0
    divisor = 1000.0 if seconds else 1.0
    # A third more than the longest bar leaves room for its label.
    axes.set_xlim(0.0, 1.33 * largest or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / divisor:,g}"))
    axes.set_xlabel(f"time of one call ({'s' if seconds else 'ms'})")


def _name_runs(figure: Figure, runs: Sequence[Run], theme: Theme) -> None:
    swatches = [Patch(color=theme.colour(index)) for index in range(len(runs))]
    legend = figure.legend(
        swatches,
        ["run"] * len(runs),
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=SIZES["label"],
        labelcolor=theme.ink,
        handlelength=0.9,
        handleheight=0.9,
    )
    # Set afterwards: a legend passes over names that begin with an underscore, and
    # takes a dollar sign for mathematics.
    for text, run in zip(legend.get_texts(), runs, strict=True):
        text.set_parse_math(False)
        text.set_text(shorten(run.label))
