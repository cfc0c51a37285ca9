"""How a session's messages travel: while it waits, or while training goes on.

Uploads are sealed in the thread that trains. `DirectCarrier` sends each before it goes
on. With a `BackgroundCarrier` they wait in a queue, and one thread sends them in order;
downloads are fetched ahead by another. Only the thread that trains touches the state of
a session, so nothing here needs a lock but the downloads that wait.

What is computed is the same with both: weights in use are released weights plus every
own update that is under way. Only *which* pull finds a release depends on the network
with a `BackgroundCarrier`; where runs must repeat bit for bit, use the other one.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from hre_torch.errors import AggregatorError, HREError
from hre_torch.observer import Observer, silent
from hre_torch.participant.aggregator import Aggregator
from hre_torch.protocol.messages import Download, Release, Upload
from hre_torch.protocol.wire import (
    LENGTHS_BYTES,
    Envelope,
    Refusal,
    lengths_of,
    parse_header,
)
from hre_torch.protocol.workers import Workers

__all__ = ["BackgroundCarrier", "Carrier", "DirectCarrier", "Sealed"]

Sealed = tuple[Envelope[Upload], bytes]
"""An upload without its words, and all of its octets."""

_MOST_WAITING: Final = 16
"""Downloads in memory; more are fetched when some have been taken."""
_LAST_SECONDS: Final = 5.0
"""For what waits when a session is closed while the DSP does not answer."""


class Carrier(ABC):
    """Carries a session's uploads and downloads over one connection.

    Args:
        aggregator: the connection; closed with the carrier.
        errand: small things to ask of the DSP now and then, that nobody waits for.

    Attributes:
        aggregator: the connection.
        observe: told of the phase `submit`; sessions put theirs here.
    """

    background: ClassVar[bool]
    """Whether the session goes on while messages travel."""

    def __init__(
        self,
        aggregator: Aggregator,
        errand: Callable[[], None] = lambda: None,
    ) -> None:
        self.aggregator = aggregator
        self.observe: Observer = silent
        self._errand = errand

    @property
    @abstractmethod
    def in_transit(self) -> int:
        """Uploads whose last word from the DSP the session has not heard."""

    @abstractmethod
    def send(self, sealed: Sealed) -> None:
        """Take an upload along; its octets go out until `settle` is called for it."""

    @abstractmethod
    def answers(self, *, wait: bool) -> Iterator[tuple[Sealed, bytes]]:
        """Yield uploads with what came back; each is followed by `settle` or `again`.

        Args:
            wait: until all are answered.

        Raises:
            AggregatorError: an upload did not get through; it is sent again.
        """

    @abstractmethod
    def settle(self) -> None:
        """Forget the upload that `answers` yielded last: that was its last word."""

    @abstractmethod
    def again(self, sealed: Sealed) -> None:
        """Send it again: what came back was no last word."""

    @abstractmethod
    def withdraw(self, wanted: Container[int]) -> int:
        """Forget what waits to be sent, if nobody wants its answer any more.

        Args:
            wanted: sequence numbers of updates that are still pending.

        Returns:
            How many were forgotten.
        """

    @abstractmethod
    def fetch(
        self, position: Callable[[], int], *, merge: bool, wait: bool
    ) -> Iterator[bytes]:
        """Yield downloads that are new; see `Aggregator.fetch`.

        Args:
            position: returns the last release that the session has applied.
            merge: see `Aggregator.fetch`.
            wait: for the network.
        """

    def declare(self, statement: bytes) -> bytes:
        """Send a statement and wait for its reply; see `Aggregator.declare`."""
        return self.aggregator.declare(statement)

    def opened(self, version: int) -> None:  # noqa: B027
        """Take note of what is applied and will not be fetched again."""

    def run_errand(self) -> None:
        """Run the errand soon."""
        self._errand()

    def close(self) -> None:
        """Send what waits, if the DSP can be reached, and close the connection."""
        self.aggregator.close()


class DirectCarrier(Carrier):
    """Sends and fetches when it is told to, and waits for every answer."""

    background = False
    _unsent: Sealed | None = None

    @property
    def in_transit(self) -> int:
        """One, if its answer did not arrive."""
        return int(self._unsent is not None)

    def send(self, sealed: Sealed) -> None:
        """See `Carrier.send`; `answers` is what sends it."""
        self._unsent = sealed

    def answers(self, *, wait: bool) -> Iterator[tuple[Sealed, bytes]]:
        """Send what is unsent and yield its answer."""
        if self._unsent is not None:
            with self.observe("submit"):
                answer = self.aggregator.submit(self._unsent[1])
            yield self._unsent, answer

    def settle(self) -> None:
        """See `Carrier.settle`."""
        self._unsent = None

    def again(self, sealed: Sealed) -> None:
        """It is unsent still."""

    def withdraw(self, wanted: Container[int]) -> int:
        """See `Carrier.withdraw`."""
        if self._unsent is None or self._unsent[0].header.sequence in wanted:
            return 0
        # Its answer would only come too late now.
        self._unsent = None
        return 1

    def fetch(
        self, position: Callable[[], int], *, merge: bool, wait: bool
    ) -> Iterator[bytes]:
        """See `Carrier.fetch`."""
        return self.aggregator.fetch(position(), merge=merge)


class BackgroundCarrier(Carrier):
    """Sends and fetches in threads of its own.

    Errors of the network surface when answers are asked for; sealed octets are kept and
    sent again.

    Args:
        aggregator, errand: as for every carrier; the errand runs in the thread that
            fetches, after every fetch.
        workers: of the session; their processes start before the threads, which may
            hold locks at any later moment.
    """

    background = True

    def __init__(
        self,
        aggregator: Aggregator,
        errand: Callable[[], None] = lambda: None,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(aggregator, errand)
        if workers is not None:
            workers.start()
        self._outbox: queue.Queue[Sealed | None] = queue.Queue()
        self._answers: queue.Queue[tuple[Sealed, bytes | HREError]] = queue.Queue()
        self._in_transit = 0
        self._retry = threading.Event()
        self._closing = False
        self._prefetcher = _Prefetcher(aggregator, errand)
        self._sender = threading.Thread(
            target=self._send_all, name="hre-send", daemon=True
        )
        self._sender.start()

    @property
    def in_transit(self) -> int:
        """See `Carrier.in_transit`."""
        return self._in_transit

    def send(self, sealed: Sealed) -> None:
        """Leave it to the sending thread."""
        self._in_transit += 1
        self._outbox.put(sealed)

    def answers(self, *, wait: bool) -> Iterator[tuple[Sealed, bytes]]:
        """Yield what the DSP has answered since the last time."""
        while self._in_transit:
            try:
                sealed, answer = self._answers.get(block=wait)
            except queue.Empty:
                return
            if isinstance(answer, HREError):
                self._retry.set()
                raise answer
            yield sealed, answer

    def settle(self) -> None:
        """See `Carrier.settle`."""
        self._in_transit -= 1

    def again(self, sealed: Sealed) -> None:
        """Only these octets may go out again."""
        self._outbox.put(sealed)

    def withdraw(self, wanted: Container[int]) -> int:
        """Nothing: the sending thread has it."""
        return 0

    def fetch(
        self, position: Callable[[], int], *, merge: bool, wait: bool
    ) -> Iterator[bytes]:
        """Yield downloads that have come already, or wait for them if need be."""
        while merge and (download := self._prefetcher.take(position())) is not None:
            yield download
        if wait or not merge:
            yield from self.aggregator.fetch(position(), merge=merge)
        self._prefetcher.call()

    def opened(self, version: int) -> None:
        """What is fetched ahead is not opened yet: servers keep what follows this."""
        self.aggregator.opened = version

    def run_errand(self) -> None:
        """Leave it to the fetching thread."""
        self._prefetcher.call()

    def close(self) -> None:
        """See `Carrier.close`; it takes some seconds at most."""
        self._closing = True
        self.aggregator.end_within(_LAST_SECONDS)
        self._outbox.put(None)
        self._retry.set()
        self._sender.join()
        self._prefetcher.stop()
        super().close()

    def _send_all(self) -> None:
        """Send in order; the sender's thread."""
        while (sealed := self._outbox.get()) is not None:
            while True:
                # Before the attempt: what `close` sets during it must not be lost.
                self._retry.clear()
                try:
                    with self.observe("submit"):
                        answer = self.aggregator.submit(sealed[1])
                except AggregatorError as error:
                    self._answers.put((sealed, error))
                    if not self._closing:
                        self._retry.wait()
                    if self._closing:
                        return
                    continue
                self._answers.put((sealed, answer))
                self._prefetcher.call()
                break


