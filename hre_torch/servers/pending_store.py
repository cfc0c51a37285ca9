"""What a server keeps for later: unreleased uploads, and sums somebody has to fetch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hre_torch.protocol.entries import Entry, Proposal
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.suite import DataServiceCipher, KeyTransformCipher, Parts
from hre_torch.protocol.wire import Envelope
from hre_torch.servers.journal import Journal, ReleasedState, ServerState, StoredState

__all__ = ["KeptRelease", "KeptUpload", "PendingStore"]


@dataclass(slots=True)
class KeptUpload:
    """An upload that is not released yet: signed header, proof, decoded body."""

    envelope: Envelope[Upload]
    total: Any


@dataclass(slots=True)
class KeptRelease:
    """A release: the KTS's signed list, how many uploads it names, and their sum."""

    encoded: bytes
    count: int
    total: Any


class PendingStore:
    """The bodies behind a ledger, alike at both servers.

    Args:
        names: the participants in the roster.
        cipher: the server's half of the suite.
        journal: told of everything that is put here or goes.
        state: where an earlier server of the same task stopped.
        settled: the newest version whose model is settled. Whoever comes late starts
            there, so what follows is kept even if everybody has fetched it.
        keep: how many of the newest sums are kept at most; None keeps them until
            everybody has fetched them.
    """

    def __init__(
        self,
        names: Iterable[str],
        cipher: DataServiceCipher[Any] | KeyTransformCipher[Any],
        journal: Journal,
        state: ServerState | None,
        *,
        settled: int,
        keep: int | None = None,
    ) -> None:
        self._cipher = cipher
        self._keep = keep
        self._journal = journal
        self.uploads: dict[bytes, KeptUpload] = {}
        self.releases: dict[int, KeptRelease] = {}
        self.fetched = dict.fromkeys(names, 0)
        self._settled = settled
        self.lists: dict[int, bytes] = dict(state.lists) if state else {}
        if state is not None:
            self._restore(state)

    def put(
        self, entry: Entry, upload: Envelope[Upload], parts: Parts, total: Any
    ) -> None:
        """Keep an upload.

        Args:
            entry: how the ledger names it.
            upload: signed header and proof; parts it has are not kept.
            parts: what this server got of its body.
            total: the same, decoded.
        """
        self.uploads[entry.digest] = KeptUpload(replace(upload, parts=()), total)
        self._journal.entered(entry, StoredState.of(upload, parts))

    def signed(self, digest: bytes | None) -> Envelope[Upload] | None:
        """Return the signed header of an unreleased upload, if it is one."""
        kept = self.uploads.get(digest) if digest is not None else None
        return None if kept is None else kept.envelope

    def drop(self, digest: bytes) -> None:
        """Forget an upload that will never be released."""
        del self.uploads[digest]
        self._journal.withdrawn(digest)

    def totals(self, digests: Iterable[bytes]) -> Sequence[Any]:
        """Return the decoded bodies of some uploads."""
        return [self.uploads[digest].total for digest in digests]

    def release(
        self, proposal: Proposal, signed: Envelope[Release], total: Any
    ) -> None:
        """Keep a release's sum in the place of its uploads."""
        for entry in (*proposal.uploads, *proposal.expired):
            del self.uploads[entry.digest]
        self.releases[signed.header.version] = KeptRelease(
            signed.encode(), len(proposal.uploads), total
        )
        self.lists[signed.header.version] = signed.encode()
        self._journal.released(signed, self._cipher.dump(total))
        if self._keep is not None:
            self._forget_up_to(signed.header.version - self._keep)

    def forget(self, recipient: str, since: int) -> None:
        """Drop what everybody has, now that a recipient has all up to `since`."""
        if since <= self.fetched[recipient]:
            return
        self.fetched[recipient] = since
        self._journal.fetched(recipient, since)
        self._forget_up_to(min(self._settled, *self.fetched.values()))

    def settle(self, version: int) -> None:
        """Drop what everybody has, now that the model of a version is settled."""
        self._settled = version
        self._forget_up_to(min(version, *self.fetched.values()))

    def list_of(self, version: int) -> bytes | None:
        """Return the signed list of a release, encoded, if it is still kept."""
        kept = self.releases.get(version)
        return self.lists.get(version) if kept is None else kept.encoded

    def upload_states(self) -> dict[bytes, StoredState]:
        """Return the uploads as bytes."""
        return {
            digest: StoredState.of(kept.envelope, self._cipher.dump(kept.total))
            for digest, kept in self.uploads.items()
        }

    def release_states(self) -> dict[int, ReleasedState]:
        """Return the releases as bytes."""
        return {
            version: ReleasedState(
                kept.encoded, kept.count, self._cipher.dump(kept.total)
            )
            for version, kept in self.releases.items()
        }

    def _forget_up_to(self, last: int) -> None:
        for version in [v for v in self.releases if v <= last]:
            del self.releases[version]
            self._journal.forgotten(version)

    def _restore(self, state: ServerState) -> None:
        for digest, stored in state.uploads.items():
            total = self._cipher.restore(stored.parts)
            self.uploads[digest] = KeptUpload(stored.envelope(), total)
        for version, released in state.releases.items():
            total = self._sum(released)
            self.releases[version] = KeptRelease(
                released.encoded, released.count, total
            )
            if released.log:
                self._journal.rebuilt(version, self._cipher.dump(total))
        self.fetched |= state.fetched

    def _sum(self, released: ReleasedState) -> Any:
        if not released.log:
            return self._cipher.restore(released.total)
        return self._cipher.add([self._cipher.restore(parts) for parts in released.log])
