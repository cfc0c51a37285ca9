"""What is in a store, read back and checked from the first row to the last body."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from hre_torch.aggregators.store.recorder import WITHDRAWN
from hre_torch.aggregators.store.rows import FORMAT, Rows
from hre_torch.aggregators.store.shelves import BodyShelf
from hre_torch.errors import MessageError
from hre_torch.protocol.ciphers import Parts
from hre_torch.protocol.entries import GENESIS, Entry, LedgerState, chain_after
from hre_torch.protocol.envelope import parse_header
from hre_torch.protocol.framing import signed_bytes
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.states import ReleasedState, StoredState

__all__ = ["Contents", "read_contents"]


@dataclass(slots=True)
class Contents:
    """Everything that a store holds.

    Attributes:
        format: version of the format.
        cfg: hash of the task.
        role: `"dsp"` or `"kts"`.
        step: number of transactions so far.
        ledger: as the role's ledger keeps it.
        uploads: unreleased uploads, by digest.
        releases: those whose sum is still kept, by version.
        newest_release: the newest signed list, encoded.
        fetched: participant to the last release it has opened.
        evidence: encoded records, oldest first.
        rebuild: versions whose sum is damaged but can be computed again.
        findings: what is wrong beyond repair, in words.
    """

    format: int = 0
    cfg: bytes = b""
    role: str = ""
    step: int = 0
    ledger: LedgerState = field(
        default_factory=lambda: LedgerState(0, GENESIS, [], {}, {})
    )
    uploads: dict[bytes, StoredState] = field(default_factory=dict)
    releases: dict[int, ReleasedState] = field(default_factory=dict)
    newest_release: bytes | None = None
    fetched: dict[str, int] = field(default_factory=dict)
    evidence: list[bytes] = field(default_factory=list)
    rebuild: list[int] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def read_contents(rows: Rows, shelf: BodyShelf) -> Contents:
    """Read and check everything; what is wrong is in `findings`.

    First the structure and the tally: where they do not hold, nothing else is read,
    since no row can be trusted. Then the hash chain over all releases, and then every
    body: against its digest, and an upload against its own signed header.

    Raises:
        sqlite3.Error: the database cannot be read at all.
    """
    contents = Contents(findings=rows.findings())
    if contents.findings:
        return contents
    _, contents.format, contents.cfg, contents.role, contents.step = rows.one("head", 0)
    if contents.format != FORMAT:
        contents.findings.append(
            f"the store has format {contents.format}, this version of hre_torch reads "
            f"format {FORMAT}"
        )
        return contents
    reader = _Reader(rows, shelf, contents)
    reader.read_ledger()
    reader.read_uploads()
    reader.read_releases()
    contents.fetched = dict(rows.every("fetched"))
    contents.evidence = [record for _, record in rows.every("evidence")]
    return contents


class _Reader:
    """Fills `Contents`; keeps where the bodies of uploads are."""

    def __init__(self, rows: Rows, shelf: BodyShelf, contents: Contents) -> None:
        self._rows = rows
        self._shelf = shelf
        self._contents = contents
        self._waiting: list[tuple[Entry, int]] = []
        self._consumed: dict[int, list[tuple[int, Entry, int | None]]] = {}

    def read_ledger(self) -> None:
        """Read every line of the ledger and recompute the hash chain."""
        state = self._contents.ledger
        for row in self._rows.every("uploads"):
            _, digest, name, sequence, base, model, status, version, place, body = row
            state.newest[name] = max(sequence, state.newest.get(name, -1))
            if status == WITHDRAWN:
                continue
            entry = Entry(name, sequence, base, model, digest, status, version)
            state.entries.append(entry)
            if entry.status == "released":
                state.models[entry.base_version] = entry.state_digest
            if entry.version:
                consumed = self._consumed.setdefault(entry.version, [])
                consumed.append((place, entry, body))
            else:
                self._waiting.append((entry, body))
        for version, commitment, chain, encoded, _ in self._rows.every("releases"):
            self._extend(version, commitment)
            if state.chain != chain:
                self._find(f"the hash chain does not recompute at release {version}")
                return
            self._contents.newest_release = encoded

    def read_uploads(self) -> None:
        """Read the bodies of unreleased uploads."""
        for entry, body in self._waiting:
            stored = self._upload(entry, body)
            if stored is None:
                self._find(
                    f"upload {entry.sequence} of {entry.name!r} is damaged or missing"
                )
            else:
                self._contents.uploads[entry.digest] = stored

    def read_releases(self) -> None:
        """Read the sums that are still kept, or what they can be computed from."""
        for version, _, _, encoded, body in self._rows.every("releases"):
            if body is None:
                continue
            listed = self._listed(version, "released")
            content = self._shelf.get(body)
            if content is not None:
                total = msgspec.msgpack.decode(content, type=Parts)
                kept = ReleasedState(encoded, len(listed), total)
            else:
                log = self._log(version)
                if not log:
                    self._find(
                        f"the sum of release {version} is damaged, and its uploads are "
                        "no longer kept"
                    )
                    continue
                self._contents.rebuild.append(version)
                kept = ReleasedState(encoded, len(listed), (), log)
            self._contents.releases[version] = kept

    def _extend(self, version: int, commitment: bytes) -> None:
        state = self._contents.ledger
        uploads, expired = (
            [entry.listed() for entry in self._listed(version, status)]
            for status in ("released", "expired")
        )
        state.chain = chain_after(state.chain, version, uploads, expired, commitment)
        state.version = version

    def _listed(self, version: int, status: str) -> list[Entry]:
        consumed = self._consumed.get(version, [])
        placed = [(p, entry) for p, entry, _ in consumed if entry.status == status]
        return [entry for _, entry in sorted(placed, key=lambda item: item[0])]

    def _log(self, version: int) -> tuple[Parts, ...]:
        """Return the parts of a release's uploads in its order, () if one is lost."""
        log = []
        for _, entry, body in sorted(
            self._consumed.get(version, []), key=lambda item: item[0]
        ):
            if entry.status == "released":
                stored = None if body is None else self._upload(entry, body)
                if stored is None:
                    return ()
                log.append(stored.parts)
        return tuple(log)

    def _upload(self, entry: Entry, body: int) -> StoredState | None:
        """Return a stored upload that is what the ledger and its header say it is."""
        content = self._shelf.get(body)
        if content is None:
            return None
        try:
            stored = msgspec.msgpack.decode(content, type=StoredState)
            header = parse_header(stored.header, Upload)
        except (msgspec.DecodeError, MessageError):
            return None
        signed = signed_bytes(stored.header, stored.proof)
        listed = {part.digest for part in header.parts}
        held = {hashlib.sha256(part).digest() for part in stored.parts}
        sound = hashlib.sha256(signed).digest() == entry.digest and held <= listed
        return stored if sound else None

    def _find(self, finding: str) -> None:
        self._contents.findings.append(finding)
