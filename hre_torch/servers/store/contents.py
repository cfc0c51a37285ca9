"""What is in a store, read back and checked from the first row to the last body."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from hre_torch.errors import HREError, MessageError, SignatureError
from hre_torch.protocol.entries import (
    GENESIS,
    Entry,
    LedgerState,
    NamedModels,
    chain_after,
)
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.wire import decode, parse_header, signed_bytes
from hre_torch.servers.journal import ReleasedState, StoredState
from hre_torch.servers.store.blobs import BlobStore
from hre_torch.servers.store.rows import Rows

__all__ = ["Contents", "read_contents", "told_as_lost"]


@dataclass(slots=True)
class Contents:
    """Everything that a store holds.

    Attributes:
        format: version of the format.
        cfg: hash of the task.
        role: `"dsp"` or `"kts"`.
        step: number of transactions so far.
        made_by: version of hre_torch that made the store.
        ledger: as the role's ledger keeps it.
        uploads: unreleased uploads, by digest.
        releases: those whose sum is still kept, by version.
        newest_release: the newest signed list, encoded.
        fetched: participant to the last release it has opened.
        evidence: encoded records, oldest first.
        statements: encoded, in the order in which they were made.
        verdicts: encoded, oldest release first.
        lists: signed lists that a line still names, encoded, by version.
        lost: pending uploads whose bodies are damaged: see `told_as_lost`.
        rebuild: versions whose sum is damaged but can be computed again.
        findings: what is wrong beyond repair, in words.
    """

    format: int = 0
    cfg: bytes = b""
    role: str = ""
    step: int = 0
    made_by: str = ""
    ledger: LedgerState = field(default_factory=lambda: _empty())
    uploads: dict[bytes, StoredState] = field(default_factory=dict)
    releases: dict[int, ReleasedState] = field(default_factory=dict)
    newest_release: bytes | None = None
    fetched: dict[str, int] = field(default_factory=dict)
    evidence: list[bytes] = field(default_factory=list)
    statements: list[bytes] = field(default_factory=list)
    verdicts: list[bytes] = field(default_factory=list)
    lists: dict[int, bytes] = field(default_factory=dict)
    lost: list[Entry] = field(default_factory=list)
    rebuild: list[int] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def read_contents(rows: Rows, blobs: BlobStore, signer: bytes | None) -> Contents:
    """Read and check everything; what is wrong is in `findings`.

    First the structure and the tally: where they do not hold, nothing else is read,
    since no row can be trusted. Then the signed lists, from the oldest that is kept:
    each has to carry the hash chain on from where it says that it began, and to name
    every line that it has consumed. At last every body: against its digest, and an
    upload against its own signed header.

    Args:
        rows: the database.
        blobs: where bodies are.
        signer: the KTS's signing key, against which lists are verified; None where the
            roster is not at hand.

    Raises:
        StoreError: the store has another format.
        sqlite3.Error: the database cannot be read at all.
    """
    contents = Contents(findings=rows.findings())
    if contents.findings:
        return contents
    _, contents.format, contents.cfg, contents.role, contents.step, made_by = rows.one(
        "head", 0
    )
    contents.made_by = made_by
    reader = _Reader(rows, blobs, contents)
    reader.read_lines()
    reader.read_lists(signer)
    if not contents.findings:
        reader.read_uploads()
        reader.read_sums()
    contents.evidence = [record for _, record in rows.every("evidence")]
    contents.statements = [record for *_, record in rows.every("statements")]
    contents.verdicts = [record for _, record in rows.every("verdicts")]
    return contents


def told_as_lost(entry: Entry) -> str:
    """Return what to say of a pending upload whose body is damaged.

    It is as if it had not arrived. That it was accepted, and acknowledged, is not on
    the disk at once; the KTS, which has logged it then, lists it in its records.
    """
    return (
        f"upload {entry.sequence} of {entry.name!r} is damaged, and dropped at the "
        "start: its owner sends it again. If it was acknowledged already, the "
        "comparison with the key transform server shows that it is lacking"
    )


def _empty() -> LedgerState:
    return LedgerState(0, GENESIS, [], {}, [], {0: GENESIS})


class _Reader:
    """Fills `Contents`; keeps where the bodies of uploads are."""

    def __init__(self, rows: Rows, blobs: BlobStore, contents: Contents) -> None:
        self._rows = rows
        self._blobs = blobs
        self._contents = contents
        self._waiting: list[tuple[Entry, int]] = []
        self._consumed: dict[int, list[Entry]] = {}
        self._bodies: dict[bytes, int | None] = {}
        self._lists: dict[int, Release] = {}

    def read_lines(self) -> None:
        """Read what is known of each participant, and every line of the ledger."""
        state = self._contents.ledger
        for name, sequence, fetched in self._rows.every("participants"):
            state.newest[name] = sequence
            self._contents.fetched[name] = fetched
        for row in self._rows.every("uploads"):
            _, digest, name, sequence, base, models, status, version, body = row
            entry = Entry(name, sequence, base, models, digest, status, version)
            state.entries.append(entry)
            self._bodies[digest] = body
            if version:
                self._consumed.setdefault(version, []).append(entry)
            else:
                self._waiting.append((entry, body))
        for _, record in self._rows.every("models"):
            state.models.append(msgspec.msgpack.decode(record, type=NamedModels))

    def read_lists(self, signer: bytes | None) -> None:
        """Read the signed lists, and check hash chain, signatures and lines."""
        state = self._contents.ledger
        for version, encoded, _ in self._rows.every("releases"):
            header = self._list(version, encoded, signer)
            if header is None:
                return
            follows = version == state.version + 1
            chain = chain_after(
                header.previous,
                version,
                header.uploads,
                header.expired,
                header.commitment,
            )
            if chain != header.chain or (follows and header.previous != state.chain):
                self._find(f"the hash chain does not recompute at release {version}")
                return
            self._lists[version] = header
            state.version, state.chain = version, chain
            state.chains |= {version - 1: header.previous, version: chain}
            self._contents.newest_release = encoded
            if version in self._consumed:
                self._contents.lists[version] = encoded
        for version, entries in self._consumed.items():
            if not self._names(version, entries):
                self._find(f"lines of release {version} are not those of its list")

    def read_uploads(self) -> None:
        """Read the bodies of unreleased uploads."""
        for entry, body in self._waiting:
            stored = self._upload(entry.digest, body)
            if stored is None and entry.status == "pending":
                self._contents.lost.append(entry)
                continue
            if stored is None:
                self._find(
                    f"upload {entry.sequence} of {entry.name!r} is damaged or missing"
                )
                continue
            self._contents.uploads[entry.digest] = stored
            if entry.status == "pending":
                entry.voids = stored.envelope().header.voids
        self._pass_over_lost()

    def _pass_over_lost(self) -> None:
        """Leave out what is lost; the newest number of its owner may come again."""
        state, lost = self._contents.ledger, self._contents.lost
        lost.sort(key=lambda entry: -entry.sequence)
        for entry in lost:
            state.entries.remove(entry)
            if state.newest[entry.name] == entry.sequence:
                state.newest[entry.name] -= 1

    def read_sums(self) -> None:
        """Read the sums that are still kept, or what they can be computed from."""
        for version, encoded, body in self._rows.every("releases"):
            if body is None:
                continue
            count = len(self._lists[version].uploads)
            content = self._blobs.get(body)
            if content is not None:
                total = msgspec.msgpack.decode(content, type=Parts)
                kept = ReleasedState(encoded, count, total)
            else:
                log = self._log(version)
                if not log:
                    self._find(
                        f"the sum of release {version} is damaged, and its uploads are "
                        "no longer kept"
                    )
                    continue
                self._contents.rebuild.append(version)
                kept = ReleasedState(encoded, count, (), log)
            self._contents.releases[version] = kept

    def _list(
        self, version: int, encoded: bytes, signer: bytes | None
    ) -> Release | None:
        """Return a list that is what it should be, or None and a finding."""
        try:
            signed = decode(encoded, Release, cfg=self._contents.cfg, max_bytes=0)
            if signer is not None:
                signed.verify(signer)
        except SignatureError:
            self._find(f"the list of release {version} is not signed by the KTS")
            return None
        except HREError as error:
            self._find(f"the list of release {version} cannot be read: {error}")
            return None
        if signed.header.version != version:
            self._find(f"the list of release {version} is that of another release")
            return None
        return signed.header

    def _names(self, version: int, entries: list[Entry]) -> bool:
        """Whether a list is kept and names all these lines as what they are."""
        header = self._lists.get(version)
        if header is None:
            return False
        known = [("released", item) for item in header.uploads]
        known += [("expired", item) for item in header.expired]
        listed = {item.digest: (status, item) for status, item in known}
        return all(
            listed.get(entry.digest) == (entry.status, entry.listed())
            for entry in entries
        )

    def _log(self, version: int) -> tuple[Parts, ...]:
        """Return the parts of a release's uploads in its order, () if one is lost."""
        log = []
        for item in self._lists[version].uploads:
            body = self._bodies.get(item.digest)
            stored = None if body is None else self._upload(item.digest, body)
            if stored is None:
                return ()
            log.append(stored.parts)
        return tuple(log)

    def _upload(self, digest: bytes, body: int) -> StoredState | None:
        """Return a stored upload that is what the ledger and its header say it is."""
        content = self._blobs.get(body)
        if content is None:
            return None
        try:
            stored = msgspec.msgpack.decode(content, type=StoredState)
            header = parse_header(stored.header, Upload)
        except (msgspec.DecodeError, UnicodeDecodeError, MessageError):
            return None
        signed = signed_bytes(stored.header, stored.proof)
        listed = {part.digest for part in header.parts}
        held = {hashlib.sha256(part).digest() for part in stored.parts}
        sound = hashlib.sha256(signed).digest() == digest and held <= listed
        return stored if sound else None

    def _find(self, finding: str) -> None:
        self._contents.findings.append(finding)
