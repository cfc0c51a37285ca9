"""Lets strangers in one after another, so that participants need not queue behind them.

An event loop does everything that is ready before it looks again. Two hundred
connections that open and send at the same moment make one turn of it long, and a
participant's request takes about ten turns. Here a *stranger*, a connection on which no
signed message has come, waits till it may go, at most one in two milliseconds, so that
a burst costs a participant no more than the same connections spread evenly; who has
shown a valid signature does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["PACE_SECONDS", "Turnstile"]

PACE_SECONDS: Final = 0.002
"""From the end of one step to the next. A step and the answer that follows it take half
a millisecond or so, so strangers have about a quarter of the loop's time."""


class Turnstile:
    """Runs steps one at a time, `PACE_SECONDS` after one another."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._opens = float("-inf")

    def queue(self, loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
        """Run a step when all that wait already have had their turns."""
        self._waiting.append(step)
        if len(self._waiting) == 1:
            self._await_turn(loop)

    def _await_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_at(max(self._opens, loop.time()), self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        step = self._waiting[0]
        try:
            step()
        finally:
            self._waiting.popleft()
            self._opens = loop.time() + PACE_SECONDS
            if self._waiting:
                self._await_turn(loop)
