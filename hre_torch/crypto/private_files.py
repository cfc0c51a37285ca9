"""Files that their owner alone can read, written completely or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from hre_torch.durable_files import create_file
from hre_torch.errors import KeyFileError

__all__ = ["create_private", "read_passphrase", "read_private"]

_OWNER_ALONE: Final = 0o600


def create_private(path: Path, data: bytes) -> None:
    """Write a file that did not exist before, for its owner's eyes only.

    The name is claimed first (`O_EXCL`), then replaced by a finished and fsynced file,
    and the folder is fsynced, so that no reader ever sees half a file and none is lost
    in a power cut. The mode is 0600 from the first moment on, whatever the umask says.

    Args:
        path: where to write; its folder must exist.
        data: what to write.

    Raises:
        KeyFileError: the path exists already or cannot be written.
    """
    try:
        create_file(path, data, _OWNER_ALONE)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already; key files are never overwritten, name another file"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot write the key file {path}: {error.strerror}; name a file in a "
            "folder that exists and can be written"
        ) from error


def read_private(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file that its owner alone can read.

    The checks look at the opened file, not at its name, which somebody could exchange
    in between. Opening without blocking keeps a named pipe from hanging us.

    Args:
        path: the file; a symbolic link is followed.
        most_bytes: one more is read at most, so that the caller sees what is too long.

    Raises:
        KeyFileError: there is no such file, others can read it, or it is no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _check_private(os.fstat(descriptor), path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(most_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise KeyFileError(
            f"there is no key file {path}; make one with `hre-torch keygen`, or name "
            "the right file"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot read the key file {path}: {error.strerror}; run as its owner, or "
            "name another file"
        ) from error


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a file that its owner wrote a passphrase into.

    A pipe will do, such as one from a password manager.

    Raises:
        KeyFileError: it cannot be read, is empty, or others can read it.
    """
    try:
        with path.open("rb") as file:
            _check_owner(os.fstat(file.fileno()), path, "passphrase file")
            return file.read().splitlines()[0]
    except (OSError, IndexError) as error:
        raise KeyFileError(
            f"cannot read a passphrase from {path}; write it into the first line"
        ) from error


def _check_private(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is no ordinary file; name the key file itself")
    _check_owner(status, path, "key file")


def _check_owner(status: os.stat_result, path: Path, what: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"others than its owner can use the {what} {path} (mode {mode:04o}, "
            f"expected 0600): run `chmod 600 {path}`, and make a new key if a stranger "
            "may have read it"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"the {what} {path} belongs to user {status.st_uid}, who can read it, "
            f"but this process runs as user {os.geteuid()}: change its owner with "
            "`chown`, or run as that user"
        )
