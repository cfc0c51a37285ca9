"""A file beside the database that remembers the newest step.

SQLite ignores a damaged end of its log without a word: the newest transactions, which
were acknowledged, would be gone, and a KTS could sign an upload a second time. The
witness says which step the database must have reached. It is written after every commit
and not fsynced: after a power cut it may be older than the database, which is harmless,
while the database, which is fsynced, cannot honestly be older than the witness.

The file's POSIX lock also keeps a second process out of the folder. Processes that were
forked from the server do not inherit it, so that a worker that outlives a killed server
does not keep the next one from starting. As such a lock means nothing inside one
process, what this process has open is remembered as well.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from hre_torch.durable_files import posix_locks
from hre_torch.errors import StoreError

__all__ = ["Witness", "contradiction", "unwitnessed"]

_MAGIC: Final = b"HREstep1"
_STEP_BYTES: Final = 8
_TALLY_BYTES: Final = 32
_CHECK_BYTES: Final = 16
_BODY_BYTES: Final = len(_MAGIC) + _STEP_BYTES + _TALLY_BYTES
_OPEN_HERE: Final[set[Path]] = set()


class Witness:
    """The newest step and the tally after it, 64 octets that are rewritten in place.

    Args:
        path: the file; made if it is not there.

    Raises:
        StoreError: somebody has it open.
        UnsupportedError: the system has no file locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        if self._path in _OPEN_HERE:
            raise self._in_use()
        locks = posix_locks()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            locks.lockf(self._descriptor, locks.LOCK_EX | locks.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(self._descriptor)
            raise self._in_use() from None
        _OPEN_HERE.add(self._path)

    def _in_use(self) -> StoreError:
        return StoreError(
            f"the store in {self._path.parent} is in use; stop the server that uses it "
            "first, or give this one a folder of its own"
        )

    def read(self) -> tuple[int, bytes] | None:
        """Return step and tally; None if nothing was ever written.

        Raises:
            StoreError: the file is damaged.
        """
        data = os.pread(self._descriptor, _BODY_BYTES + _CHECK_BYTES + 1, 0)
        if not data:
            return None
        body, check = data[:_BODY_BYTES], data[_BODY_BYTES:]
        if not body.startswith(_MAGIC) or check != _check(body):
            raise StoreError(
                f"{self._path} is damaged: nothing here vouches for the database's "
                "having its newest steps. Move this file away, leave everything else "
                "as it is, and start the server: it compares with the other server "
                "what both have signed, and says so if anything is lacking"
            )
        step = int.from_bytes(body[len(_MAGIC) : -_TALLY_BYTES], "big")
        return step, body[-_TALLY_BYTES:]

    def write(self, step: int, tally: bytes) -> None:
        """Remember a step that is committed."""
        body = _MAGIC + step.to_bytes(_STEP_BYTES, "big") + tally
        # One write inside one disk sector is there completely or not at all.
        os.pwrite(self._descriptor, body + _check(body), 0)

    def settle(self) -> None:
        """Have on the disk that there is a witness, whatever step it remembers."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, which gives the folder free."""
        os.close(self._descriptor)
        _OPEN_HERE.discard(self._path)


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def unwitnessed(remembered: tuple[int, bytes] | None, *, log_lost: bool) -> str | None:
    """Return why nobody can tell how old a database is, in words, if so.

    Args:
        remembered: what the witness remembers.
        log_lost: whether the database's log is gone, though it was in use.
    """
    if remembered is not None or not log_lost:
        return None
    return (
        "the database was in use when it was last written to, but its log (the file "
        "that ends in -wal) and the witness are gone: its newest steps are lost"
    )


def contradiction(
    remembered: tuple[int, bytes] | None, step: int, tally: bytes
) -> str | None:
    """Return what the witness says against a database, in words, if anything.

    Args:
        remembered: what the witness remembers.
        step: newest step of the database.
        tally: tally of the database.
    """
    if remembered is None or remembered[0] < step or remembered == (step, tally):
        return None
    if remembered[0] == step:
        return f"step {step} is not the one that the witness remembers"
    return (
        f"the database is at step {step}, but step {remembered[0]} was committed: its "
        "newest steps are lost"
    )
