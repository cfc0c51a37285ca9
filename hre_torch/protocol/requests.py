"""What participants and servers ask each other besides the ten messages of `messages`.

None of these moves an update. They exist because a real network has strangers on it:
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

import msgspec

from hre_torch.protocol.envelope import Header, Name, Number
from hre_torch.protocol.messages import DigestRun, named_models

__all__ = [
    "Asked",
    "Fetch",
    "Request",
    "Snapshot",
    "SnapshotQuery",
    "SnapshotReply",
    "SnapshotRequest",
    "Status",
    "StatusRequest",
    "TaskReply",
    "TaskRequest",
    "Voucher",
    "Wanted",
    "WantedRequest",
    "Witness",
]


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