class _Prefetcher:
    """Fetches what follows a release, and goes on from there whenever it is called.

    Args:
        aggregator: the connection.
        idle: called in the thread after every fetch, for small errands.
    """

    def __init__(self, aggregator: Aggregator, idle: Callable[[], None]) -> None:
        self._aggregator = aggregator
        self._idle = idle
        self._waiting: deque[tuple[int, bytes | HREError]] = deque()
        self._position = 0
        self._called = threading.Event()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(
            target=self._live, name="hre-fetch", daemon=True
        )
        self._thread.start()

    def call(self) -> None:
        """Say that there may be something new."""
        self._called.set()

    def take(self, since: int) -> bytes | None:
        """Return a download that follows release `since`, if it has come already.

        Raises:
            HREError: what the thread met instead of it.
        """
        with self._lock:
            while self._waiting and self._waiting[0][0] != since:
                self._waiting.popleft()
            if not self._waiting:
                self._position = since
                return None
            found = self._waiting.popleft()[1]
        if isinstance(found, HREError):
            raise found
        return found

    def stop(self) -> None:
        """End the thread after the fetch that runs."""
        self._ended = True
        self._called.set()
        self._thread.join()

    def _live(self) -> None:
        while True:
            self._called.wait()
            self._called.clear()
            if self._ended:
                return
            with self._lock:
                since = self._position
            try:
                for data in self._aggregator.fetch(since):
                    following = _last_release(data, since)
                    if not self._keep(since, data, following) or self._ended:
                        break
                    since = following
            except HREError as error:
                self._keep(since, error, since)
            if not self._ended:
                self._idle()

    def _keep(self, since: int, data: bytes | HREError, following: int) -> bool:
        """Keep what was fetched, unless it is no longer what is wanted next."""
        with self._lock:
            if self._position != since:
                return False
            self._waiting.append((since, data))
            self._position = following
            return following > since and len(self._waiting) < _MOST_WAITING


def _last_release(data: bytes, since: int) -> int:
    """Return the newest release in a download; nothing is verified yet."""
    header_size, _ = lengths_of(data)
    header = parse_header(
        bytes(data[LENGTHS_BYTES : LENGTHS_BYTES + header_size]), Download | Refusal
    )
    if isinstance(header, Refusal) or not header.releases:
        return since
    newest = header.releases[-1]
    size, _ = lengths_of(newest)
    release = parse_header(newest[LENGTHS_BYTES : LENGTHS_BYTES + size], Release)
    return int(release.version)
