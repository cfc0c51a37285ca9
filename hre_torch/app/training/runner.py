"""Runs a recipe in one thread: everybody's steps in the order of simulated time.

The order of steps, the batches and the initial weights are functions of the recipe, and
suites only carry integers. So a run gives the same weights bit for bit whichever suite
carries them, and whether or not it was interrupted.

Participants may go away in the middle of a run, for a while or for good. Who goes makes
no last push, as a machine that is switched off makes none: what it had not yet pushed
reaches nobody, what it had pushed is released with the others' uploads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from torch import nn

from hre_torch.app.data.load import Data
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.arithmetic import random_state, torch_settings
from hre_torch.app.training.assembly import make_batches, make_federation, make_learners
from hre_torch.app.training.checkpoint import RunState
from hre_torch.app.training.evaluation import Score, evaluate, released_model
from hre_torch.app.training.learner import Learner
from hre_torch.app.training.phases import PhaseBook
from hre_torch.app.training.schedule import Schedule, Turn
from hre_torch.participant.participant import Opened
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Release

__all__ = ["Listener", "Runner", "pauses", "steps_before_going"]


def steps_before_going(recipe: Recipe, steps: Sequence[int]) -> list[int]:
    """Return how many steps each participant takes before it is gone for good.

    Args:
        recipe: says who goes and when.
        steps: how many each would take, shape `(P,)`.
    """
    taken = list(steps)
    for dropout in recipe.train.dropouts:
        if dropout.away is None:
            i = dropout.participant
            taken[i] = int(dropout.after * steps[i])
    return taken


def pauses(recipe: Recipe, steps: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Return participant to the step before which it is away, and how long."""
    return {
        dropout.participant: (
            int(dropout.after * steps[dropout.participant]),
            dropout.away,
        )
        for dropout in recipe.train.dropouts
        if dropout.away is not None
    }


Listener = Callable[[Mapping[str, Any]], None]
"""Told every record of `metrics.jsonl` as it happens."""

_SERVERS: Final = "servers"
# Steps of one participant differ by this much, as on a computer with other work.
_JITTER: Final = 0.1
# Seconds between two records of everybody's phases.
_PHASES_EVERY: Final = 2.0


