"""Who takes the next step: asynchrony, simulated by a queue of events.

Each participant has a speed v_i, in steps per unit of simulated time. Its step number k
takes

    d_ik = (1 + jitter * u_ik) / v_i,    u_ik uniform in [-1, 1),

and whoever finishes first comes first. Who is away for a while has one step that takes
so much longer. `u_ik` is a function of (seed, i, k), so that
the order of all steps is one of the recipe, whatever the machine is doing, and a
resumed run goes on in the same order without any generator's state.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Schedule", "ScheduleState", "Turn"]

# Making a generator costs as much as a hundred numbers from it.
_BLOCK: Final = 1024
# Keeps these streams apart from those of the batches, which are seeded likewise.
_PURPOSE: Final = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """One participant's next step.

    Attributes:
        time: simulated time at which the step is finished.
        participant: whose step it is, 0 <= participant < P.
        step: number of the step, counted from 0 for each participant.
    """

    time: float
    participant: int
    step: int


class ScheduleState(msgspec.Struct):
    """Where a schedule stands.

    Attributes:
        time: when the last step was finished.
        ends: when each participant's next step will be.
        taken: steps that each participant has taken.
    """

    time: float
    ends: list[float]
    taken: list[int]


class Schedule:
    """The turns of all participants, in the order of simulated time; an iterator.

    >>> turns = Schedule([1.0, 2.0], [1, 2], jitter=0.0, seed=0)
    >>> [(turn.participant, turn.time) for turn in turns]
    [(1, 0.5), (0, 1.0), (1, 1.0)]

    Args:
        speeds: steps per unit of simulated time, shape `(P,)`, > 0.
        steps: how many steps each participant takes, shape `(P,)`.
        jitter: relative spread of a step's duration, 0 <= jitter < 1.
        seed: seed of the durations.
        pauses: participant to the step before which it is away, and for how long.
        state: where an earlier schedule of the same recipe stopped.

    Attributes:
        time: simulated time at which the last step was finished.
    """

    def __init__(
        self,
        speeds: Sequence[float],
        steps: Sequence[int],
        *,
        jitter: float,
        seed: int,
        pauses: Mapping[int, tuple[int, float]] | None = None,
        state: ScheduleState | None = None,
    ) -> None:
        self._speeds = tuple(speeds)
        self._steps = tuple(steps)
        self._jitter = jitter
        self._seed = seed
        self._pauses = dict(pauses or {})
        self._blocks: dict[int, tuple[int, npt.NDArray[np.float64]]] = {}
        self.time = state.time if state else 0.0
        count = len(self._speeds)
        self._taken = list(state.taken) if state else [0] * count
        self._ends = (
            list(state.ends) if state else [self._duration(i, 0) for i in range(count)]
        )
        self._queue = [
            (end, i)
            for i, end in enumerate(self._ends)
            if self._taken[i] < self._steps[i]
        ]
        heapq.heapify(self._queue)

    def __iter__(self) -> Schedule:
        return self

    def __next__(self) -> Turn:
        if not self._queue:
            raise StopIteration
        self.time, i = self._queue[0]
        step = self._taken[i]
        self._taken[i] = step + 1
        if step + 1 < self._steps[i]:
            self._ends[i] = self.time + self._duration(i, step + 1)
            heapq.heapreplace(self._queue, (self._ends[i], i))
        else:
            heapq.heappop(self._queue)
        return Turn(self.time, i, step)

    def state(self) -> ScheduleState:
        """Return what is needed to go on after the turns taken so far."""
        return ScheduleState(self.time, list(self._ends), list(self._taken))

    def _duration(self, i: int, step: int) -> float:
        block, place = divmod(step, _BLOCK)
        number, factors = self._blocks.get(i, (-1, None))
        if factors is None or number != block:
            stream = np.random.default_rng([self._seed, i, _PURPOSE, block])
            factors = 1.0 + self._jitter * stream.uniform(-1.0, 1.0, _BLOCK)
            self._blocks[i] = (block, factors)
        paused, away = self._pauses.get(i, (-1, 0.0))
        pause = away if step == paused else 0.0
        return pause + float(factors[place]) / self._speeds[i]
