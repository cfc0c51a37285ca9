"""One participant of a recipe on its own machine, against servers elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.app.data.load import Data
from hre_torch.app.data.partition import Batches
from hre_torch.app.models import build_model
from hre_torch.app.participant_checkpoint import Checkpoint, Remembered, Sent
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.arithmetic import (
    random_state,
    recipe_model,
    restore_random_state,
)
from hre_torch.app.training.assembly import load_recipe_data, make_batches, steps_of
from hre_torch.app.training.checkpoint import LearnerState, recipe_digest
from hre_torch.app.training.evaluation import evaluate, released_model
from hre_torch.app.training.learner import Learner
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.errors import LayoutError, RecipeError
from hre_torch.observer import PhaseTimer
from hre_torch.optim.optimizer import without_local
from hre_torch.optim.proposal import propose_task
from hre_torch.participant.session import Session
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.task import TaskConfig

__all__ = ["Participation", "check_recipe", "propose_recipe", "train_participant"]

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Participation:
    """What came out of one participant's training.

    Attributes:
        accuracy: of the released weights on the test images.
        version: newest release that was applied.
        weights: released weights at scale 2^f.
    """

    accuracy: float
    version: int
    weights: npt.NDArray[np.int64]


def propose_recipe(
    recipe: Recipe,
    roster: Roster,
    parameters: Parameters,
    profile: str,
    *,
    start: npt.NDArray[np.int64] | None = None,
) -> tuple[TaskConfig, npt.NDArray[np.int64]]:
    """Return the task that a recipe means for a roster, and its first weights.

    Args:
        recipe: what is trained.
        roster: who takes part.
        parameters: the modulus profile that `profile` names.
        profile: its name or path.
        start: weights to start from, released by an earlier task with the same model;
            the recipe's own otherwise.

    Raises:
        RecipeError: the recipe is for another number of participants, or weights
            their updates without a bound.
        LayoutError, TaskError: model, roster and numbers do not fit.
    """
    if recipe.participants != len(roster.participants):
        raise RecipeError(
            f"the recipe is for {recipe.participants} participants, the roster has "
            f"{len(roster.participants)}; change `participants`"
        )
    if recipe.combination == "weighted" and recipe.max_samples is None:
        raise RecipeError(
            "combine is 'weighted', so the task must say how many samples may stand "
            "behind an update; set max_samples to the size of the largest data set"
        )
    model = build_model(recipe.model.name, recipe.train.seed, **recipe.model.options)
    options = recipe.options(profile=profile)
    return propose_task(model, roster, parameters, options, start=start)


def check_recipe(recipe: Recipe, session: Session) -> None:
    """Refuse a recipe that the session's task was not made from.

    Raises:
        RecipeError: suite or number of participants differ.
        LayoutError: the recipe's model is another one.
    """
    task = session.task
    proposed, _ = propose_recipe(
        recipe, task.roster, task.parameters, task.config.profile
    )
    if proposed.suite != task.config.suite:
        raise RecipeError(
            f"the recipe says suite {proposed.suite!r}, the signed task "
            f"{task.config.suite!r}; use the recipe that its operator published"
        )
    if proposed.layout_digest != task.config.layout_digest:
        raise LayoutError(
            "the recipe's model has other parameters than the signed task; use the "
            "recipe that its operator published"
        )


def train_participant(
    recipe: Recipe,
    session: Session,
    report: Report,
    *,
    own_data: bool = False,
    part: int = 0,
    parts: int = 1,
    memory: Checkpoint | None = None,
    watch: Report | None = None,
    wait: float = 0.0,
) -> Participation:
    """Train one participant's share of a recipe to its end, or one part of it.

    Args:
        recipe: what to train.
        session: this participant's.
        report: told of every epoch as a record.
        own_data: train on all of the local data; by default on the share that the
            recipe's seed gives this participant of data that everybody has.
        part: which part of the local steps, from 0.
        parts: how many parts of equal length there are. Without a memory, momentum and
            what the quantiser left over start anew with every part.
        memory: where to remember how far it has come, and to go on from. To be
            forgotten once what comes of the last part is where it belongs.
        watch: told where it stands at the beginning, after every step and at the end,
            as a record that `TrainingDisplay` takes, with the number of `steps`.
        wait: seconds that the last part waits at most until what it pushed is released.

    Raises:
        AggregatorError: the DSP could not be reached for too long.
        DataError: the data is missing.
        RunDirectoryError: what the memory holds is not of this training.
    """
    check_recipe(recipe, session)
    data = load_recipe_data(recipe)
    batches = _batches(recipe, data, session, own_data=own_data)
    steps = steps_of(recipe, batches)
    timer = PhaseTimer()
    digest = recipe_digest(recipe.model_dump_json())
    past = None
    if memory is not None:
        # Before the servers hear of a version that may be another training's.
        past = memory.recall(session.name, session.task.cfg, digest)
        session.may_return_to(session.version)
    # Who comes late, or for one part only, trains on the newest weights at once.
    sequence = session.sequence
    session.catch_up()
    first, end = (steps * number // parts for number in (part, part + 1))
    trained, state = 0, None
    if past is not None:
        trained = past.step
        first, state = _going_on(past, session, sequence, recipe)
    learner = Learner(
        recipe,
        recipe_model(recipe),
        session,
        batches,
        steps=steps,
        observe=timer,
        state=state,
    )
    learner.skip(first - trained)
    remembered = partial(_remembered, learner, recipe, digest)
    if memory is not None:
        memory.keep(remembered(first))
    started = time.perf_counter()
    if watch is not None:
        watch(_step_record(learner, first, end, timer))
    for number in range(first, end):
        learner.step(number)
        if watch is not None:
            watch(_step_record(learner, number + 1, end, timer))
        if memory is not None:
            sent = Sent(number + 1 - learner.since_push, session.sequence)
            note = partial(remembered, number + 1)
            memory.keep_if_due(note, session, sent, recipe.train.push_every)
        if (number + 1) % len(batches) == 0 or number + 1 == end:
            seconds = time.perf_counter() - started
            report(_epoch_record(learner, (number + 1) / len(batches), seconds))
    if part + 1 == parts:
        learner.finish(wait)
    else:
        learner.flush()
        learner.catch_up()
    if watch is not None:
        watch(_step_record(learner, max(first, end), end, timer))
    if memory is not None:
        memory.keep(remembered(max(first, end)))
    model = released_model(learner.model, session, recipe.buffers)
    score = evaluate(model, data.test, recipe.train)
    return Participation(score.accuracy, session.version, session.released())


def _remembered(
    learner: Learner, recipe: Recipe, digest: bytes, step: int
) -> Remembered:
    """Return where a participant stands before a local step."""
    session = learner.session
    return Remembered(
        cfg=session.task.cfg,
        name=session.name,
        recipe=digest,
        step=step,
        session=session.state(),
        learner=learner.state(),
        random_state=random_state(recipe.train),
    )


def _epoch_record(learner: Learner, epoch: float, seconds: float) -> dict[str, Any]:
    """Return what is reported of an epoch; the loss is that since the last report."""
    return {
        "event": "epoch",
        "epoch": round(epoch, 3),
        "loss": learner.take_loss(),
        "seconds": round(seconds, 3),
        **_standing(learner),
    }


def _step_record(
    learner: Learner, step: int, end: int, timer: PhaseTimer
) -> dict[str, Any]:
    """Return what is told of a local step, and of how many there are."""
    return {
        "event": "step",
        "global_step": step,
        "steps": end,
        "loss": learner.loss,
        "phases": timer.mean_milliseconds(),
        **_standing(learner),
    }


def _standing(learner: Learner) -> dict[str, Any]:
    session = learner.session
    return {
        "participant": session.name,
        "version": session.version,
        "staleness": session.staleness,
        "pending": session.pending,
        "update_norm": learner.optimizer.progress.update_norm,
        "held_back": learner.optimizer.progress.held_back,
        "rejected": session.statistics.rejected,
        "spent": session.statistics.spent,
        "bytes_up": session.statistics.bytes_up,
        "bytes_down": session.statistics.bytes_down,
    }


def _going_on(
    past: Remembered, session: Session, sequence: int, recipe: Recipe
) -> tuple[int, LearnerState]:
    """Return the next local step, and what to go on from.

    What was pushed after the last note is not trained again, the steps before the first
    of these pushes included, which the note holds as not pushed yet.
    """
    restore_random_state(recipe.train, past.random_state)
    # `connect` passes over Q numbers more than were used.
    unused = sequence - session.task.config.pending_limit
    if unused == past.sent.sequence:
        return past.step, past.learner
    optimizer = without_local(past.learner.optimizer)
    return (
        past.sent.reckoned(unused, recipe.train.push_every),
        msgspec.structs.replace(past.learner, optimizer=optimizer),
    )


def _batches(
    recipe: Recipe, data: Data, session: Session, *, own_data: bool
) -> Batches:
    index = session.task.roster.names.index(session.name)
    if not own_data:
        return make_batches(recipe, data)[index]
    return Batches(
        data.train,
        np.arange(len(data.train)),
        recipe.train.batch_size,
        seed=recipe.train.seed,
        participant=index,
        augment=recipe.data.augment,
    )
