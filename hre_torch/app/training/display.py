"""What a person sees while a recipe is being trained.

`TrainingDisplay` is fed the records that go to ``metrics.jsonl``. On a terminal it
draws a progress bar and one table row per participant; elsewhere (a log file, a pipe)
it prints a plain line now and then. It only stores what it is told and redraws a few
times a second, so feeding it costs microseconds. It starts no thread: processes that
do the cryptography may be forked from the one that shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["TrainingDisplay"]

# Seconds between two drawings of the table, and between two plain lines. Where drawing
# is slow, it still takes no more than one part in `_SHARE` of the time.
_REDRAW_EVERY: Final = 0.25
_LINE_EVERY: Final = 10.0
_SHARE: Final = 25.0

# Lines that are not participants: title, bar, accuracy, what is lost, two headings,
# rules, one spare.
_OTHER_LINES: Final = 11

# Short headings: nine phases and seven other columns share one terminal line.
_HEADINGS: Final = {
    "train": "train",
    "quantise": "quant.",
    "encrypt": "encr.",
    "submit": "submit",
    "check": "check",
    "log": "log",
    "add": "add",
    "first_phase": "1st ph.",
    "second_phase": "2nd ph.",
    "fetch": "fetch",
    "open": "open",
    "load": "load",
}

# Characters that a row needs without phases, and more for each phase. A terminal too
# narrow for both gets the mean phases of all participants below the table, one too
# narrow for a row does without the bytes.
_ROW_WIDTH: Final = 77
_PHASE_WIDTH: Final = 9
_BYTES: Final = ("sent", "received")

# Above, right, below, left: aligned with the first column of the table.
_INDENT: Final = (0, 0, 0, 1)

# Stands where nothing has been reported yet.
_NOTHING: Final = "-"


class TrainingDisplay:
    """Shows a training run while it happens; a context manager.

    >>> quiet = Console(quiet=True)
    >>> with TrainingDisplay("digits", ["p0"], 100, {}, console=quiet) as display:
    ...     display.update({"event": "push", "participant": "p0", "global_step": 1})

    Args:
        recipe_name: Title of the run.
        participants: Names in the order of the rows.
        total_steps: Local steps of all participants together, ``total_steps >= 0``.
        predicted: The estimate; its ``seconds`` stands for the remaining time until
            the run can be judged by itself.
        console: Where to draw; standard error by default, so that results on standard
            output can be piped.
        clock: Returns seconds; replaced in tests.
    """

    def __init__(
        self,
        recipe_name: str,
        participants: Sequence[str],
        total_steps: int,
        predicted: Mapping[str, Any],
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = recipe_name
        self._rows: dict[str, dict[str, Any]] = {name: {} for name in participants}
        self._phases: dict[str, dict[str, float]] = {name: {} for name in participants}
        self._server_phases: dict[str, float] = {}
        self._evaluation: Mapping[str, Any] = {}
        self._total = total_steps
        self._step = 0
        self._predicted = predicted
        self._console = Console(stderr=True) if console is None else console
        self._clock = clock
        self._started = clock()
        self._first: tuple[float, int] | None = None
        self._due = float("-inf")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._started = self._clock()
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, auto_refresh=False, get_renderable=self.render
            )
            self._live.start(refresh=True)
        else:
            self._console.print(f"training {self._title}", markup=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            # `stop` draws once more: what stays on the screen is the last state.
            self._live.stop()
            self._live = None
        elif kind is None:
            took = _clock_text(self._clock() - self._started)
            self._print_line(f"trained for {took} · {self._accuracy_text()}")

    def update(self, record: Mapping[str, Any]) -> None:
        """Take in one record of ``metrics.jsonl``.

        Args:
            record: A record of any event; unknown events and missing keys are passed
                over. A ``phases`` mapping in it, mean milliseconds per phase, belongs
                to the record's participant, or to the servers where it names none.
        """
        name = record.get("participant")
        phases = record.get("phases", {})
        if name in self._rows:
            self._rows[name].update(record)
            self._phases[name].update(phases)
        else:
            self._server_phases.update(phases)
        if "global_step" in record:
            self._step = max(self._step, record["global_step"])
            if self._first is None:
                self._first = (self._clock(), self._step)
        evaluated = record.get("event") == "evaluation"
        if evaluated:
            self._evaluation = record
        self._show(evaluated)

    def render(self) -> RenderableType:
        """Return the current state as something rich can draw."""
        phases = self._phase_names()
        wide = self._console.width >= _ROW_WIDTH + _PHASE_WIDTH * len(phases)
        parts = [self._heading(), self._participants(phases if wide else [])]
        below = self._server_phases if wide else self._mean_phases()
        if below:
            title = "servers ms" if wide else "mean ms"
            parts += _phase_tables(title, below, self._console.width)
        return Group(*parts)

    def _show(self, evaluated: bool) -> None:
        now = self._clock()
        if self._live is not None:
            if now >= self._due:
                self._live.refresh()
                took = self._clock() - now
                self._due = now + max(_REDRAW_EVERY, _SHARE * took)
        elif evaluated:
            self._due = now + _LINE_EVERY
            self._print_line(f"{self._progress_line()} · {self._accuracy_text()}")
        elif now >= self._due:
            self._due = now + _LINE_EVERY
            self._print_line(self._progress_line())

    def _print_line(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _progress_line(self) -> str:
        reported = [row.get("loss") for row in self._rows.values()]
        losses = [loss for loss in reported if loss is not None]
        loss = f" · loss {sum(losses) / len(losses):.4f}" if losses else ""
        return (
            f"step {self._step:,} of {self._total:,}{loss} · version {self._version()}"
            f"{self._lost_text(' · ')} · {self._times()}"
        )

    def _lost_text(self, separator: str = "") -> str:
        """Return what was given up since somebody spoiled a release; usually nothing.

        Every participant counts the same releases, and the updates that are its own.
        """
        rows = self._rows.values()
        rejected = max((row.get("rejected", 0) for row in rows), default=0)
        spent = sum(row.get("spent", 0) for row in rows)
        if not rejected:
            return ""
        return f"{separator}spoiled releases: {rejected}, updates lost: {spent}"

    def _version(self) -> int:
        return max((row.get("version", 0) for row in self._rows.values()), default=0)

    def _times(self) -> str:
        elapsed = f"{_clock_text(self._clock() - self._started)} elapsed"
        remaining = self._remaining()
        if remaining is None or self._step >= self._total:
            return elapsed
        return f"{elapsed}, about {_clock_text(remaining)} left"

    def _remaining(self) -> float | None:
        """Extrapolate from this run's own pace, or fall back on the prediction."""
        now = self._clock()
        # Steps before the first record were made by the run that is being resumed.
        since, before = self._first or (now, 0)
        if self._step > before:
            return (now - since) / (self._step - before) * (self._total - self._step)
        predicted = self._predicted.get("seconds")
        if predicted is None:
            return None
        return max(0.0, float(predicted) - (now - self._started))

    def _accuracy_text(self) -> str:
        accuracy = self._evaluation.get("accuracy")
        if accuracy is None:
            return "test accuracy not measured yet"
        epoch = self._evaluation.get("epoch")
        after = "" if epoch is None else f" after epoch {epoch:g}"
        return f"test accuracy {100.0 * accuracy:.2f} %{after}"

    def _heading(self) -> RenderableType:
        title = Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        progress = Table.grid(padding=(0, 2))
        progress.add_row(
            ProgressBar(
                max(1, self._total), self._step, width=16, complete_style="cyan"
            ),
            Text(f"{self._step:,} of {self._total:,} steps"),
            Text(self._times(), style="dim"),
        )
        accuracy = Text(self._accuracy_text(), style="green")
        lost = [Text(text, style="red")] if (text := self._lost_text()) else []
        return Padding(Group(title, progress, accuracy, *lost), _INDENT)

    def _participants(self, phases: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("participant", no_wrap=True, max_width=16)
        octets = _BYTES if self._console.width >= _ROW_WIDTH else ()
        headings = ("loss", "version", "stale", "pending", *octets)
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for phase in phases:
            heading = _HEADINGS.get(phase, phase)
            table.add_column(f"{heading}\nms", justify="right", no_wrap=True)
        names = list(self._rows)
        room = max(1, self._console.height - _OTHER_LINES)
        for name in names if len(names) <= room else names[: room - 1]:
            cells = [_milliseconds(self._phases[name].get(phase)) for phase in phases]
            own = _cells(self._rows[name])[: len(headings)]
            table.add_row(escape(name), *own, *cells)
        if len(names) > room:
            table.add_row(f"and {len(names) - room + 1} more", style="dim")
        return table

    def _phase_names(self) -> list[str]:
        seen = {phase for phases in self._phases.values() for phase in phases}
        return _in_order(seen)

    def _mean_phases(self) -> dict[str, float]:
        means = dict(self._server_phases)
        for phase in self._phase_names():
            values = [p[phase] for p in self._phases.values() if phase in p]
            means[phase] = sum(values) / len(values)
        return means


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return what a participant's row says besides its name and its phases."""
    loss = row.get("loss")
    sent = ("bytes_up", "bytes_down")
    counts = [
        str(row.get(key, _NOTHING)) for key in ("version", "staleness", "pending")
    ]
    sizes = [decimal(row[key]) if key in row else _NOTHING for key in sent]
    return [_NOTHING if loss is None else f"{loss:.4f}", *counts, *sizes]


def _phase_tables(
    title: str, phases: Mapping[str, float], width: int
) -> list[RenderableType]:
    """Return as many tables below each other as it takes to fit the width."""
    names = _in_order(set(phases))
    fitting = max(1, (width - len(title)) // _PHASE_WIDTH)
    tables: list[RenderableType] = []
    for start in range(0, len(names), fitting):
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        table.add_column("" if start else title, style="dim", min_width=len(title))
        row = names[start : start + fitting]
        for phase in row:
            heading = _HEADINGS.get(phase, phase)
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row("", *(_milliseconds(phases[phase]) for phase in row))
        tables.append(Padding(table, _INDENT))
    return tables


def _in_order(phases: set[str]) -> list[str]:
    known = [phase for phase in _HEADINGS if phase in phases]
    return known + sorted(phases - set(_HEADINGS))


def _milliseconds(value: float | None) -> str:
    """Write milliseconds in at most five characters, the unit being in the heading."""
    if value is None:
        return _NOTHING
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _clock_text(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
