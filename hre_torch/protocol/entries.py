"""One line of the ledger, lists of lines, and the hash chain over lists."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from hre_torch.protocol.messages import Listed, Upload

__all__ = ["GENESIS", "Entry", "LedgerState", "Proposal", "chain_after"]

GENESIS: Final = bytes(32)
"""Hash chain before the first release."""

Status = Literal["pending", "accepted", "released", "expired"]


class Entry(msgspec.Struct):
    """One upload. `version` is the release or expiry that consumed it, else 0."""

    name: str
    sequence: int
    base_version: int
    state_digest: bytes
    digest: bytes
    status: Status = "pending"
    version: int = 0

    @classmethod
    def of(cls, header: Upload, digest: bytes) -> Entry:
        """Return a new entry for an upload's header."""
        return cls(
            header.sender,
            header.sequence,
            header.base_version,
            header.state_digest,
            digest,
        )

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


class LedgerState(msgspec.Struct):
    """Everything a ledger needs to go on after a restart."""

    version: int
    chain: bytes
    entries: list[Entry]
    newest: dict[str, int]


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
