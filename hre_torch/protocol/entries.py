"""What a ledger knows: its uploads, the hash chain over lists, and the common models.

Uploads are found by digest, number and age.

**Common models.** An upload names the digests of all models that its sender has opened
within S releases. Uploads in one list are based on versions at most S apart, so any two
of them name the older one's version both: a list in which no two disagree sums updates
whose senders have seen the same models up to there.

A version *settles* once c + 1 identities have named the same digest of it in released
lists: at most c of them collude, so one is honest. What names another digest of a
settled version can never be released. One false digest settles nothing and refuses
nobody, whoever is first to name it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from hre_torch.errors import MessageError, ReleaseError
from hre_torch.protocol.messages import Listed, Upload, named_models
from hre_torch.protocol.task import TaskConfig

__all__ = [
    "GENESIS",
    "CommonModels",
    "Entry",
    "EntryIndex",
    "LedgerState",
    "NamedModels",
    "Proposal",
    "agreed",
    "chain_after",
]


class CommonModels:
    """What uploads in released lists have said of the model of each version.

    Kept are the versions that an upload can still name, and the newest settled one.

    Args:
        config: the task's numbers; the model of version 0 is settled from the start.
        known: where an earlier ledger stopped.

    Raises:
        MessageError: no version of it is settled: it is damaged.
    """

    def __init__(self, config: TaskConfig, known: Iterable[NamedModels] = ()) -> None:
        self._needed = config.assumed_colluders + 1
        self._named = {each.version: each for each in known}
        self._touched: set[int] = set()
        if not self._named:
            self._named[0] = NamedModels(0, {}, config.initial_digest)
        if all(each.settled is None for each in self._named.values()):
            raise MessageError(
                "the state of a ledger names no version whose model is settled, not "
                "even the first one: it is damaged"
            )

    def settled(self) -> tuple[int, bytes]:
        """Return the newest version whose model is settled, and its digest."""
        return max(
            (each.version, each.settled)
            for each in self._named.values()
            if each.settled is not None
        )

    def votes(self, version: int) -> dict[str, bytes]:
        """Return which model of a version each identity named in a released list."""
        named = self._named.get(version)
        return dict(named.votes) if named is not None else {}

    def settle(self, released: Iterable[Entry]) -> None:
        """Count what the uploads of a release name; an identity's first word counts."""
        for entry in released:
            for version, digest in entry.models():
                named = self._named.get(version)
                if named is None:
                    named = self._named[version] = NamedModels(version, {})
                if entry.name not in named.votes:
                    self._vote(named, entry.name, digest)

    def admits(self, entry: Entry) -> bool:
        """Return whether an upload contradicts nothing that is settled."""
        return self.contradicted(entry) is None

    def contradicted(self, entry: Entry) -> int | None:
        """Return the oldest settled version of which an upload names another model."""
        for version, digest in entry.models():
            named = self._named.get(version)
            if named is not None and named.settled not in (None, digest):
                return version
        return None

    def check(self, uploads: Sequence[Entry]) -> None:
        """Check that no two uploads of a list name different models of one version.

        Raises:
            ReleaseError: two do.
        """
        said: dict[int, bytes] = {}
        for entry in uploads:
            for version, digest in entry.models():
                if said.setdefault(version, digest) != digest:
                    raise ReleaseError(
                        f"upload {entry.sequence} of {entry.name!r} was computed on "
                        f"another model than others of version {version}: a list must "
                        "sum updates of one common model"
                    )

    def forget(self, oldest: int) -> None:
        """Drop versions that no upload can name any more.

        Args:
            oldest: the oldest version that an upload may still name.
        """
        newest, _ = self.settled()
        for version in [v for v in self._named if v < oldest and v != newest]:
            del self._named[version]
            self._touched.add(version)

    def changes(self) -> tuple[list[NamedModels], list[int]]:
        """Return what has changed since this was last asked, and what was dropped."""
        touched = sorted(self._touched)
        self._touched.clear()
        kept = [_copy(self._named[v]) for v in touched if v in self._named]
        return kept, [v for v in touched if v not in self._named]

    def copies(self) -> list[NamedModels]:
        """Return a copy of everything, oldest version first."""
        return [_copy(self._named[version]) for version in sorted(self._named)]

    def _vote(self, named: NamedModels, name: str, digest: bytes) -> None:
        named.votes[name] = digest
        alike = sum(vote == digest for vote in named.votes.values())
        if named.settled is None and alike >= self._needed:
            named.settled = digest
        self._touched.add(named.version)


