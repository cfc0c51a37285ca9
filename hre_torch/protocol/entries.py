"""One line of the ledger, lists of lines, and the hash chain over lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from hre_torch.protocol.messages import Listed, Upload, named_models

__all__ = ["GENESIS", "Entry", "LedgerState", "NamedModels", "Proposal", "chain_after"]

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
