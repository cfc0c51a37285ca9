"""A run and its directory: starts, saves, resumes and finishes.

The same run without protection is what it may be compared with.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import hre_torch
from hre_torch.app.audit import TranscriptWriter
from hre_torch.app.recipes import Recipe, load_recipe
from hre_torch.app.training.assembly import load_recipe_data
from hre_torch.app.training.estimate import Estimate, estimate_recipe
from hre_torch.app.training.evaluation import weights_file
from hre_torch.app.training.run_directory import RunDirectory
from hre_torch.app.training.runner import Runner
from hre_torch.errors import UnprotectedWarning
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import TaskConfig

__all__ = ["Training", "plain_twin", "twin_path"]


def plain_twin(recipe: Recipe, config: TaskConfig) -> Recipe:
    """Return the recipe whose weights must equal those of `recipe` in every bit.

    Defaults that depend on the suite are those of the task that was run.

    Args:
        recipe: what was run.
        config: the task that was made for it.
    """
    return recipe.model_copy(
        update={
            "suite": "plain",
            "min_contributions": config.min_contributions,
            "max_additions": config.max_additions,
            "workers": 1,
        }
    )


def twin_path(path: Path) -> Path:
    """Return where the plain twin of the run in a directory is written."""
    return path.with_name(f"{path.name}-plain")


# Seconds between two checkpoints. One takes about as long as a push does.
_SAVE_EVERY: Final = 60.0


class Training:
    """A run that is written to its directory; a context manager.

    Made by `start` or `resume`. Whoever wants to watch adds to `runner.listeners`.

    Args:
        recipe: what to run.
        directory: where to.
        runner: the run, at its beginning or where it stopped.
        predicted: what it will cost.

    Attributes:
        save_every: seconds between two checkpoints.
        stop: set it, in a signal handler perhaps, to stop after the present step.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory,
        runner: Runner,
        predicted: Estimate,
    ) -> None:
        self.recipe = recipe
        self.directory = directory
        self.runner = runner
        self.predicted = predicted
        self.save_every = _SAVE_EVERY
        self.stop = threading.Event()
        self._saved_at = runner.seconds
        servers = runner.federation.servers
        self._transcript = TranscriptWriter(directory.transcript_path, servers.task)
        servers.taps.append(self._transcript)
        runner.listeners.append(directory.append)

    @classmethod
    def start(cls, recipe: Recipe, out: str | Path) -> Training:
        """Make keys and servers for a new run.

        Raises:
            RunDirectoryError: `out` is not empty, or cannot be written.
            ConfigurationError: the recipe cannot work, or data is missing; nothing was
                written then.
        """
        text = recipe.to_yaml()
        RunDirectory.require_free(out, text)
        data = load_recipe_data(recipe)
        predicted = estimate_recipe(recipe, data)
        runner = Runner(recipe, data)
        _warn_if_unprotected(recipe)
        training = cls(recipe, RunDirectory.create(out, text), runner, predicted)
        training.directory.append(
            {
                "event": "start",
                "recipe": recipe.model_dump(),
                "parameters": runner.federation.task.config.n_params,
                "predicted": predicted.record(),
            }
        )
        training._save()
        return training

    @classmethod
    def resume(cls, out: str | Path, recipe: Recipe | None = None) -> Training:
        """Go on with an interrupted run.

        Args:
            out: its directory.
            recipe: what it must be a run of; by default whatever it is a run of.

        Raises:
            RunDirectoryError: it cannot be resumed, or is the run of another recipe.
            ConfigurationError: data is missing.
        """
        directory = RunDirectory.open(out)
        if recipe is not None:
            directory.require(recipe.to_yaml())
        recipe = load_recipe(directory.recipe_path)
        state = directory.read_checkpoint()
        data = load_recipe_data(recipe)
        runner = Runner(recipe, data, state=state)
        _warn_if_unprotected(recipe)
        return cls(recipe, directory, runner, estimate_recipe(recipe, data))

    def run(self) -> dict[str, Any] | None:
        """Train to the end, saving now and then.

        Returns:
            The summary; None if `stop` was set before the end, and the run was saved.
        """
        for _ in self.runner.steps():
            stopped = self.stop.is_set()
            if stopped or self.runner.seconds - self._saved_at >= self.save_every:
                self._save()
            if stopped:
                return None
        return self._finish()

    def close(self) -> None:
        """End the run's processes and close its files."""
        self.runner.close()
        self._transcript.close()
        self.directory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _save(self) -> None:
        self._transcript.flush()
        self.directory.write_checkpoint(self.runner.state())
        self._saved_at = self.runner.seconds

    def _finish(self) -> dict[str, Any]:
        runner, config = self.runner, self.runner.federation.task.config
        weights = weights_file(runner.released_model(), self.recipe.buffers)
        summary = {
            "suite": config.suite,
            "profile": config.profile,
            "participants": self.recipe.participants,
            "parameters": config.n_params,
            "min_contributions": config.min_contributions,
            "combine": config.combine,
            "epochs": self.recipe.train.epochs,
            "local_steps": runner.global_step,
            **runner.totals(),
            "seconds": runner.seconds,
            "test_accuracy": runner.score.accuracy if runner.score else None,
            "test_loss": runner.score.loss if runner.score else None,
            "phases_ms": runner.book.milliseconds(),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "hre_torch": hre_torch.__version__,
        }
        before = runner.newest_session.previous_digest
        runner.tell("end", summary=summary, previous_model=before.hex())
        self._transcript.flush()
        federation = runner.federation
        self.directory.finish(
            summary, weights, cfg=federation.task.cfg, operator=federation.operator
        )
        return summary


def _warn_if_unprotected(recipe: Recipe) -> None:
    suite = SUITES.get(recipe.suite)
    if suite.baseline:
        warnings.warn(
            f"suite {suite.name!r} is for comparison only; it protects "
            f"{suite.protects}",
            UnprotectedWarning,
            stacklevel=3,
        )
