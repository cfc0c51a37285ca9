"""Bodies of uploads and sums: small ones in the database, large ones in files.

Files are named by what is in them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from hre_torch.durable_files import sync_folder
from hre_torch.errors import StoreError
from hre_torch.servers.store.disk import NEW_TASK, write_all
from hre_torch.servers.store.rows import Rows

__all__ = ["FILE_BYTES", "BlobStore", "BodyFiles"]

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


FILE_BYTES: Final = 1 << 20
"""A larger body is a file: SQLite would write it twice, and its log would grow."""


class BlobStore:
    """Puts bodies away and finds them again, each under a number.

    Files that a transaction needs are on the disk before its rows; files that it no
    longer needs are removed after it is committed.

    Args:
        rows: the database.
        files: the folder of large bodies.
    """

    def __init__(self, rows: Rows, files: BodyFiles) -> None:
        self._rows = rows
        self._files = files
        self._dropped: set[bytes] = set()

    def put(self, content: bytes) -> int:
        """Keep a body; return its number."""
        number = self._rows.next_key("bodies")
        digest = hashlib.sha256(content).digest()
        filed = len(content) > FILE_BYTES
        if filed:
            self._files.write(digest, content)
        else:
            self._rows.connection.execute(
                "INSERT INTO contents VALUES (?, ?)", (number, content)
            )
        self._rows.insert("bodies", number, digest, len(content), int(filed))
        return number

    def get(self, number: int) -> bytes | None:
        """Return a body, or None if it is missing or damaged."""
        _, digest, _, filed = self._rows.one("bodies", number)
        if filed:
            return self._files.read(digest)
        found = self._rows.connection.execute(
            "SELECT content FROM contents WHERE id = ?", (number,)
        ).fetchone()
        content = found[0] if found else None
        if not isinstance(content, bytes):
            return None
        return content if hashlib.sha256(content).digest() == digest else None

    def put_back(self, number: int, content: bytes) -> None:
        """Replace a damaged body by what it was.

        Raises:
            StoreError: that is not what it was.
        """
        _, digest, _, filed = self._rows.one("bodies", number)
        if hashlib.sha256(content).digest() != digest:
            raise StoreError(
                "a damaged sum, computed again from its uploads, comes out different "
                f"from the one that was kept; {NEW_TASK}"
            )
        if filed:
            self._files.write(digest, content)
        else:
            self._rows.connection.execute(
                "INSERT OR REPLACE INTO contents VALUES (?, ?)", (number, content)
            )

    def drop(self, number: int) -> None:
        """Forget a body."""
        _, digest, _, filed = self._rows.delete("bodies", number)
        if filed:
            self._dropped.add(digest)
        else:
            self._rows.connection.execute(
                "DELETE FROM contents WHERE id = ?", (number,)
            )

    def sweep(self) -> None:
        """Remove the files of dropped bodies, once that is committed."""
        needed = set(self._filed()) if self._dropped else set()
        for digest in self._dropped - needed:
            self._files.remove(digest)
        self._dropped.clear()

    def sweep_orphans(self) -> None:
        """Remove files that a step left behind which never came to its end."""
        for path in self._files.orphans(self._filed()):
            path.unlink()

    def _filed(self) -> Iterator[bytes]:
        for _, digest, _, _ in self._rows.where("bodies", "filed = 1"):
            yield digest
