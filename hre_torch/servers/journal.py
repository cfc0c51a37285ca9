"""What the two servers tell whoever makes their state durable.

A role is a pure function of its state and knows no disk. It tells a *journal* of every
change of its state, in order, after every check that could refuse the step and before
it returns. Whoever persists it collects what one step said and makes all of it durable,
or nothing, before the step's answer leaves. The default journal forgets everything.

A refused step may change something too (a contradicting upload is kept as evidence):
what a step told its journal holds even if the step then raises an `HREError`.

What the servers need to go on after a restart are plain structs of bytes. The keys are
not among it: they are in key files of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hre_torch.protocol.entries import Entry, LedgerState, NamedModels
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.wire import Envelope, parse_header

__all__ = [
    "DataServiceState",
    "Journal",
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


class Journal:
    """A journal that forgets everything; subclasses keep it.

    An order in which both servers' journals are called in a quiet task:
    `entered`, `accepted` for every upload, `released` and `named` for every release,
    then `fetched` as participants open it, `forgotten` when everybody has and a later
    list has settled its model, and `outlived` S releases later.
    """

    def entered(self, entry: Entry, stored: StoredState) -> None:
        """Take note of an upload that passed every check and is pending now.

        Args:
            entry: how the ledger names it.
            stored: the upload as bytes; `StoredState` says how they check themselves.
        """

    def accepted(self, upload: bytes) -> None:
        """Take note that both servers have logged the upload with that digest.

        Losing this is harmless: `entered` was told by then, at both servers, and a DSP
        that finds an upload pending forwards it again and gets the same receipt.
        """

    def refused(self, name: str, sequence: int) -> None:
        """Take note that a sequence number is used up, though no upload came in.

        Its owner is told that this upload is refused for good, and must not see it
        released after a restart.
        """

    def withdrawn(self, upload: bytes) -> None:
        """Take note that an unreleased upload is gone.

        The other server refuses it, or a later one voids it. Its sequence number stays
        used. Its owner is told, and must not see it released after a restart.
        """

    def released(self, release: Envelope[Release], total: Parts) -> None:
        """Take note of a signed list, which consumes the uploads and expiries it names.

        Args:
            release: the KTS's signed list.
            total: this server's sum of the list's uploads, as the suite's `dump` wrote
                it.
        """

    def named(self, models: Sequence[NamedModels], dropped: Sequence[int]) -> None:
        """Take note of what a release's uploads have named, in the same step.

        Args:
            models: what is known now of the versions that changed.
            dropped: versions that no upload can name any more.
        """

    def rebuilt(self, version: int, total: Parts) -> None:
        """Take note of a sum that was computed again from its uploads."""

    def fetched(self, recipient: str, version: int) -> None:
        """Take note that a participant has opened everything up to `version`.

        Losing this is harmless: the participant says so again when it asks again.
        """

    def forgotten(self, version: int) -> None:
        """Take note that a sum can go: everybody has it, and its model is settled.

        Losing this is harmless: it follows from `fetched` and `named`.
        """

    def outlived(self, lines: Sequence[Entry]) -> None:
        """Take note of consumed uploads about which nobody will ask any more.

        Losing this is harmless: it follows from `fetched` and the releases, and the
        next release says so again of lines that are still there after a restart.

        Args:
            lines: how the ledger named them; they can go.
        """

    def stated(self, version: int, statement: bytes) -> None:
        """Take note of what a participant states about a release, encoded.

        Nobody states the same of the same release twice, but that it opened may follow
        that it was rejected.
        """

    def judged(self, version: int, verdict: bytes) -> None:
        """Take note of the encoded verdict by which a release is given up."""

    def closed(self, version: int) -> None:
        """Take note that nobody will ask any more what was stated about a release.

        Losing this is harmless: the next release says so again.
        """

    def witnessed(self, evidence: bytes) -> None:
        """Take note of encoded evidence that somebody has broken the protocol."""
