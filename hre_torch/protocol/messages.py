"""The messages between the roles; `wire` says how they travel.

Upload            participant -> DSP    a sealed update
Deposit           DSP -> KTS            its header, and what the KTS needs of it
Receipt           KTS -> DSP            the KTS has logged it
Ack               DSP -> participant    it is stored and accepted
ReleaseOrder      DSP -> KTS            please release this list
Release           KTS -> everybody      the signed list
TransformRequest  DSP -> KTS            first phase of re-encryption
TransformReply    KTS -> DSP            second phase
Download          DSP -> participant    the sum under the recipient's own key
Statement         participant -> KTS    by way of the DSP: a release opened, or not
Verdict           KTS -> everybody      where the statements about a release stand
StatementReply    DSP -> participant    carries the verdict
Refusal           a server -> sender    a typed error (in `wire`)

**Requests** move no update. They exist because a real network has strangers on it:
a fetch costs both servers work, so it is signed; and a participant that lost its
memory, or comes late, must learn where the task stands before it can take part.

StatusRequest     participant -> DSP    where does the task stand, and where do I?
Status            DSP -> participant    version, and the next free sequence number
Fetch             participant -> DSP    what follows this release?
TaskRequest       participant -> DSP    which task do you serve? (of whatever task)
TaskReply         DSP -> participant    the roster, signed by its operator
SnapshotRequest   participant -> all    I come late: seal the released weights for me
WantedRequest     participant -> DSP    who asks for a snapshot?
Wanted            DSP -> participant    all who do, and what they have been sent
Voucher           participant -> it     what I say of the released weights
Snapshot          participant -> it     the released weights, sealed
SnapshotQuery     participant -> both   has anybody sealed a snapshot for me?
SnapshotReply     DSP -> participant    the snapshot, and who has signed its hash

The KTS answers a `SnapshotQuery`, which the DSP passes on, with a `LedgerHead`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from hre_torch.protocol.wire import (
    DIGEST_BYTES,
    Digest,
    Header,
    MaybeDigest,
    Name,
    Number,
)

__all__ = [
    "Ack",
    "Asked",
    "Deposit",
    "DigestRun",
    "Download",
    "Fetch",
    "Listed",
    "Receipt",
    "Release",
    "ReleaseOrder",
    "Request",
    "Snapshot",
    "SnapshotQuery",
    "SnapshotReply",
    "SnapshotRequest",
    "Statement",
    "StatementReply",
    "Status",
    "StatusRequest",
    "TaskReply",
    "TaskRequest",
    "TransformReply",
    "TransformRequest",
    "Upload",
    "Verdict",
    "Voucher",
    "Wanted",
    "WantedRequest",
    "Witness",
    "named_models",
]

DigestRun = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES)]
"""One SHA-256 after another, one for each of consecutive versions."""


class Listed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One upload in a list: whose, which, and its digest."""

    name: Name
    sequence: Number
    digest: Digest


class Upload(Header, frozen=True, kw_only=True, tag="upload"):
    """A sealed update, bound to (task, identity, sequence, base version).

    Attributes:
        sequence: number of the upload among those of its sender.
        base_version: newest release that the sender has opened.
        state_digests: what the sender says of its released weights at `base_version`
            and, before it, at those versions that it opened one after another; oldest
            first, at most S + 1 of them.
        voids: numbers under which the same values were sealed before, and refused,
            rising: once this upload is accepted, no list may contain any of them.
        chain: hash chain at `base_version`.
    """

    sequence: Number
    base_version: Number
    state_digests: DigestRun
    chain: Digest
    voids: tuple[Number, ...] = ()


class Deposit(Header, frozen=True, kw_only=True, tag="deposit"):
    """An upload's signed header and proof; the parts are those the KTS needs.

    Attributes:
        version: newest release that the DSP has.
        chain: hash chain after it.
    """

    upload_header: bytes
    upload_proof: bytes
    upload_signature: bytes
    version: Number = 0
    chain: MaybeDigest = b""


