"""Files of a run: read, measured, cut back to what a checkpoint knows of."""

from __future__ import annotations

import os
from pathlib import Path

from hre_torch.errors import RunDirectoryError

__all__ = ["cut_file", "file_size", "read_file"]


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
