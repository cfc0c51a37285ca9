"""One session with a key at a time: two would use the same sequence numbers.

To the servers a second session looks like a participant that tells two stories, and its
uploads would be kept as evidence. Locks end with their process, however it ends.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

from hre_torch.durable_files import posix_locks
from hre_torch.errors import AggregatorError, KeyFileError

__all__ = ["KeyLock"]

_HELD: Final[set[int]] = set()


class KeyLock:
    """Keeps a second session with the same key file away, on this machine.

    Args:
        key: the key file; it is locked itself, so that no other file has to lie there.

    Raises:
        KeyFileError: it cannot be read or locked.
        AggregatorError: a session has it.
        UnsupportedError: the system has no file locks.
    """

    def __init__(self, key: Path) -> None:
        locks = posix_locks()
        try:
            self._descriptor = os.open(key, os.O_RDONLY)
        except OSError as error:
            raise KeyFileError(
                f"cannot read the key file {key}: {error.strerror}; name the right file"
            ) from error
        try:
            locks.flock(self._descriptor, locks.LOCK_EX | locks.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AggregatorError(
                f"a session with the key {key} is open on this machine already; wait "
                "until it has ended"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise KeyFileError(
                f"cannot lock the key file {key} ({error.strerror}), as some network "
                "file systems cannot; put it on a disk of this machine"
            ) from error
        _close_in_children()
        _HELD.add(self._descriptor)

    def release(self) -> None:
        """Give the key free; twice is no mistake."""
        if self._descriptor in _HELD:
            _HELD.remove(self._descriptor)
            os.close(self._descriptor)


@cache
def _close_in_children() -> None:
    """Let no worker process that outlives a killed participant hold its lock."""
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()
