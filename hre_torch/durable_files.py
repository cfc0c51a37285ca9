"""Files that are whole or not there, survive a power cut, and can be locked."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType

from hre_torch.errors import UnsupportedError

__all__ = ["create_file", "posix_locks", "replace_file", "sync_folder"]


def posix_locks() -> ModuleType:
    """Return the module `fcntl`, once somebody wants a lock.

    Raises:
        UnsupportedError: the system has no such locks.
    """
    try:
        return import_module("fcntl")
    except ImportError as error:
        raise UnsupportedError(
            "this system has no POSIX file locks, which key files and stores need; use "
            "Linux, or another POSIX system"
        ) from error


def create_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that must not exist yet.

    Its name is claimed first, so of two writers at the same time one fails.

    Args:
        path: the file; its folder must exist.
        data: all of its content.
        mode: permissions, from the first moment on; a umask can only take from them.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written; nothing is left behind.
    """
    os.close(_create(path, mode))
    try:
        replace_file(path, data, mode)
    except BaseException:
        path.unlink()
        raise


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file in one step, or make it.

    Args:
        path: the file; its folder must exist.
        data: all of its new content.
        mode: permissions, from its first byte on.

    Raises:
        OSError: it cannot be written; the old file is as it was, or, where only the
            folder could not be synced, the new one is there.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        # What an interruption left over may have had another mode.
        unfinished.unlink(missing_ok=True)
        with os.fdopen(_create(unfinished, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut.

    Raises:
        OSError: the folder is not there, or its disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
