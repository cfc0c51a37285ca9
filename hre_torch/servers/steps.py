"""One step of a role at a time, in one thread, durable before its answer leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from hre_torch.errors import HREError, StoreError
from hre_torch.servers.journal import Journal

__all__ = ["Durable", "InMemory", "Steps"]

Answer = TypeVar("Answer")


class Durable(Protocol):
    """What a service needs of a store; see `hre_torch.servers.store.Store`."""

    @property
    def journal(self) -> Journal:
        """What the role tells its changes to."""

    def load(self) -> Any:
        """Return the state that a role goes on from, or None."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Make durable, when the `with` ends, what the role did inside."""

    def probe(self, octets: int) -> None:
        """See whether so many octets more could be kept.

        Raises:
            StoreError: they could not.
        """

    def close(self) -> None:
        """Close the store."""


class InMemory:
    """A store that keeps nothing: for tests, and servers that may forget."""

    def __init__(self) -> None:
        self.journal = Journal()

    def load(self) -> None:
        """Nothing was kept."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make nothing durable."""
        return nullcontext()

    def probe(self, octets: int) -> None:
        """Nothing needs room."""

    def close(self) -> None:
        """Nothing is open."""


class Steps:
    """Runs a role's steps in one thread, so that the event loop never waits for one.

    A disk that fails leaves the role in memory ahead of the disk, and a step that ends
    in anything but a refusal may have stopped half-way. So before the next step the
    role is made again from what the disk holds.

    Args:
        store: where a step's changes become durable before its answer leaves.
        reopen: makes the role again from the store.
    """

    def __init__(self, store: Durable, reopen: Callable[[], None]) -> None:
        self._store = store
        self._reopen = reopen
        self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="role")

    async def run(self, step: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what the step returns, once its changes are durable."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, step, arguments)

    def close(self) -> None:
        """Wait for the step that runs, then close the store."""
        self._thread.shutdown()
        self._store.close()

    def _run(self, step: Callable[..., Answer], arguments: tuple[Any, ...]) -> Answer:
        if self._failed:
            self._reopen()
            self._failed = False
        try:
            with self._store.transaction():
                return step(*arguments)
        except Exception as error:
            # A refusal leaves the role as it was; whatever else may have stopped it
            # half-way.
            refusal = isinstance(error, HREError) and not isinstance(error, StoreError)
            self._failed = not refusal
            raise
