"""The tables that commands end with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hre_torch.app.report.phases import phase_title, phases_of
from hre_torch.app.report.read import Run
from hre_torch.app.report.tables import identical_weights
from hre_torch.app.report.theme import duration, number, percent, size
from hre_torch.app.training.estimate import Estimate
from hre_torch.cli.screen import printable

__all__ = ["estimate_tables", "runs_table"]


def runs_table(runs: Sequence[Run]) -> RenderableType:
    """Show one finished run, or one beside its plain twin with the ratio of costs."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(escape(printable(run.label)), justify="right", overflow="fold")
    if len(runs) == 2:
        table.add_column("ratio", justify="right")
    for title, key, text in (
        ("suite", "suite", str),
        ("test accuracy", "test_accuracy", _accuracy),
        ("training time", "seconds", duration),
        ("pushes", "pushes", number),
        ("pulls", "pulls", number),
        ("releases", "releases", number),
        ("bytes sent", "bytes_up", size),
        ("bytes received", "bytes_down", size),
    ):
        values = [getattr(run.summary, key) for run in runs]
        _add(table, title, values, text, ratio=text in (duration, size))
    table.add_section()
    for phase in phases_of(runs):
        values = [run.summary.phases_ms.get(phase) for run in runs]
        _add(
            table, f"one call: {phase_title(phase)}", values, _milliseconds, ratio=True
        )
    return Group(table, _verdict(runs)) if len(runs) == 2 else table


def estimate_tables(estimate: Estimate) -> RenderableType:
    """Show what a recipe will cost."""
    sizes = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    sizes.add_column("predicted")
    sizes.add_column("once", justify="right")
    sizes.add_column("whole run", justify="right")
    sizes.add_row("parameters", number(estimate.parameters), "")
    sizes.add_row("pushes", "", number(estimate.pushes))
    sizes.add_row("pulls", "", number(estimate.pulls))
    sizes.add_row("releases", "", number(estimate.releases))
    sizes.add_row("bytes sent", size(estimate.upload_bytes), size(estimate.bytes_up))
    sizes.add_row(
        "bytes received", size(estimate.download_bytes), size(estimate.bytes_down)
    )
    sizes.add_row("between the servers", size(estimate.server_bytes), "")
    sizes.add_section()
    for phase, milliseconds in estimate.phases_ms.items():
        sizes.add_row(phase_title(phase), _milliseconds(milliseconds), "")
    sizes.add_row("all cryptography", "", duration(estimate.seconds))
    sizes.add_section()
    for role, octets in estimate.table_bytes.items():
        sizes.add_row(f"tables in memory: {role}", size(octets), "")
    for role, seconds in estimate.table_seconds.items():
        sizes.add_row(f"to build them: {role}", duration(seconds), "")
    if estimate.recipient_table_bytes:
        sizes.add_row(
            "of them for one recipient", size(estimate.recipient_table_bytes), ""
        )
        sizes.add_row("to build those", duration(estimate.recipient_table_seconds), "")
    sizes.add_row(
        "vectors in memory: each participant", size(estimate.participant_bytes), ""
    )
    return sizes


def _add(
    table: Table,
    title: str,
    values: Sequence[Any],
    text: Callable[[Any], str],
    *,
    ratio: bool,
) -> None:
    cells = ["-" if value is None else text(value) for value in values]
    if len(values) == 2:
        known = ratio and None not in values and values[1] > 0
        cells.append(f"{values[0] / values[1]:.1f}" if known else "")
    table.add_row(*(escape(printable(cell)) for cell in (title, *cells)))


def _verdict(runs: Sequence[Run]) -> Text:
    if identical_weights(runs):
        return Text("The weights of both runs are equal in every bit.", style="green")
    return Text("The weights of the two runs differ.", style="bold red")


def _accuracy(value: float) -> str:
    return percent(value)


def _milliseconds(value: float) -> str:
    return duration(value / 1000.0)