class Receipt(Header, frozen=True, kw_only=True, tag="receipt"):
    """The KTS has logged the upload with this digest.

    Attributes:
        version: newest release that the KTS has signed.
        chain: hash chain after it.
    """

    upload: Digest
    version: Number = 0
    chain: MaybeDigest = b""


class Ack(Header, frozen=True, kw_only=True, tag="ack"):
    """The DSP has stored and accepted an upload; `version` is its newest release."""

    upload: Digest
    sequence: Number
    version: Number


class ReleaseOrder(Header, frozen=True, kw_only=True, tag="release_order"):
    """The DSP proposes that these uploads be summed and these be dropped.

    `commitment` is a hash of the sum, in suites that let everybody compare it.
    """

    version: Number
    uploads: tuple[Digest, ...]
    expired: tuple[Digest, ...] = ()
    commitment: bytes = b""


class Release(Header, frozen=True, kw_only=True, tag="release"):
    """A signed list of uploads whose sum may be opened; `chain` hashes all so far."""

    version: Number
    uploads: tuple[Listed, ...]
    expired: tuple[Listed, ...]
    commitment: bytes
    previous: Digest
    chain: Digest


class TransformRequest(Header, frozen=True, kw_only=True, tag="transform_request"):
    """First phase for one recipient and the releases `first..last`.

    The recipient will never ask again for releases up to `opened`.
    """

    recipient: Name
    first: Number
    last: Number
    opened: Number = 0


class TransformReply(Header, frozen=True, kw_only=True, tag="transform_reply"):
    """Second phase for one recipient and the releases `first..last`."""

    recipient: Name
    first: Number
    last: Number


class Download(Header, frozen=True, kw_only=True, tag="download"):
    """The sum of consecutive releases under the recipient's own key.

    Attributes:
        releases: the encoded `Release` envelopes, oldest first.
        version: the newest release there is.
    """

    recipient: Name
    releases: tuple[bytes, ...]
    version: Number


class Statement(Header, frozen=True, kw_only=True, tag="statement"):
    """What its sender made of a release.

    Attributes:
        version: the release.
        chain: hash chain after it, so that all who state speak of one list.
        state_digest: what upload headers say of the weights with it; empty where it
            does not open for the sender, and is rejected.
    """

    version: Number
    chain: Digest
    state_digest: MaybeDigest = b""

    @property
    def opened(self) -> bool:
        """Whether the release opened."""
        return bool(self.state_digest)


class Verdict(Header, frozen=True, kw_only=True, tag="verdict"):
    """Where the statements about a release stand; see `statements`.

    Attributes:
        version: the release.
        chain: hash chain after it.
        contributors: identities in its list.
        rejected: who rejects it.
        opened: who has opened it.
        final: whether that is enough to give the release up, for everybody.
    """

    version: Number
    chain: Digest
    contributors: tuple[Name, ...]
    rejected: tuple[Name, ...]
    opened: tuple[Name, ...]
    final: bool


class StatementReply(Header, frozen=True, kw_only=True, tag="statement_reply"):
    """The DSP passes on what the KTS answers to a statement.

    Attributes:
        statement: digest of the statement.
        verdict: the encoded `Verdict` envelope.
    """

    statement: Digest
    verdict: bytes


