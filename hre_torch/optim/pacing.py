"""How many local steps there are from one exchange to the next."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

__all__ = ["AUTO", "Every", "Pacing"]

Every = int | Literal["auto"]
"""Local steps from one exchange to the next, or that they are measured."""
AUTO: Final = "auto"

_STEPS: Final = 32
_EXCHANGES: Final = 8
"""Newest measurements of which the medians count; a pause for an evaluation, or the
first exchange, which makes tables, moves a median little."""


class Pacing:
    """Says when a push and a pull are due.

    With `"auto"`, both come together, so often that they take at most a given share of
    the time. Where an exchange takes e seconds and a local step s, one exchange every k
    steps takes the share e / (e + k s), and so k = e (1 - share) / (share s), rounded
    up. Training begins with an exchange after every step, and k at most doubles from
    one to the next. What is chosen depends on the clock: two such trainings are not
    equal bit for bit.

    Args:
        push_every, pull_every: local steps from one to the next; both or none `"auto"`.
        share: of the time that exchanges may take, in (0, 1).
        clock: returns seconds.

    Attributes:
        push_every, pull_every: local steps from one to the next, at present.
        automatic: whether they are measured.
    """

    def __init__(
        self,
        push_every: Every,
        pull_every: Every,
        share: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.automatic = push_every == AUTO
        self.push_every = 1 if push_every == AUTO else push_every
        self.pull_every = 1 if pull_every == AUTO else pull_every
        self._share = share
        self._clock = clock
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._exchanges: deque[float] = deque(maxlen=_EXCHANGES)
        self._begun = 0.0
        self._ended: float | None = None

    def begin(self) -> None:
        """Note that a local step is made and an exchange may follow."""
        if not self.automatic:
            return
        self._begun = self._clock()
        if self._ended is not None:
            self._steps.append(self._begun - self._ended)
        self._ended = None

    def end(self, *, exchanged: bool) -> None:
        """Note that what was due is done, and whether that was an exchange.

        An exchange that failed is not noted; it says nothing of the next one.
        """
        if not self.automatic:
            return
        self._ended = self._clock()
        if exchanged:
            self._exchanges.append(self._ended - self._begun)
            self._choose()

    def _choose(self) -> None:
        if not self._steps:
            return
        step = max(statistics.median(self._steps), 1e-9)
        exchange = statistics.median(self._exchanges)
        fitting = math.ceil(exchange * (1.0 - self._share) / (self._share * step))
        self.push_every = max(1, min(fitting, 2 * self.push_every))
        self.pull_every = self.push_every

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured and chosen, in seconds and steps."""
        return {
            "every": self.push_every,
            "steps": list(self._steps),
            "exchanges": list(self._exchanges),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, if exchanges are measured."""
        if self.automatic:
            self.push_every = self.pull_every = state["every"]
            self._steps.extend(state["steps"])
            self._exchanges.extend(state["exchanges"])
