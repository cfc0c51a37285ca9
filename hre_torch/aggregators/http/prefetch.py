"""Downloads fetched by a thread of their own, before anybody asks for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from hre_torch.errors import HREError
from hre_torch.protocol.aggregator import Aggregator
from hre_torch.protocol.envelope import Refusal as _Refusal
from hre_torch.protocol.envelope import parse_header
from hre_torch.protocol.framing import LENGTHS_BYTES, lengths_of
from hre_torch.protocol.messages import Download, Release

__all__ = ["Prefetcher"]

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
