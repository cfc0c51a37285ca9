"""Lets strangers in one after another, so that participants need not queue behind them.

An event loop does everything that is ready before it looks again. Two hundred
connections that open and send at the same moment make one turn of it long, and a
participant's request takes about ten turns. Here a *stranger*, a connection on which no
signed message has come, waits till it may go, one in each turn of the loop; who has
shown a valid signature does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Turnstile"]


class Turnstile:
    """Runs steps one at a time, each in a turn of the event loop of its own."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def queue(self, loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
        """Run a step when all that wait already have had their turns."""
        self._waiting.append(step)
        if len(self._waiting) == 1:
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        step = self._waiting[0]
        try:
            step()
        finally:
            self._waiting.popleft()
            if self._waiting:
                loop.call_soon(self._turn, loop)
