"""`hre-torch train`, `estimate` and `report`.

Whatever needs torch is imported when a command runs: the servers' commands start where
torch is not installed.
"""

from __future__ import annotations

import shlex
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hre_torch.cli.screen import messages, results, say, tell
from hre_torch.errors import RecipeError, UnprotectedWarning

if TYPE_CHECKING:
    from hre_torch.app.training.launch import Training

__all__ = ["estimate", "report", "train"]

_EXIT_INTERRUPTED: Final = 130


class Twin(StrEnum):
    """What a run can be compared with."""

    PLAIN = "plain"


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--override", metavar="KEY=VALUE", help="Change a key of the recipe."
    ),
]


def train(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe, a YAML file.")] = None,
    override: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory to make; runs/RECIPE-TIME if left out."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with an interrupted run.")
    ] = None,
    compare: Annotated[
        Twin | None,
        typer.Option(help="Run it unprotected too, and compare weights and cost."),
    ] = None,
    tensorboard: Annotated[
        bool | None,
        typer.Option(help="Write TensorBoard scalars; if it is installed, by default."),
    ] = None,
) -> None:
    """Train a recipe, every update encrypted; Ctrl-C stops where it can be resumed."""
    from hre_torch.app.report.read import read_runs
    from hre_torch.cli.tables import runs_table

    training = _opened(recipe, override or [], out, resume)
    watched = [training]
    finished = [_watched(training, tensorboard, compare)]
    if compare:
        watched.append(_twin_of(training))
        finished.append(_watched(watched[1], tensorboard))
    results.print(runs_table(read_runs(finished)))
    shown = " ".join(shlex.quote(str(path)) for path in finished)
    tell(f"Written to {shown}")
    say(f"hre-torch report {shown}", title="figures", style="dim")
    for run in watched:
        key = run.runner.federation.task.roster.operator.hex()
        path = shlex.quote(str(run.directory.path))
        say(f"hre-torch audit {path} --operator {key}", title="checks", style="dim")


def estimate(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    override: Overrides = None,
    parameters: Annotated[
        int | None,
        typer.Option(help="Predict for a model of that size, whatever it will be."),
    ] = None,
) -> None:
    """Predict bytes, seconds and memory of a recipe before training it."""
    from hre_torch.app.recipes import load_recipe
    from hre_torch.app.training.assembly import load_recipe_data
    from hre_torch.app.training.estimate import estimate_recipe
    from hre_torch.cli.tables import estimate_tables

    chosen = load_recipe(recipe, override or [])
    data = load_recipe_data(chosen)
    predicted = estimate_recipe(chosen, data, parameters_of_model=parameters)
    results.print(estimate_tables(predicted))


def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Finished run directories.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; report/ in the first of them if left out."),
    ] = None,
) -> None:
    """Draw accuracy and cost of finished runs: PNG figures and one HTML page."""
    from hre_torch.app.report import write_report

    files = write_report(run_dirs, out or run_dirs[0] / "report")
    for path in (files.page, *files.figures):
        tell(str(path))


def _opened(
    path: Path | None, overrides: list[str], out: Path | None, resume: Path | None
) -> Training:
    from hre_torch.app.recipes import load_recipe
    from hre_torch.app.training.launch import Training

    recipe = None if path is None else load_recipe(path, overrides)
    if resume is not None:
        if out is not None or (overrides and path is None):
            raise RecipeError(
                "--resume goes on with the recipe in its directory, in that directory: "
                "leave --out and -o away, or start a new run with them"
            )
        return Training.resume(resume, recipe)
    if path is None or recipe is None:
        raise RecipeError(
            "name a recipe, such as `hre-torch train recipes/digits_mlp.yaml`, or an "
            "interrupted run, `hre-torch train --resume DIR`"
        )
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Training.start(recipe, out or Path("runs") / f"{path.stem}-{stamp}")


def _twin_of(training: Training) -> Training:
    from hre_torch.app.training.launch import Training, plain_twin, twin_path

    config = training.runner.federation.task.config
    with warnings.catch_warnings():
        # Whoever asks for the comparison knows.
        warnings.simplefilter("ignore", UnprotectedWarning)
        return Training.start(
            plain_twin(training.recipe, config), twin_path(training.directory.path)
        )


def _watched(
    training: Training, tensorboard: bool | None, compare: Twin | None = None
) -> Path:
    """Run to the end in front of a display; return the run directory."""
    from hre_torch.app.training.display import TrainingDisplay
    from hre_torch.protocol.suites import SUITES

    runner, path = training.runner, training.directory.path
    suite = SUITES.get(training.recipe.suite)
    if not suite.baseline:
        title = f"suite {suite.name} protects"
        say(suite.protects, title=title, style="bold green", prose=True)
    again = ["hre-torch", "train", "--resume", str(path)]
    again += ["--compare", compare.value] if compare else []
    with ExitStack() as stack:
        stack.enter_context(training)
        _add_tensorboard(stack, training, tensorboard)
        stack.enter_context(_stopping(training))
        display = TrainingDisplay(
            path.name,
            runner.federation.names,
            runner.total_steps,
            training.predicted.record(),
            console=messages,
        )
        runner.listeners.append(display.update)
        stack.enter_context(display)
        try:
            finished = training.run() is not None
        except KeyboardInterrupt:
            finished = False
    if not finished:
        say(f"{shlex.join(again)}", title="stopped; go on with", style="bold yellow")
        raise typer.Exit(_EXIT_INTERRUPTED)
    return path


def _add_tensorboard(stack: ExitStack, training: Training, wanted: bool | None) -> None:
    from hre_torch.app.training.tensorboard import (
        TensorBoardWriter,
        tensorboard_is_installed,
    )

    if wanted is None:
        wanted = tensorboard_is_installed()
    if wanted:
        writer = TensorBoardWriter(
            training.directory.tensorboard_path,
            purge_step=training.runner.global_step + 1,
        )
        training.runner.listeners.append(stack.enter_context(writer).update)


@contextmanager
def _stopping(training: Training) -> Iterator[None]:
    """Stop after the present step at the first Ctrl-C, at once at the second."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def stop(number: int, frame: object) -> None:
        training.stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
