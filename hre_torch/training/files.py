"""Files of a run: replaced in one step, cut back to what a checkpoint knows of."""

from __future__ import annotations

import os
from pathlib import Path

from hre_torch.errors import RunDirectoryError

__all__ = ["cut_file", "file_size", "read_file", "replace_file"]


def file_size(path: Path) -> int:
    """Return the length of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def read_file(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read ({error.strerror})") from error


def cut_file(path: Path, length: int) -> None:
    """Drop what was appended to a file after its checkpoint.

    Raises:
        RunDirectoryError: it is shorter than it was then.
    """
    present = file_size(path)
    if present < length:
        raise RunDirectoryError(
            f"{path} has {present} bytes, but had {length} when the checkpoint was "
            "written: it was changed, and the run cannot be resumed"
        )
    if present > length:
        os.truncate(path, length)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file in one step that survives a power cut.

    Args:
        path: the file; its folder must exist.
        data: all of its new content.
        mode: permissions, from its first byte on.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        # What an interruption left over may have had another mode.
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