def agreed(entries: Sequence[Entry]) -> list[Entry]:
    """Return uploads of which no two disagree, of as many identities as may be.

    From the oldest version that is in dispute on, those stay that name the digest which
    most identities name; at equal numbers, the one that was named first.
    """
    kept = list(entries)
    while (dispute := _oldest_dispute(kept)) is not None:
        version, supporters = dispute
        chosen = max(supporters, key=lambda digest: len(supporters[digest]))
        kept = [e for e in kept if dict(e.models()).get(version, chosen) == chosen]
    return kept


def _oldest_dispute(
    entries: Sequence[Entry],
) -> tuple[int, dict[bytes, set[str]]] | None:
    """Return a version that is in dispute, and who names which model of it."""
    said: defaultdict[int, dict[bytes, set[str]]] = defaultdict(dict)
    for entry in entries:
        for version, digest in entry.models():
            said[version].setdefault(digest, set()).add(entry.name)
    disputed = [version for version, digests in said.items() if len(digests) > 1]
    return (min(disputed), said[min(disputed)]) if disputed else None


def _copy(named: NamedModels) -> NamedModels:
    return NamedModels(named.version, dict(named.votes), named.settled)


GENESIS: Final = bytes(32)
"""Hash chain before the first release."""

Status = Literal["pending", "accepted", "released", "expired"]


class Entry(msgspec.Struct):
    """One upload.

    Attributes:
        state_digests: as in its header; empty once a list has consumed the upload.
        version: the release or expiry that consumed it, else 0.
        voids: as in its header; empty once the upload is accepted.
    """

    name: str
    sequence: int
    base_version: int
    state_digests: bytes
    digest: bytes
    status: Status = "pending"
    version: int = 0
    voids: tuple[int, ...] = ()

    @classmethod
    def of(cls, header: Upload, digest: bytes) -> Entry:
        """Return a new entry for an upload's header."""
        return cls(
            header.sender,
            header.sequence,
            header.base_version,
            header.state_digests,
            digest,
            voids=header.voids,
        )

    def models(self) -> Iterator[tuple[int, bytes]]:
        """Yield the versions of which the upload names the model, and the digests."""
        return named_models(self.base_version, self.state_digests)

    def listed(self) -> Listed:
        """Return how a list names this upload."""
        return Listed(self.name, self.sequence, self.digest)


class Proposal(msgspec.Struct, frozen=True):
    """Uploads to release, oldest first, and uploads that are too old."""

    uploads: tuple[Entry, ...]
    expired: tuple[Entry, ...]

    def listed_uploads(self) -> tuple[Listed, ...]:
        """Return how a release names the uploads."""
        return tuple(entry.listed() for entry in self.uploads)

    def listed_expired(self) -> tuple[Listed, ...]:
        """Return how a release names what is too old."""
        return tuple(entry.listed() for entry in self.expired)


class NamedModels(msgspec.Struct):
    """What released uploads have said of the model of one version.

    Attributes:
        version: the version.
        votes: identity to the digest that it named first.
        settled: the digest that c + 1 identities named; None before they have.
    """

    version: int
    votes: dict[str, bytes]
    settled: bytes | None = None


class LedgerState(msgspec.Struct):
    """Everything a ledger needs to go on after a restart.

    `chains` is what the hash chain was at the newest versions, at least at those on
    which an upload may be based.
    """

    version: int
    chain: bytes
    entries: list[Entry]
    newest: dict[str, int]
    models: list[NamedModels]
    chains: dict[int, bytes]


def chain_after(
    previous: bytes,
    version: int,
    uploads: Sequence[Listed],
    expired: Sequence[Listed],
    commitment: bytes,
) -> bytes:
    """Return the hash chain after a release.

    `SHA-256(previous || msgpack(version, uploads, expired, commitment))`, previous 32
    octets.
    """
    listed = msgspec.msgpack.encode(
        (version, tuple(uploads), tuple(expired), commitment)
    )
    return hashlib.sha256(previous + listed).digest()