def named_models(base_version: int, run: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the versions that a run of digests names, oldest first, and their digests.

    Args:
        base_version: the version that the last digest is of.
        run: digests of consecutive versions, 32 octets each.
    """
    version = base_version - len(run) // DIGEST_BYTES
    for start in range(0, len(run), DIGEST_BYTES):
        version += 1
        yield version, run[start : start + DIGEST_BYTES]


class Request(Header, frozen=True, kw_only=True):
    """What a participant asks of the DSP.

    `moment` grows with every request of one identity, so that a recorded request is
    worth nothing; it is the asker's clock in nanoseconds, and compared with nobody
    else's.
    """

    moment: int


class StatusRequest(Request, frozen=True, kw_only=True, tag="status_request"):
    """Where does the task stand, and where do I?"""


class Status(Header, frozen=True, kw_only=True, tag="status"):
    """Where the task stands for one participant.

    Attributes:
        recipient: who asked.
        moment: of the request that this answers.
        version: newest release.
        oldest: oldest release that can still be fetched; `version + 1` if none can.
        next_sequence: lowest sequence number that the recipient has not used.
    """

    recipient: str
    moment: int
    version: int
    oldest: int
    next_sequence: int


class Fetch(Request, frozen=True, kw_only=True, tag="fetch"):
    """Ask for the download that follows release `since`; see `Aggregator.fetch`.

    Releases up to `opened` will never be asked for again, not even by a participant
    that was killed and starts from what it had on its disk; None stands for `since`.
    """

    since: int
    merge: bool = True
    opened: int | None = None


class TaskRequest(Request, frozen=True, kw_only=True, tag="task_request"):
    """Ask a DSP what it serves, which may be another task than the asker's `cfg`."""


class TaskReply(Header, frozen=True, kw_only=True, tag="task_reply"):
    """The signed roster file that the DSP serves, as the only part."""

    recipient: Name
    moment: int


class SnapshotRequest(Request, frozen=True, kw_only=True, tag="snapshot_request"):
    """Ask the others for the released weights, sealed under a fresh X25519 key.

    Attributes:
        public: the key.
        refused: whose snapshots turned out to be false; any other's is better.
    """

    public: bytes
    refused: tuple[Name, ...] = ()


class Snapshot(Header, frozen=True, kw_only=True, tag="snapshot"):
    """The released weights at one version, sealed for one recipient.

    Attributes:
        recipient: who asked.
        request: digest of its `SnapshotRequest`.
        version: release after which the weights are these.
        chain: hash chain after that release.
        state_digest: what upload headers say of the weights at that version.
        previous_digest: what they said one version before, where the suite chains them.
        public: the sender's ephemeral X25519 key.
        earlier: what they said of the versions before that, as far as the sender
            knows; oldest first.
    """

    recipient: str
    request: bytes
    version: int
    chain: bytes
    state_digest: bytes
    previous_digest: bytes
    public: bytes
    earlier: bytes = b""

    def models(self) -> Iterator[tuple[int, bytes]]:
        """Yield the versions that the sender names, oldest first, and the digests."""
        run = self.earlier + self.previous_digest + self.state_digest
        return named_models(self.version, run)


class WantedRequest(Request, frozen=True, kw_only=True, tag="wanted_request"):
    """Ask the DSP who asks for a snapshot."""


class Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Somebody's encoded `SnapshotRequest`, and what answers it so far.

    Attributes:
        request: the request.
        version: that of the snapshot so far.
        state_digest: what that says of the weights; empty if there is none.
    """

    request: bytes
    version: Number
    state_digest: bytes


class Wanted(Header, frozen=True, kw_only=True, tag="wanted"):
    """Everybody else who asks for a snapshot."""

    recipient: Name
    moment: int
    asked: tuple[Asked, ...]


class Voucher(Header, frozen=True, kw_only=True, tag="voucher"):
    """What its sender says of released weights, as in the headers of its uploads.

    It may be of two versions more than these name; see `ReleasedWeights`.
    """

    base_version: Number
    state_digests: DigestRun


class SnapshotQuery(Request, frozen=True, kw_only=True, tag="snapshot_query"):
    """Ask the DSP for a snapshot that answers one's request with that digest."""

    request: bytes


class Witness(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Header, proof and signature of an `Upload` or `Voucher`: its sender vouches."""

    header: bytes
    proof: bytes
    signature: bytes


class SnapshotReply(Header, frozen=True, kw_only=True, tag="snapshot_reply"):
    """An encoded `Snapshot` as the only part, if there is one, and who vouches.

    Attributes:
        recipient: who asked.
        moment: of the query that this answers.
        witnesses: the newest word of everybody who has named the snapshot's version.
        head: the KTS's encoded `LedgerHead` that answers the query, where these are too
            few; empty if the KTS does not answer.
    """

    recipient: str
    moment: int
    witnesses: tuple[Witness, ...]
    head: bytes = b""
