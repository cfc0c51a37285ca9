"""Large bodies as files that are named by what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hre_torch.aggregators.store.disk import write_all
from hre_torch.durable_files import sync_folder

__all__ = ["BodyFiles"]

_UNFINISHED: Final = ".unfinished"


class BodyFiles:
    """A folder of files, each named by the SHA-256 of its content.

    Args:
        folder: where they lie; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, digest: bytes, content: bytes) -> None:
        """Write a file so that it is whole and on the disk when this returns.

        A file of that name is replaced: it may be the damaged one.
        """
        path = self._path(digest)
        unfinished = path.with_name(path.name + _UNFINISHED)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.replace(path)
        sync_folder(self.folder)

    def read(self, digest: bytes) -> bytes | None:
        """Return the content, or None if it is missing or not what its name says."""
        try:
            content = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).digest() == digest else None

    def remove(self, digest: bytes) -> None:
        """Remove a file that nothing refers to any more; it may be gone already."""
        self._path(digest).unlink(missing_ok=True)

    def orphans(self, known: Iterable[bytes]) -> list[Path]:
        """Return the files that none of the known digests names."""
        names = {digest.hex() for digest in known}
        return sorted(path for path in self.folder.iterdir() if path.name not in names)

    def _path(self, digest: bytes) -> Path:
        return self.folder / digest.hex()
