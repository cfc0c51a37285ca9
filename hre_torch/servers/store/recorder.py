"""The journal that a store listens with: what a role says becomes rows and bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import msgspec

from hre_torch.errors import StoreError
from hre_torch.protocol.entries import Entry, NamedModels
from hre_torch.protocol.messages import Release
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.wire import Envelope
from hre_torch.servers.journal import Journal, StoredState
from hre_torch.servers.store.blobs import BlobStore
from hre_torch.servers.store.rows import Rows

__all__ = ["Recorder"]


class Recorder(Journal):
    """Turns what a role says into notes, and notes into rows.

    An upload leaves nothing behind in the end but its sequence number, in the one row
    of its participant. Its body is kept until a release after the one that consumed it,
    so that the newest sum can be computed again; its line till the ledger lets go of
    it. A sum is kept until everybody has fetched it and its model is settled, and a
    signed list as long as its sum or a line that it names. The newest list always
    stays: from it the hash chain goes on.

    Args:
        rows: the database.
        blobs: where bodies go.
        transaction: the store's.
    """

    def __init__(
        self,
        rows: Rows,
        blobs: BlobStore,
        transaction: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._rows = rows
        self._blobs = blobs
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

    def refused(self, name: str, sequence: int) -> None:
        """Write that a number of a participant is used."""
        self._note(partial(self._enroll, name, sequence=sequence))

    def withdrawn(self, upload: bytes) -> None:
        """Drop the upload; its participant's row knows that its number is used."""
        self._note(partial(self._withdraw, upload))

    def released(self, release: Envelope[Release], total: Parts) -> None:
        """Write the signed list and its sum, and consume what it names."""
        self._note(partial(self._release, release, total))

    def named(self, models: Sequence[NamedModels], dropped: Sequence[int]) -> None:
        """Write what is known now of the models of some versions."""
        self._note(partial(self._name, list(models), list(dropped)))

    def rebuilt(self, version: int, total: Parts) -> None:
        """Put a damaged sum back; the role says so while it is being made."""
        with self._transaction():
            self._note(partial(self._rebuild, version, total))

    def fetched(self, recipient: str, version: int) -> None:
        """Write how far a participant is, some time."""
        self._note(partial(self._enroll, recipient, fetched=version), urgent=False)

    def forgotten(self, version: int) -> None:
        """Drop a sum, some time."""
        self._note(partial(self._forget, version), urgent=False)

    def outlived(self, lines: Sequence[Entry]) -> None:
        """Drop lines, some time."""
        self._note(partial(self._outlive, list(lines)), urgent=False)

    def stated(self, version: int, statement: bytes) -> None:
        """Write a statement."""
        self._note(partial(self._state, version, statement))

    def judged(self, version: int, verdict: bytes) -> None:
        """Write a verdict."""
        self._note(partial(self._rows.insert, "verdicts", version, verdict))

    def closed(self, version: int) -> None:
        """Drop what was said of a release, some time."""
        self._note(partial(self._close, version), urgent=False)

    def witnessed(self, evidence: bytes) -> None:
        """Write evidence."""
        self._note(partial(self._keep, evidence))

    def lost(self, entry: Entry) -> None:
        """Drop a pending upload as if it had not arrived; no role says so."""
        self._notes.append(partial(self._lose, entry))

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
        body = self._blobs.put(msgspec.msgpack.encode(stored))
        self._rows.insert(
            "uploads",
            self._rows.next_key("uploads"),
            entry.digest,
            entry.name,
            entry.sequence,
            entry.base_version,
            entry.state_digests,
            entry.status,
            0,
            body,
        )
        self._enroll(entry.name, sequence=entry.sequence)

    def _accept(self, upload: bytes) -> None:
        position, _ = self._waiting(upload)
        self._rows.change("uploads", position, status="accepted")

    def _withdraw(self, upload: bytes) -> None:
        position, body = self._waiting(upload)
        self._blobs.drop(body)
        self._rows.delete("uploads", position)

    def _lose(self, entry: Entry) -> None:
        self._withdraw(entry.digest)
        _, sequence, _ = self._rows.one("participants", entry.name)
        if sequence == entry.sequence:
            self._enroll(entry.name, sequence=sequence - 1)

    def _release(self, release: Envelope[Release], total: Parts) -> None:
        header = release.header
        self._compact(header.version - 1)
        for item in header.uploads:
            position, _ = self._waiting(item.digest)
            self._rows.change(
                "uploads",
                position,
                status="released",
                version=header.version,
                state_digests=b"",
            )
        for item in header.expired:
            position, body = self._waiting(item.digest)
            self._blobs.drop(body)
            self._rows.change(
                "uploads",
                position,
                status="expired",
                version=header.version,
                state_digests=b"",
                body=None,
            )
        self._rows.insert(
            "releases",
            header.version,
            release.encode(),
            self._blobs.put(msgspec.msgpack.encode(total)),
        )
        self._tidy(header.version - 1)

    def _compact(self, version: int) -> None:
        """Drop what only the newest release needs, now that there is a newer one."""
        if version == 0:
            return
        _, _, body = self._rows.one("releases", version)
        if body is not None and self._blobs.get(body) is None:
            raise StoreError(
                f"the stored sum of release {version} is damaged; start the server "
                "again, which computes it anew from its uploads"
            )
        self._drop_uploads(version)

    def _tidy(self, version: int) -> None:
        """Drop a signed list that neither a sum nor a line needs any more."""
        found = next(self._rows.where("releases", "version = ?", version), None)
        if found is None or version == self._rows.next_key("releases") - 1:
            return
        _, _, body = found
        lines = self._rows.where("uploads", "version = ?", version)
        if body is None and next(lines, None) is None:
            self._rows.delete("releases", version)

    def _name(self, models: list[NamedModels], dropped: list[int]) -> None:
        known = {version for version, _ in self._rows.every("models")}
        for named in models:
            record = msgspec.msgpack.encode(named)
            if named.version in known:
                self._rows.change("models", named.version, record=record)
            else:
                self._rows.insert("models", named.version, record)
        for version in known.intersection(dropped):
            self._rows.delete("models", version)

    def _rebuild(self, version: int, total: Parts) -> None:
        _, _, body = self._rows.one("releases", version)
        self._blobs.put_back(body, msgspec.msgpack.encode(total))

    def _forget(self, version: int) -> None:
        _, _, body = self._rows.one("releases", version)
        self._blobs.drop(body)
        self._rows.change("releases", version, body=None)
        self._drop_uploads(version)
        self._tidy(version)

    def _outlive(self, lines: list[Entry]) -> None:
        for line in lines:
            condition = "version = ? AND digest = ?"
            found = list(
                self._rows.where("uploads", condition, line.version, line.digest)
            )
            for position, *_, body in found:
                if body is not None:
                    self._blobs.drop(body)
                self._rows.delete("uploads", position)
        for version in sorted({line.version for line in lines}):
            self._tidy(version)

    def _enroll(self, name: str, **known: int) -> None:
        """Change the row of a participant, or begin it."""
        if list(self._rows.where("participants", "name = ?", name)):
            self._rows.change("participants", name, **known)
        else:
            row = {"sequence": -1, "fetched": 0} | known
            self._rows.insert("participants", name, row["sequence"], row["fetched"])

    def _state(self, version: int, statement: bytes) -> None:
        number = self._rows.next_key("statements")
        self._rows.insert("statements", number, version, statement)

    def _close(self, version: int) -> None:
        for table in ("statements", "verdicts"):
            for key, *_ in list(self._rows.where(table, "version = ?", version)):
                self._rows.delete(table, key)

    def _keep(self, evidence: bytes) -> None:
        self._rows.insert("evidence", self._rows.next_key("evidence"), evidence)

    def _drop_uploads(self, version: int) -> None:
        embodied = list(
            self._rows.where("uploads", "version = ? AND body IS NOT NULL", version)
        )
        for position, *_, body in embodied:
            self._blobs.drop(body)
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
