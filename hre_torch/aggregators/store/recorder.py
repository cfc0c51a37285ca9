"""The journal that a store listens with: what a role says becomes rows and bodies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

import msgspec

from hre_torch.aggregators.store.rows import Rows
from hre_torch.aggregators.store.shelves import BodyShelf
from hre_torch.errors import StoreError
from hre_torch.protocol.ciphers import Parts
from hre_torch.protocol.entries import Entry
from hre_torch.protocol.envelope import Envelope
from hre_torch.protocol.journal import Journal
from hre_torch.protocol.messages import Release
from hre_torch.protocol.states import StoredState

__all__ = ["WITHDRAWN", "Recorder"]

WITHDRAWN: Final = "withdrawn"
"""Status of a line whose upload the ledger has no longer."""


class Recorder(Journal):
    """Turns what a role says into notes, and notes into rows.

    What an upload leaves behind in the end is one row of about 100 octets. Its body is
    kept until a release after the one that consumed it, so that the newest sum can be
    computed again; a sum is kept until everybody has fetched it.

    Args:
        rows: the database.
        shelf: where bodies go.
        transaction: the store's.
    """

    def __init__(
        self,
        rows: Rows,
        shelf: BodyShelf,
        transaction: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._rows = rows
        self._shelf = shelf
        self._transaction = transaction
        self._notes: list[Callable[[], None]] = []
        self._urgent = False
        self.listening = False

    @property
    def waiting(self) -> bool:
        """Whether anything was said that is not written yet."""
        return bool(self._notes)

    @property
    def urgent(self) -> bool:
        """Whether an answer depends on something that is not written yet."""
        return self._urgent

    def write(self) -> None:
        """Write all notes, inside the transaction of the database."""
        for note in self._notes:
            note()

    def clear(self) -> None:
        """Forget all notes: they are written, or never will be."""
        self._notes.clear()
        self._urgent = False

    def entered(self, entry: Entry, stored: StoredState) -> None:
        """Write the upload's line in the ledger, and its body."""
        # The role goes on changing its entry; the line says what it is now.
        line = msgspec.structs.replace(entry)
        self._note(partial(self._enter, line, stored))

    def accepted(self, upload: bytes) -> None:
        """Change the upload's status, some time: see `Journal.accepted`."""
        self._note(partial(self._accept, upload), urgent=False)

    def withdrawn(self, upload: bytes) -> None:
        """Drop the upload's body; its line stays, so that its number stays used."""
        self._note(partial(self._withdraw, upload))

    def released(self, release: Envelope[Release], total: Parts) -> None:
        """Write the signed list and its sum, and consume what it names."""
        self._note(partial(self._release, release, total))

    def rebuilt(self, version: int, total: Parts) -> None:
        """Put a damaged sum back; the role says so while it is being made."""
        with self._transaction():
            self._note(partial(self._rebuild, version, total))

    def fetched(self, recipient: str, version: int) -> None:
        """Write how far a participant is, some time."""
        self._note(partial(self._fetch, recipient, version), urgent=False)

    def forgotten(self, version: int) -> None:
        """Drop a sum, some time."""
        self._note(partial(self._forget, version), urgent=False)

    def witnessed(self, evidence: bytes) -> None:
        """Write evidence."""
        self._note(partial(self._keep, evidence))

    def _note(self, note: Callable[[], None], *, urgent: bool = True) -> None:
        if not self.listening:
            raise StoreError(
                "a role changed its state outside of `with store.transaction():`, or "
                "after its store had failed: run its steps inside, and after a failure "
                "make a new role from what `load` returns"
            )
        self._notes.append(note)
        self._urgent |= urgent

    def _enter(self, entry: Entry, stored: StoredState) -> None:
        body = self._shelf.put(msgspec.msgpack.encode(stored))
        self._rows.insert(
            "uploads",
            self._rows.next_key("uploads"),
            entry.digest,
            entry.name,
            entry.sequence,
            entry.base_version,
            entry.state_digest,
            entry.status,
            0,
            0,
            body,
        )

    def _accept(self, upload: bytes) -> None:
        position, _ = self._waiting(upload)
        self._rows.change("uploads", position, status="accepted")

    def _withdraw(self, upload: bytes) -> None:
        position, body = self._waiting(upload)
        self._shelf.drop(body)
        self._rows.change("uploads", position, status=WITHDRAWN, body=None)

    def _release(self, release: Envelope[Release], total: Parts) -> None:
        header = release.header
        self._compact(header.version - 1)
        for place, item in enumerate(header.uploads):
            position, _ = self._waiting(item.digest)
            self._rows.change(
                "uploads",
                position,
                status="released",
                version=header.version,
                place=place,
            )
        for place, item in enumerate(header.expired):
            position, body = self._waiting(item.digest)
            self._shelf.drop(body)
            self._rows.change(
                "uploads",
                position,
                status="expired",
                version=header.version,
                place=place,
                body=None,
            )
        self._rows.insert(
            "releases",
            header.version,
            header.commitment,
            header.chain,
            release.encode(),
            self._shelf.put(msgspec.msgpack.encode(total)),
        )

    def _compact(self, version: int) -> None:
        """Drop what only the newest release needs, now that there is a newer one."""
        if version == 0:
            return
        _, _, _, _, body = self._rows.one("releases", version)
        if body is None:
            self._rows.change("releases", version, encoded=None)
        elif self._shelf.get(body) is None:
            raise StoreError(
                f"the stored sum of release {version} is damaged; start the server "
                "again, which computes it anew from its uploads"
            )
        self._drop_uploads(version)

    def _rebuild(self, version: int, total: Parts) -> None:
        _, _, _, _, body = self._rows.one("releases", version)
        self._shelf.put_back(body, msgspec.msgpack.encode(total))

    def _fetch(self, recipient: str, version: int) -> None:
        if list(self._rows.where("fetched", "name = ?", recipient)):
            self._rows.change("fetched", recipient, version=version)
        else:
            self._rows.insert("fetched", recipient, version)

    def _forget(self, version: int) -> None:
        _, _, _, _, body = self._rows.one("releases", version)
        newest = self._rows.next_key("releases") - 1
        self._shelf.drop(body)
        self._rows.change("releases", version, body=None)
        if version < newest:
            self._rows.change("releases", version, encoded=None)
        self._drop_uploads(version)

    def _keep(self, evidence: bytes) -> None:
        self._rows.insert("evidence", self._rows.next_key("evidence"), evidence)

    def _drop_uploads(self, version: int) -> None:
        embodied = list(
            self._rows.where("uploads", "version = ? AND body IS NOT NULL", version)
        )
        for position, *_, body in embodied:
            self._shelf.drop(body)
            self._rows.change("uploads", position, body=None)

    def _waiting(self, digest: bytes) -> tuple[int, int]:
        """Return position and body of an upload that nothing has consumed yet."""
        found = list(
            self._rows.where(
                "uploads", "version = 0 AND digest = ? AND body IS NOT NULL", digest
            )
        )
        if len(found) != 1:
            raise StoreError(
                f"the ledger on disk has no waiting upload {digest.hex()[:16]}, but "
                "the server's memory has: start the server again"
            )
        position, *_, body = found[0]
        return position, body
