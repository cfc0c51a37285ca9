"""What the disk says, in words that help whoever runs the server."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hre_torch.errors import StoreError

__all__ = ["NEW_TASK", "disk_errors", "probe_room", "write_all"]

NEW_TASK: Final = (
    "start a new task from the last released weights (`hre-torch roster sign "
    "--start`); never put an older copy of the folder in its place, since a server "
    "that goes on from one contradicts what it has signed"
)
"""What to do where a store is lost."""

_ADVICE: Final = {
    "SQLITE_FULL": "the disk is full; make room and start the server again",
    "SQLITE_READONLY": "the disk or the folder is read-only; make it writable and "
    "start the server again",
    "SQLITE_CANTOPEN": "check that the folder exists and that this user may write it",
    "SQLITE_BUSY": "another process has the database open; end it, or use another "
    "folder",
    "SQLITE_CORRUPT": f"the database is damaged; {NEW_TASK}",
    "SQLITE_NOTADB": f"the database is damaged; {NEW_TASK}",
    "SQLITE_IOERR": "the disk failed; check it, then start the server again",
}
_ERRNO_NAMES: Final = {
    errno.ENOSPC: "SQLITE_FULL",
    errno.EDQUOT: "SQLITE_FULL",
    errno.EFBIG: "SQLITE_FULL",
    errno.EROFS: "SQLITE_READONLY",
    errno.EACCES: "SQLITE_CANTOPEN",
    errno.EPERM: "SQLITE_CANTOPEN",
    errno.ENOENT: "SQLITE_CANTOPEN",
    errno.EIO: "SQLITE_IOERR",
}
_PROBE: Final = "probe"
_PROBE_OCTETS: Final = 4096
_UNKNOWN: Final = "run `hre-torch db check` on the folder"


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the operating system into `StoreError`.

    Stored text or a stored record that cannot be decoded is one too: SQLite even quotes
    damaged text in its own messages, which Python then cannot decode.

    Args:
        folder: the store's folder, which the message names.
    """
    try:
        yield
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise StoreError(_complaint(folder, str(error), "SQLITE_CORRUPT")) from error
    except sqlite3.Error as error:
        # Extended names such as SQLITE_IOERR_WRITE begin with the primary one.
        code = getattr(error, "sqlite_errorname", "")
        name = "_".join(code.split("_")[:2])
        if "Could not decode" in str(error):
            # Python says so of a text column, and gives no name.
            name = "SQLITE_CORRUPT"
        raise StoreError(_complaint(folder, str(error), name)) from error
    except OSError as error:
        name = _ERRNO_NAMES.get(error.errno or 0, "")
        raise StoreError(_complaint(folder, str(error), name)) from error


def _complaint(folder: Path, error: str, name: str) -> str:
    return f"the store in {folder} failed ({error}): {_ADVICE.get(name, _UNKNOWN)}"


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything; a disk that fills up in the middle is an `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def probe_room(folder: Path, octets: int) -> None:
    """Write a small file and take it away again; see that there is room for more.

    Args:
        folder: on the disk in question.
        octets: how many there must be room for.

    Raises:
        OSError: the disk is full or read-only, or it fails.
    """
    path = folder / _PROBE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, bytes(_PROBE_OCTETS))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < octets:
        raise OSError(errno.ENOSPC, f"less than {octets} octets are free")
