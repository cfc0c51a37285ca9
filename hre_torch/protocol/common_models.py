"""Which model of each version is the common one, under everything that is released.

An upload names the digests of all models that its sender has opened within S releases.
Uploads in one list are based on versions at most S apart, so any two of them name the
older one's version both: a list in which no two disagree sums updates whose senders
have seen the same models up to there.

A version *settles* once c + 1 identities have named the same digest of it in released
lists: at most c of them collude, so one is honest. What names another digest of a
settled version can never be released. One false digest settles nothing and refuses
nobody, whoever is first to name it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hre_torch.errors import MessageError, ReleaseError
from hre_torch.protocol.entries import Entry, NamedModels
from hre_torch.protocol.task import TaskConfig

__all__ = ["CommonModels", "agreed"]


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
