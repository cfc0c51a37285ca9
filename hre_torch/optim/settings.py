"""What `HREOptimizer` is told, checked before anything begins.

`Pacing` says how many local steps there are from one exchange to the next.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Final, Literal

from torch import nn

from hre_torch.errors import UnsupportedError
from hre_torch.optim.privacy import GaussianNoise
from hre_torch.participant.session import Session
from hre_torch.protocol.task_options import is_positive

__all__ = [
    "AUTO",
    "Every",
    "Pacing",
    "check_choice",
    "check_kinds",
    "check_numbers",
    "intervals",
]

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


def check_kinds(
    session: Any,
    *,
    module: Any,
    rounding: Any,
    staleness_weight: Any,
    noise: Any,
) -> None:
    """Refuse what is not of the kind that the optimizer works with.

    Raises:
        UnsupportedError: one of them is not; the message says what to give.
    """
    if not isinstance(session, Session):
        raise UnsupportedError(
            f"The session is of type {type(session).__name__}; give what "
            "Federation.join() or hre_torch.connect() returned."
        )
    if not isinstance(module, nn.Module | None):
        raise UnsupportedError(
            f"module is of type {type(module).__name__}; give the model, or None."
        )
    if not isinstance(noise, GaussianNoise | None):
        raise UnsupportedError(
            f"noise is {noise!r}; give GaussianNoise(multiplier), or None."
        )
    for name, rule in (("rounding", rounding), ("staleness_weight", staleness_weight)):
        if rule is not None and not callable(rule):
            raise UnsupportedError(
                f"{name} is {rule!r}; give a function of hre_torch or of your own, "
                "or None."
            )


def intervals(
    push_every: Any, pull_every: Any, defaults: Mapping[str, Any]
) -> tuple[Every, Every]:
    """Return the local steps from push to push and from pull to pull.

    Args:
        push_every: what the script says; None for nothing.
        pull_every: likewise.
        defaults: what holds then, by name; 1 where that says nothing either.

    Raises:
        UnsupportedError: they are no numbers of steps; or one is measured, and the
            other, which comes along, is given.
    """
    push = defaults.get("push_every", 1) if push_every is None else push_every
    if push == AUTO:
        if pull_every is not None:
            raise UnsupportedError(
                f"push_every is 'auto' and pull_every {pull_every!r}; pulls come along "
                "with pushes then, so leave pull_every out."
            )
        return AUTO, AUTO
    pull = defaults.get("pull_every", 1) if pull_every is None else pull_every
    for name, steps in (("push_every", push), ("pull_every", pull)):
        whole = isinstance(steps, Integral) and not isinstance(steps, bool)
        if not whole or steps < 1:
            raise UnsupportedError(
                f"{name} is {steps!r}; it must be a whole number of steps, at least 1"
                f"{', or auto' if name == 'push_every' else ''}."
            )
    return push, pull


def check_numbers(share: Any, clip: Any, most: float | None) -> None:
    """Refuse numbers that cannot work, by name; `most` is the task's own clip.

    Raises:
        UnsupportedError: one of them cannot.
    """
    if not is_positive(share) or share >= 1:
        raise UnsupportedError(
            f"exchange_share is {share!r}; it must lie between 0 and 1, such as 0.2."
        )
    if clip is not None and not is_positive(clip):
        raise UnsupportedError(
            f"clip is {clip!r}; it must be a positive number, or None for the task's."
        )
    if clip is not None and most is not None and clip > most:
        raise UnsupportedError(
            f"clip is {clip}, but the task's is {most}: everybody rejects releases "
            "with longer updates; use the task's or a smaller one."
        )


def check_choice(name: str, given: Any, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of those allowed.

    Raises:
        UnsupportedError: it is not.
    """
    if given not in allowed:
        words = " or ".join(map(repr, allowed))
        raise UnsupportedError(f"{name} is {given!r}; it must be {words}.")
