"""What the DSP does besides answering: finish with the KTS whatever was begun.

One task in the event loop compares both servers' ledgers, forwards uploads that the KTS
has not confirmed and has due releases signed. While the KTS cannot be reached it waits
and tries again; nothing of it depends on a client that still waits for an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from hre_torch.aggregators.retries import RetryPolicy
from hre_torch.aggregators.services.errands import UnreachableError
from hre_torch.aggregators.services.logs import log_event
from hre_torch.errors import HREError

__all__ = ["Caretaker"]

_PATIENCE: Final = RetryPolicy(longest_pause=1.0)


class Caretaker:
    """Runs an errand whenever something is due, again and again until it succeeds.

    Args:
        errand: what to do; it returns when nothing is due any more.
        tell: told what the last attempt met; of nothing if it succeeded.
    """

    def __init__(
        self, errand: Callable[[], Awaitable[None]], tell: Callable[[str], None]
    ) -> None:
        self._errand = errand
        self._tell = tell
        self._due = asyncio.Event()
        self._idle = asyncio.Event()
        self._pauses = _PATIENCE.pauses()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, with one errand due."""
        self.call()
        self._task = asyncio.create_task(self._live())

    def call(self) -> None:
        """Say that something is due."""
        self._due.set()
        self._idle.clear()

    async def settled(self, patience: float) -> None:
        """Wait until nothing is due, an attempt fails, or `patience` seconds pass."""
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
        except TimeoutError:
            return

    async def stop(self) -> None:
        """End; whatever is due waits for the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _live(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._errand()
            except Exception as error:
                # Whatever it was, nobody else would go on with what is due.
                # What others say may name secrets.
                said = str(error) if isinstance(error, HREError) else ""
                self._tell(said or type(error).__name__)
                self._idle.set()  # Whoever waits would wait for nothing.
                lost = isinstance(error, UnreachableError)
                log_event(
                    "errand failed",
                    level=logging.WARNING if lost else logging.ERROR,
                    reason=type(error).__name__,
                    message=said,
                )
                await asyncio.sleep(next(self._pauses))
                self._due.set()
                continue
            self._pauses = _PATIENCE.pauses()
            self._tell("")
            if not self._due.is_set():
                self._idle.set()
