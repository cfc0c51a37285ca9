"""Keeps connections of strangers from crowding participants out.

A *stranger* is a connection on which no signed message has come. Its octets are looked
at when it is its turn, it may not wait long without asking anything,
and it is the first to go where there are too many connections.

An event loop does everything that is ready before it looks again. Two hundred
connections that open and send at the same moment make one turn of it long, and a
participant's request takes about ten turns. Here a stranger waits till it may go, at
most one in two milliseconds, so that a burst costs a participant no more than the same
connections spread evenly; who has shown a valid signature does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = [
    "HEAD_SECONDS",
    "MOST_CONNECTIONS",
    "PACE_SECONDS",
    "VERIFIED",
    "GuardedProtocol",
    "RateLimiter",
    "guarded",
]

PACE_SECONDS: Final = 0.002
"""From the end of one step to the next. A step and the answer that follows it take half
a millisecond or so, so strangers have about a quarter of the loop's time."""


class RateLimiter:
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


HEAD_SECONDS: Final = 10.0
"""How long a request line and its headers may take; an honest client sends them in
one packet."""
MOST_CONNECTIONS: Final = 512
"""Beyond this, the oldest stranger must go, or whoever has been idle longest."""

VERIFIED: Final = "hre_torch.verified"
"""Set in the scope of a request that carries a valid signature."""
_STRANGERS_OCTETS: Final = 16_384
"""Read at once from a stranger, and kept until its turn."""
_TLS_RECORD_OCTETS: Final = 20_480
"""More than one takes (RFC 5246, 6.2.3): waiting for the end of a record while nothing
more is read would last for ever."""
_USUAL_OCTETS: Final = 262_144
"""What asyncio reads at once."""


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline for the head of every request, and turns.

    uvicorn itself waits for ever for the first request of a connection.

    Attributes:
        limiter: of the server; see `guarded`.
    """

    limiter: RateLimiter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._request: object = None
        self._unverified = 2
        self._queued = 0
        self._since = self.loop.time()

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Start the clock, and make room if there are too many."""
        super().connection_made(transport)
        self._read_at_once(_STRANGERS_OCTETS)
        self._start_clock()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take some octets, now or when it is this connection's turn."""
        if self._queued or self._is_strange():
            self._queued += 1
            self.transport.pause_reading()
            self.limiter.queue(self.loop, partial(self._take_turn, data))
        else:
            self._take(data)

    def _take_turn(self, data: bytes) -> None:
        self._queued -= 1
        if self.transport.is_closing():
            return
        self._take(data)
        if not (self._queued or self.flow.read_paused):
            self.transport.resume_reading()

    def _take(self, data: bytes) -> None:
        """Stop the clock when a request is complete, start it when one has begun."""
        super().data_received(data)
        if self._asks_nothing():
            self._start_clock()
        else:
            self._stop_clock()

    def on_response_complete(self) -> None:
        """Start the clock again for a stranger; a participant may stay for long."""
        super().on_response_complete()
        self._since = self.loop.time()
        if self._asks_nothing() and self._is_strange():
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _is_strange(self) -> bool:
        """Whether neither this request nor the one before has shown a signature."""
        if self.scope is not self._request:
            self._request = self.scope
            self._unverified += 1
        if self.scope is not None and VERIFIED in self.scope:
            self._unverified = 0
        strange = self._unverified > 1
        self._read_at_once(_STRANGERS_OCTETS if strange else _USUAL_OCTETS)
        return strange

    def _read_at_once(self, octets: int) -> None:
        # asyncio's transport reads that many at once; one of TLS goes on reading until
        # so many wait, whether or not anybody takes them, but at least a record.
        if hasattr(self.transport, "max_size"):
            self.transport.max_size = octets
        if hasattr(self.transport, "set_read_buffer_limits"):
            self.transport.set_read_buffer_limits(high=max(octets, _TLS_RECORD_OCTETS))

    def _asks_nothing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_clock(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        self.transport.abort()

    def _make_room(self) -> None:
        others = [
            each
            for each in self.connections
            if isinstance(each, GuardedProtocol) and each._may_go(beside=self)
        ]
        if others:
            oldest = min(others, key=lambda each: (not each._is_strange(), each._since))
            oldest.transport.abort()

    def _may_go(self, beside: GuardedProtocol) -> bool:
        if self is beside or self.transport.is_closing():
            return False
        return self._asks_nothing() or self._is_strange()


def guarded() -> type[GuardedProtocol]:
    """Return the protocol class of one server, whose connections share a limiter."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limiter": RateLimiter()})
