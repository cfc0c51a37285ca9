"""The messages between the roles; `envelope.py` says how they travel.

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
Refusal           a server -> sender    a typed error (in `envelope.py`)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from hre_torch.protocol.envelope import (
    DIGEST_BYTES,
    Digest,
    Header,
    MaybeDigest,
    Name,
    Number,
)

__all__ = [
    "Ack",
    "Deposit",
    "DigestRun",
    "Download",
    "Listed",
    "Receipt",
    "Release",
    "ReleaseOrder",
    "Statement",
    "StatementReply",
    "TransformReply",
    "TransformRequest",
    "Upload",
    "Verdict",
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
