"""What the two servers need to go on after a restart, as plain structs of bytes.

The keys are not among it: they live in key files of their own.
"""

from __future__ import annotations

import msgspec

from hre_torch.protocol.ciphers import Parts
from hre_torch.protocol.entries import LedgerState
from hre_torch.protocol.envelope import Envelope, parse_header
from hre_torch.protocol.messages import Upload

__all__ = [
    "DataServiceState",
    "KeyTransformState",
    "ReleasedState",
    "ServerState",
    "StoredState",
]


class StoredState(msgspec.Struct, frozen=True, array_like=True):
    """An unreleased upload as bytes.

    Attributes:
        header: the exact header, whose SHA-256 together with the proof names the
            upload, and which lists the SHA-256 of every part.
        proof: its proof, empty where the suite asks for none.
        signature: its sender's.
        parts: the parts that this server got: at the DSP all, at the KTS the forwarded
            ones.
    """

    header: bytes
    proof: bytes
    signature: bytes
    parts: Parts

    @classmethod
    def of(cls, upload: Envelope[Upload], parts: Parts) -> StoredState:
        """Return the stored form of an upload of which this server got `parts`."""
        return cls(upload.header_bytes, upload.proof, upload.signature, parts)

    def envelope(self) -> Envelope[Upload]:
        """Return the upload without its parts.

        Raises:
            MessageError: the header is not one.
        """
        header = parse_header(self.header, Upload)
        return Envelope(header, self.header, (), self.proof, self.signature)


class ReleasedState(msgspec.Struct, frozen=True):
    """A release that somebody has still to fetch.

    Attributes:
        encoded: the KTS's signed list.
        count: how many uploads it sums.
        total: their sum, as the suite's `dump` wrote it.
        log: parts of the uploads it sums, in the order of the list, if the sum was
            damaged and has to be computed from them again; empty otherwise.
    """

    encoded: bytes
    count: int
    total: Parts
    log: tuple[Parts, ...] = ()


class ServerState(msgspec.Struct):
    """Everything a server needs to go on after a restart, keys aside.

    Attributes:
        ledger: see `Ledger.state`.
        uploads: the unreleased ones, by digest.
        releases: those that somebody has still to fetch, by version.
        fetched: participant to the last release it has opened.
        evidence: encoded `Evidence`, at most one for each that is accused.
        lists: signed lists that a line of the ledger still names, encoded, by version.
    """

    ledger: LedgerState
    uploads: dict[bytes, StoredState]
    releases: dict[int, ReleasedState]
    fetched: dict[str, int]
    evidence: tuple[bytes, ...] = ()
    lists: dict[int, bytes] = {}


class DataServiceState(ServerState):
    """Where a DSP stopped."""


class KeyTransformState(ServerState, kw_only=True):
    """Where a KTS stopped.

    Attributes:
        newest_release: the newest list it signed, encoded.
        statements: what participants said of releases, encoded.
        verdicts: those that are final, encoded.
    """

    newest_release: bytes | None
    statements: tuple[bytes, ...] = ()
    verdicts: tuple[bytes, ...] = ()
