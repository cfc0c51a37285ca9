"""Carries the DSP's messages to the KTS: identical octets again until it answers.

The DSP also finishes with the KTS whatever was begun. One task in the event loop
compares both servers' ledgers, forwards uploads that the KTS has not confirmed and has
due releases signed. While the KTS cannot be reached it waits and tries again; nothing
of it depends on a client that still waits for an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import httpx

from hre_torch.errors import AggregatorError, HREError
from hre_torch.http_client import (
    Gathered,
    LostError,
    RetryPolicy,
    authentic,
    client_options,
    loss_of,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Header, Refusal
from hre_torch.servers.logs import log_event
from hre_torch.servers.metrics import Metrics

__all__ = ["KTSClient", "Reconciler", "UnreachableError"]

_PATIENCE: Final = RetryPolicy(timeout=3.0)
"""For a message; afterwards the reconciler goes on, without a client."""

_MOST_WORDS: Final = 1000
"""Octets of an unsigned complaint that are passed on."""

H = TypeVar("H", bound=Header)


class UnreachableError(AggregatorError):
    """The KTS does not answer, or not with anything that it has signed."""


class KTSClient:
    """The DSP's connection to the KTS.

    Args:
        task: the task.
        url: where the KTS listens.
        max_bytes: most octets of body that the task allows.
        metrics: counts octets.
        ca_file: PEM certificates to trust instead of the system's.
        transport: for tests.
    """

    def __init__(
        self,
        task: Task,
        url: str,
        *,
        max_bytes: int,
        metrics: Metrics,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._task = task
        self._max_bytes = max_bytes
        self._metrics = metrics
        options = client_options(url, ca_file) | {"transport": transport}
        self._client = httpx.AsyncClient(timeout=_PATIENCE.silence, **options)
        # Questions without a signature would make a stranger of the other connection.
        self._probing = httpx.AsyncClient(timeout=_PATIENCE.silence, **options)

    async def ask(self, route: str, message: bytes, kind: type[H]) -> Envelope[H]:
        """Return the KTS's signed answer.

        Raises:
            UnreachableError: no attempt brought one.
            HREError: the KTS refuses the message.
        """
        pauses = _PATIENCE.pauses()
        while True:
            try:
                return await self._attempt(route, message, kind)
            except (httpx.HTTPError, LostError) as error:
                pause = next(pauses, None)
                if pause is None:
                    raise UnreachableError(
                        f"the key transform server does not answer on {route} "
                        f"({loss_of(error)}); the message is kept and sent again"
                    ) from error
            await asyncio.sleep(pause)

    async def reach(self) -> None:
        """See whether the KTS can do its work.

        Raises:
            UnreachableError: it cannot, or is not there.
        """
        try:
            answer = await self._probing.get("/readyz")
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the key transform server cannot be reached ({loss_of(error)})"
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise UnreachableError(
                f"the key transform server is not ready (HTTP {answer.status_code}); "
                "its log says why"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._probing.aclose()

    async def _attempt(self, route: str, message: bytes, kind: type[H]) -> Envelope[H]:
        self._metrics.octets.labels("kts", "out").inc(len(message))
        answer = await self._post(route, message)
        self._metrics.octets.labels("kts", "in").inc(len(answer))
        envelope = authentic(
            answer,
            message,
            kind,
            key=self._task.roster.key_transform.signing_key,
            cfg=self._task.cfg,
            max_bytes=self._max_bytes,
        )
        if isinstance(envelope.header, Refusal):
            raise envelope.header.exception()
        return envelope

    async def _post(self, route: str, message: bytes) -> bytes:
        gathered = Gathered(self._max_bytes)
        async with self._client.stream("POST", route, content=message) as response:
            async for chunk in response.aiter_raw():
                gathered.add(chunk)
        answer = gathered.octets()
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            # It answers, and will not before somebody has done something.
            said = answer[:_MOST_WORDS].decode("utf-8", "replace").strip()
            raise UnreachableError(f"the key transform server says: {said}")
        if not answer:
            raise LostError(f"HTTP {response.status_code} without an answer")
        return answer


_PAUSES: Final = RetryPolicy(longest_pause=1.0)


class Reconciler:
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
        self._pauses = _PAUSES.pauses()
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
            self._pauses = _PAUSES.pauses()
            self._tell("")
            if not self._due.is_set():
                self._idle.set()