class EntryIndex:
    """One line for each upload that somebody may still ask about.

    How many wait is counted as they come and go, since every upload asks.

    Args:
        names: the participants in the roster.
        entries: lines of an earlier ledger, in the order in which they were entered.
    """

    def __init__(self, names: Iterable[str], entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._by_number: dict[tuple[str, int], bytes] = {}
        self._waiting: dict[bytes, Entry] = {}
        # Of each identity: what waits, what of it is accepted, what a list consumed.
        self._unreleased: Counter[str] = Counter()
        self._accepted: Counter[str] = Counter()
        self._consumed: dict[str, deque[Entry]] = {name: deque() for name in names}
        known = list(entries)
        for entry in known:
            self._file(entry)
            if entry.version == 0:
                self._wait(entry)
        for entry in sorted(known, key=_age):
            if entry.version:
                self._consumed.setdefault(entry.name, deque()).append(entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def find(self, digest: bytes) -> Entry | None:
        """Return the line with that digest, if there is one."""
        return self._entries.get(digest)

    def named(self, name: str, sequence: int) -> bytes | None:
        """Return the digest of the upload with that number, if there is a line."""
        return self._by_number.get((name, sequence))

    def waiting(self) -> Iterator[Entry]:
        """Yield what no list has consumed, oldest first."""
        return iter(self._waiting.values())

    def consumed_by(self, version: int) -> bool:
        """Return whether there is still a line that the list of a version consumed."""
        return any(entry.version == version for entry in self._entries.values())

    def unreleased(self, name: str) -> int:
        """Return how many uploads of one identity wait."""
        return self._unreleased[name]

    def ready(self) -> int:
        """Return of how many identities an accepted upload waits."""
        return len(self._accepted)

    def enter(self, entry: Entry) -> None:
        """Add the line of a new upload."""
        self._file(entry)
        self._wait(entry)

    def accept(self, entry: Entry) -> None:
        """Mark a waiting upload as accepted by both servers."""
        if entry.status == "pending":
            entry.status, entry.voids = "accepted", ()
            self._accepted[entry.name] += 1

    def withdraw(self, entry: Entry) -> None:
        """Remove the line of a waiting upload."""
        self._stop_waiting(entry)
        self._drop(entry)

    def consume(self, listed: Proposal, version: int) -> None:
        """Note which list has consumed some waiting uploads, and how.

        What they named of models is counted by then, and need not stay.
        """
        for entry in (*listed.uploads, *listed.expired):
            self._stop_waiting(entry)
            entry.version = version
            entry.state_digests = b""
        for entry in listed.uploads:
            entry.status = "released"
        for entry in listed.expired:
            entry.status = "expired"
        # In the order in which they are found after a restart, whatever the list's is.
        for entry in sorted((*listed.uploads, *listed.expired), key=_age):
            self._consumed[entry.name].append(entry)

    def forget(self, fetched: Mapping[str, int], oldest: int, most: int) -> list[Entry]:
        """Drop old lines of consumed uploads, and return them.

        Args:
            fetched: participant to the last release that it has opened.
            oldest: lists after this one are recent; their lines stay.
            most: how many of the newest lines of one identity stay for it while it has
                not opened the lists that consumed them.
        """
        forgotten = []
        for name, consumed in self._consumed.items():
            while consumed and consumed[0].version <= oldest:
                if consumed[0].version > fetched[name] and len(consumed) <= most:
                    break
                forgotten.append(consumed.popleft())
        for entry in forgotten:
            self._drop(entry)
        return forgotten

    def copies(self) -> list[Entry]:
        """Return a copy of every line."""
        return [msgspec.structs.replace(entry) for entry in self]

    def _file(self, entry: Entry) -> None:
        self._entries[entry.digest] = entry
        self._by_number[entry.name, entry.sequence] = entry.digest

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.digest]
        del self._by_number[entry.name, entry.sequence]

    def _wait(self, entry: Entry) -> None:
        self._waiting[entry.digest] = entry
        self._unreleased[entry.name] += 1
        self._accepted[entry.name] += entry.status == "accepted"
        self._tidy(entry.name)

    def _stop_waiting(self, entry: Entry) -> None:
        del self._waiting[entry.digest]
        self._unreleased[entry.name] -= 1
        self._accepted[entry.name] -= entry.status == "accepted"
        self._tidy(entry.name)

    def _tidy(self, name: str) -> None:
        # A counter keeps zeros, and `ready` counts what is there.
        if not self._accepted[name]:
            del self._accepted[name]


def _age(entry: Entry) -> tuple[int, int]:
    return entry.version, entry.sequence
