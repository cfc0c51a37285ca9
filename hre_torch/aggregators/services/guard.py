"""Closes connections that never ask anything, so that they cannot crowd others out."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_SECONDS", "MOST_CONNECTIONS", "GuardedProtocol"]

HEAD_SECONDS: Final = 10.0
"""How long a request line and its headers may take; an honest client sends them in
one packet."""
MOST_CONNECTIONS: Final = 512
"""Beyond this, whoever has waited longest without asking anything must go."""


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline for the head of every request.

    uvicorn itself waits for ever for the first request of a connection.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Start the clock, and make room if there are too many."""
        super().connection_made(transport)
        self._start_clock()
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when a request is complete, start it when one has begun."""
        super().data_received(data)
        if self._asks_nothing():
            self._start_clock()
        else:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

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
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, GuardedProtocol)
            and connection._deadline is not None
        ]
        if waiting:
            oldest = min(waiting, key=lambda each: each._waiting_until())
            oldest._stop_clock()
            oldest.transport.abort()

    def _waiting_until(self) -> float:
        return self._deadline.when() if self._deadline is not None else float("inf")