class Runner:
    """One run of a recipe; a context manager.

    Each participant passes `train.epochs` times over its own images, then pushes what
    is left and waits. At the end everybody who is still there pulls, so that all have
    the same released weights.

    Args:
        recipe: what to run.
        data: the recipe's data.
        state: where an earlier run of the same recipe and data stopped.

    Attributes:
        listeners: told every record.
        federation: servers and sessions.
        learners: the participants in order.
        total_steps: local steps of all participants in the whole run.
        global_step: those that were made.
        book: how long everybody's phases took.
        score: the newest evaluation of released weights; None before the first.

    Raises:
        ConfigurationError: the recipe's settings do not fit together, or to the data.
    """

    def __init__(
        self, recipe: Recipe, data: Data, *, state: RunState | None = None
    ) -> None:
        self.recipe = recipe
        self.listeners: list[Listener] = []
        self.book = PhaseBook(state.phases if state else None)
        self._test = data.test
        speeds = recipe.speeds
        batches = make_batches(recipe, data)
        self._steps_per_epoch = sum(len(share) for share in batches)
        self.federation = make_federation(
            recipe, batches, self.book.observer(_SERVERS), state
        )
        self.learners = make_learners(
            recipe, self.federation, batches, self.book, state
        )
        self.federation.start_workers()
        self.federation.servers.on_release.append(self._tell_release)
        for learner in self.learners:
            learner.session.on_rejection.append(partial(self._tell_rejection, learner))
        steps = [learner.steps for learner in self.learners]
        taken = steps_before_going(recipe, steps)
        self._present = [
            learner
            for learner, least in zip(self.learners, taken, strict=True)
            if learner.steps == least
        ]
        self._schedule = Schedule(
            speeds,
            taken,
            jitter=_JITTER,
            seed=recipe.train.seed,
            pauses=pauses(recipe, steps),
            state=state.schedule if state else None,
        )
        self.total_steps = sum(taken)
        self.global_step = state.global_step if state else 0
        self._evaluations = state.evaluations if state else 0
        self._seconds_before = state.seconds if state else 0.0
        self._random_state = state.random_state if state else None
        self._observe_evaluation = self.book.observer("evaluation")
        self.score: Score | None = None
        self._started: float | None = None
        self._phases_at = self._seconds_before

    @property
    def seconds(self) -> float:
        """Wall-clock time spent training, set-up and interruptions aside."""
        if self._started is None:
            return self._seconds_before
        return self._seconds_before + time.perf_counter() - self._started

    def steps(self) -> Iterator[None]:
        """Run to the end, with a pause after every local step of anybody.

        In a pause `state` may be taken, and a run that is left there can be resumed.
        Torch's number of threads and its random state are the run's until the end.
        """
        self._started = time.perf_counter()
        with torch_settings(self.recipe.train, self._random_state):
            for turn in self._schedule:
                self._take(turn)
                yield
            self._finish()

    def state(self) -> RunState:
        """Return what a resumed run needs; to be called in a pause."""
        running = self._started is not None
        return RunState(
            federation=self.federation.state(),
            schedule=self._schedule.state(),
            learners={learner.name: learner.state() for learner in self.learners},
            evaluations=self._evaluations,
            seconds=self.seconds,
            phases=self.book.totals,
            random_state=(
                random_state(self.recipe.train) if running else self._random_state
            ),
        )

    def released_model(self) -> nn.Module:
        """Return a model with the newest released weights that a participant knows."""
        newest = self._newest
        return released_model(newest.model, newest.session, self.recipe.buffers)

    @property
    def newest_session(self) -> Session:
        """The session that knows the newest release."""
        return self._newest.session

    @property
    def _newest(self) -> Learner:
        return max(self.learners, key=lambda learner: learner.session.version)

    def totals(self) -> dict[str, int]:
        """Return what all participants did together."""
        statistics = [learner.session.statistics for learner in self.learners]
        progress = [learner.optimizer.progress for learner in self.learners]
        return {
            "pushes": sum(s.pushes for s in statistics),
            "pulls": sum(s.pulls for s in statistics),
            "releases": self.federation.servers.version,
            "rejected": max(s.rejected for s in statistics),
            "expired": sum(s.expired for s in statistics),
            "spent": sum(s.spent for s in statistics),
            "held_back": sum(p.held_back for p in progress),
            "saturated": sum(p.saturated for p in progress),
            "clipped": sum(p.clipped for p in progress),
            "skipped_steps": sum(p.skipped_steps for p in progress),
            "bytes_up": sum(s.bytes_up for s in statistics),
            "bytes_down": sum(s.bytes_down for s in statistics),
        }

    def tell(self, event: str, **fields: Any) -> None:
        """Tell every listener what has happened just now.

        Args:
            event: what the record is called.
            fields: what else is in it.
        """
        record = {
            "event": event,
            "global_step": self.global_step,
            "simulated_time": self._schedule.time,
            "seconds": self.seconds,
            **fields,
        }
        for listener in self.listeners:
            listener(record)

    def close(self) -> None:
        """End sessions and worker processes."""
        self.federation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self, turn: Turn) -> None:
        learner = self.learners[turn.participant]
        self.global_step += 1
        with self._exchanges_of(learner):
            learner.step(turn.step)
            if turn.step + 1 == learner.steps:
                learner.flush()
        due = self.recipe.train.evaluate_every * self._steps_per_epoch
        reached = int(self.global_step / due)
        if reached > self._evaluations and self.global_step < self.total_steps:
            self._evaluations = reached
            self._evaluate()
        if self.seconds - self._phases_at >= _PHASES_EVERY:
            self._tell_phases()

    def _finish(self) -> None:
        # Whoever finished early, or was held back, pushes and learns the rest only now.
        for learner in self._present:
            with self._exchanges_of(learner):
                learner.flush()
        behind, known = list(self._present), -1
        while behind and known < (known := self._versions()):
            for learner in behind:
                with self._exchanges_of(learner):
                    learner.pull()
            # Who was the first to say that a release is spoiled hears the verdict now.
            behind = [each for each in behind if each.session.disputed is not None]
        # Nobody uploads upon the last version: what everybody says of it settles it.
        for learner in self._present:
            if learner.session.version > 0 and learner.session.disputed is None:
                learner.session.attest()
        self.federation.servers.conclude()
        self._evaluate()
        self._tell_phases()

    def _versions(self) -> int:
        return sum(learner.session.version for learner in self.learners)

    def _evaluate(self) -> None:
        with self._observe_evaluation("evaluate"):
            score = self.score = evaluate(
                self.released_model(), self._test, self.recipe.train
            )
        totals = self.totals()
        self.tell(
            "evaluation",
            epoch=self.global_step / self._steps_per_epoch,
            version=max(learner.session.version for learner in self.learners),
            accuracy=score.accuracy,
            loss=score.loss,
            bytes_up=totals["bytes_up"],
            bytes_down=totals["bytes_down"],
        )

    @contextmanager
    def _exchanges_of(self, learner: Learner) -> Iterator[None]:
        session, statistics = learner.session, learner.session.statistics
        pushes, pulls = statistics.pushes, statistics.pulls
        releases = statistics.releases
        yield
        if (statistics.pushes, statistics.pulls) == (pushes, pulls):
            return
        fields = {
            "participant": learner.name,
            "local_step": learner.optimizer.progress.local_steps,
            "version": session.version,
            "staleness": session.staleness,
            "pending": session.pending,
            "bytes_up": statistics.bytes_up,
            "bytes_down": statistics.bytes_down,
        }
        if statistics.pushes > pushes:
            self.tell(
                "push",
                loss=learner.take_loss(),
                update_norm=learner.optimizer.progress.update_norm,
                **fields,
            )
        if statistics.pulls > pulls:
            self.tell("pull", releases=statistics.releases - releases, **fields)

    def _tell_release(self, release: Release) -> None:
        servers = self.federation.servers
        bases = [servers.base_version(item.digest) for item in release.uploads]
        self.tell(
            "release",
            version=release.version,
            contributions=len(release.uploads),
            contributors=sorted({item.name for item in release.uploads}),
            staleness=[release.version - 1 - base for base in bases],
        )

    def _tell_rejection(self, learner: Learner, release: Opened) -> None:
        statistics = learner.session.statistics
        self.tell(
            "rejection",
            participant=learner.name,
            version=release.last,
            contributors=sorted({item.name for item in release.uploads}),
            rejected=statistics.rejected,
            spent=statistics.spent,
            in_all_rejected=list(statistics.suspects),
        )

    def _tell_phases(self) -> None:
        self._phases_at = self.seconds
        for learner in self.learners:
            phases = self.book.milliseconds(learner.name)
            self.tell("phases", participant=learner.name, phases=phases)
        self.tell("phases", phases=self.book.milliseconds(_SERVERS))
