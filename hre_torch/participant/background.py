"""A session whose messages travel while training goes on.

Uploads are sealed where they are pushed and wait in a queue; one thread sends them in
order. Downloads are fetched ahead by another; `pull` opens what has come. Only the
thread that trains touches the session's state, so nothing here needs a lock.

Training waits for the network only if the task's staleness bound says so: an update
that would be refused as too old has to wait for a pull.

What is computed stays what `Session` computes: weights in use are released weights plus
every own update that is under way. Only *which* pull finds a release depends on the
network; where runs must repeat bit for bit, use `Session` itself.

Downloads fetched by a thread of their own, before anybody asks for them.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    HREError,
    StaleUploadError,
)
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.participant import Opened
from hre_torch.participant.pending import Attempt
from hre_torch.participant.session import Session
from hre_torch.participant.session_state import SessionState
from hre_torch.protocol.answers import read_decision
from hre_torch.protocol.ciphers import Integers
from hre_torch.protocol.messages import Download, Release, Upload
from hre_torch.protocol.wire import LENGTHS_BYTES, Envelope, lengths_of, parse_header
from hre_torch.protocol.wire import Refusal as _Refusal
from hre_torch.protocol.workers import Workers

__all__ = ["BackgroundSession", "Prefetcher"]

_MOST_WAITING: Final = 16
"""Downloads in memory; more are fetched when some have been taken."""


class Prefetcher:
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
        bytes(data[LENGTHS_BYTES : LENGTHS_BYTES + header_size]), Download | _Refusal
    )
    if isinstance(header, _Refusal) or not header.releases:
        return since
    newest = header.releases[-1]
    size, _ = lengths_of(newest)
    release = parse_header(newest[LENGTHS_BYTES : LENGTHS_BYTES + size], Release)
    return int(release.version)


_LAST_SECONDS: Final = 5.0
"""For what waits when a session is closed while the DSP does not answer."""

_Sealed = tuple[Envelope[Upload], bytes]


class BackgroundSession(Session):
    """A `Session` that sends and fetches in threads of its own.

    Errors of the network surface at the next `push` or `pull`; the sealed octets are
    kept and sent again. An update that comes back as too old, or because too many of
    one's own are unreleased, is sealed anew once a newer version is known; one that is
    refused for another reason is kept, too, and the next `push` or `pull` says so.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        workers: Workers | None = kwargs.get("workers")
        if workers is not None:
            # Forked now: the threads below may hold locks at any later moment.
            workers.start()
        self._backend = self._aggregator
        self._aggregator = _FetchedAhead(self)
        self._outbox: queue.Queue[_Sealed | None] = queue.Queue()
        self._answers: queue.Queue[tuple[_Sealed, bytes | HREError]] = queue.Queue()
        self._under_way = 0
        self._retry = threading.Event()
        self._waits = False
        self._closing = False
        self._returns_to: int | None = None
        self._backend.opened = self.version
        self._prefetcher = Prefetcher(self._backend, lambda: self._when_idle())
        self._sender = threading.Thread(
            target=self._send_all, name="hre-send", daemon=True
        )
        self._sender.start()

    @property
    def pushed(self) -> int:
        """How many updates went out from here, acknowledged or yet to be."""
        return super().pushed + self._under_way

    def push(self, values: Integers) -> int:
        """Seal one quantised update and leave it to the sender; see `Session.push`.

        Raises:
            BackPressure: Q own updates are unreleased already; nothing was kept.
            StaleUploadError: the weights known here are too old; nothing was kept.
            AggregatorError: an *earlier* upload did not get through; this one was not
                kept, the earlier one is sent again.
            HREError: an earlier upload was refused; this one was not kept.
        """
        self._collect()
        config = self.task.config
        if self.pending >= config.pending_limit:
            raise BackPressure(
                f"{self.pending} updates of {self.name!r} are under way or unreleased, "
                f"the task allows {config.pending_limit}: pull, or keep accumulating"
            )
        if self.staleness >= config.staleness_bound:
            raise StaleUploadError(
                f"the DSP is {self.staleness} releases ahead, the task allows "
                f"{config.staleness_bound}: pull, then push again"
            )
        return self._enqueue(values)

    def pull(self) -> list[Opened]:
        """Apply every release that has come; see `Session.pull`.

        Waits for the network only if the weights known here are too old to push.
        """
        self._collect()
        self._waits = self._waits or self.staleness >= self.task.config.staleness_bound
        try:
            return super().pull()
        finally:
            self._waits = False
            # What is fetched ahead is not opened yet.
            if self._returns_to is None:
                self._backend.opened = self.version

    def catch_up(self) -> list[Opened]:
        """Wait until everything sent is acknowledged, then until all is fetched.

        Raises:
            AggregatorError: the DSP could not be reached.
            HREError: an upload was refused for what is in it.
        """
        self._drain()
        self._waits = True
        return self.pull()

    def may_return_to(self, version: int) -> None:
        """See `Session.may_return_to`."""
        self._returns_to = self._backend.opened = version

    def resend(self) -> None:
        """Send again what did not get through, and wait for it."""
        self._drain()

    def state(self) -> SessionState:
        """Return everything that a restart needs, once all is answered.

        Raises:
            AggregatorError: the DSP could not be reached; nothing is lost.
            HREError: an upload was refused for what is in it.
        """
        self._drain()
        return super().state()

    def close(self) -> None:
        """Send what waits, as far as the DSP can be reached, and end the threads."""
        self.closed = True
        self._closing = True
        self._backend.end_within(_LAST_SECONDS)
        self._outbox.put(None)
        self._retry.set()
        self._sender.join()
        self._prefetcher.stop()
        self._backend.close()

    def _enqueue(self, values: Integers, attempts: tuple[Attempt, ...] = ()) -> int:
        upload, data = self._seal(values, attempts)
        self._under_way += 1
        self._outbox.put((upload, data))
        return upload.header.sequence

    def _seal_refused(self) -> None:
        for update in self._pending.take_due(self.version):
            self._enqueue(update.values, update.attempts)

    def _send_all(self) -> None:
        """Send in order; the sender's thread."""
        while (sealed := self._outbox.get()) is not None:
            while True:
                # Before the attempt: what `close` sets during it must not be lost.
                self._retry.clear()
                try:
                    with self.observe("submit"):
                        answer = self._backend.submit(sealed[1])
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

    def _collect(self, *, wait: bool = False) -> None:
        """Take note of what the DSP has answered since the last time."""
        while self._under_way:
            try:
                (upload, data), answer = self._answers.get(block=wait)
            except queue.Empty:
                return
            if isinstance(answer, HREError):
                self._retry.set()
                raise answer
            self.statistics.bytes_up += len(data)
            try:
                decision = read_decision(answer, upload, data, self.task)
            except HREError:
                # No last word: only these octets may go out again.
                self._outbox.put((upload, data))
                raise
            self._under_way -= 1
            self._note(upload, decision)

    def _drain(self) -> None:
        self._collect(wait=True)

    def fetched_ahead(self, since: int, *, merge: bool) -> Iterator[bytes]:
        """Yield downloads that have come already, or wait for them if need be."""
        while merge and (download := self._prefetcher.take(since)) is not None:
            yield download
            since = self.version
        if self._waits or not merge:
            yield from self._backend.fetch(since, merge=merge)
        self._prefetcher.call()

    def _when_idle(self) -> None:
        """Run in the fetching thread after every fetch; subclasses do errands here."""


class _FetchedAhead(Aggregator):
    """What the session's own `pull` sees: downloads that have come already."""

    def __init__(self, session: BackgroundSession) -> None:
        self._session = session

    def submit(self, upload: bytes) -> bytes:
        return self._session._backend.submit(upload)

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        return self._session.fetched_ahead(since, merge=merge)

    def declare(self, statement: bytes) -> bytes:
        return self._session._backend.declare(statement)

    def close(self) -> None:
        self._session._backend.close()
