"""The released weights, sealed for a participant that comes late or lost its memory.

The newcomer signs a fresh X25519 key; whoever sees the request seals version, chain and
weights for it, and signs that. The DSP carries both and reads neither. The newcomer
believes the weights when t identities have signed their hash: the snapshot's sender,
and the owners of uploads that are based on that version.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.aggregators.http.aggregator import HTTPAggregator
from hre_torch.crypto.sealed_box import BoxKey, seal_box
from hre_torch.errors import AggregatorError, CryptoError, ProtocolError, TaskError
from hre_torch.protocol.envelope import Envelope, decode, parse_header, seal
from hre_torch.protocol.messages import Upload, named_models
from hre_torch.protocol.requests import (
    Snapshot,
    SnapshotQuery,
    SnapshotReply,
    SnapshotRequest,
    Witness,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.session import Session
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import chained_digest, decode_vector, state_digest

__all__ = ["Released", "ask_for_snapshot", "seal_snapshot", "snapshot_bytes"]

_POLL_SECONDS: Final = 0.2
_ASK_AGAIN_SECONDS: Final = 5.0
"""By then training has moved on, and a snapshot of a newer version has better
witnesses. Twice as long after every request: who could answer may pull rarely, sees the
request at one pull and answers at the next."""


@dataclass(frozen=True)
class Released:
    """Released weights at one version: int64 at scale 2^f, shape `(n_values,)`."""

    version: int
    chain: bytes
    model_digest: bytes
    weights: npt.NDArray[np.int64]


def snapshot_bytes(task: Task) -> int:
    """Return how many octets a sealed snapshot has at most."""
    return 8 * task.config.n_values + 1024


def seal_snapshot(session: Session, secret: Secret, request: bytes) -> bytes | None:
    """Return an encoded snapshot for whoever asks.

    None if the request is not valid, or if this session was itself resumed and has
    seen no release since, so that it cannot prove what the weights' digest is made of.

    Args:
        session: of the participant that helps.
        secret: its keys.
        request: an encoded `SnapshotRequest`.
    """
    task = session.task
    if not _explains(
        task, session.model_digest, session.previous_digest, session.released()
    ):
        return None
    try:
        asked = decode(request, SnapshotRequest, cfg=task.cfg, max_bytes=0)
        recipient = asked.header.sender
        asked.verify(task.roster.participant(recipient).signing_key)
        released = session.released()
        public, sealed = seal_box(
            asked.header.public,
            released.astype("<i8", copy=False).tobytes(),
            _context(task, recipient, asked.digest),
        )
    except (ProtocolError, TaskError, CryptoError):
        # A request that only the DSP could have made up deserves no answer.
        return None
    header = Snapshot(
        cfg=task.cfg,
        sender=secret.name,
        recipient=recipient,
        request=asked.digest,
        version=session.version,
        chain=session.chain,
        state_digest=session.model_digest,
        previous_digest=session.previous_digest,
        public=public,
    )
    return seal(header, secret.signing, (sealed,)).encode()


def ask_for_snapshot(
    link: HTTPAggregator, task: Task, secret: Secret, *, timeout: float | None
) -> Released:
    """Return released weights that t identities vouch for.

    Args:
        link: connection to the DSP.
        task: the task.
        secret: the newcomer's keys.
        timeout: seconds to wait until somebody answers and enough others vouch; None
            waits until stopped.

    Raises:
        AggregatorError: nobody did in time.
    """
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    heard, interval = "nobody answered", _ASK_AGAIN_SECONDS
    while time.monotonic() < deadline:
        key = BoxKey()
        digest = _ask(link, task, secret, key)
        again = min(deadline, time.monotonic() + interval)
        interval *= 2
        while time.monotonic() < again:
            reply = _collect(link, task, secret, digest)
            if reply is not None:
                try:
                    return _checked(reply, task, secret, key, digest)
                except (ProtocolError, TaskError, CryptoError) as error:
                    heard = str(error)
            time.sleep(_POLL_SECONDS)
    raise AggregatorError(
        f"no snapshot of the released weights in {timeout:.0f} s ({heard}); others "
        "must be training while one joins; try again, or start from the initial weights"
    )


def _ask(link: HTTPAggregator, task: Task, secret: Secret, key: BoxKey) -> bytes:
    digests: list[bytes] = []

    def make(moment: int) -> SnapshotRequest:
        request = SnapshotRequest(
            cfg=task.cfg, sender=secret.name, moment=moment, public=key.public
        )
        digests.append(seal(request, secret.signing).digest)
        return request

    link.request(
        "/v1/snapshots/ask", make, SnapshotReply, fits=lambda _: True, may_be_empty=True
    )
    return digests[-1]


def _collect(
    link: HTTPAggregator, task: Task, secret: Secret, digest: bytes
) -> Envelope[SnapshotReply] | None:
    def make(moment: int) -> SnapshotQuery:
        return SnapshotQuery(
            cfg=task.cfg, sender=secret.name, moment=moment, request=digest
        )

    return link.request(
        "/v1/snapshots/collect",
        make,
        SnapshotReply,
        fits=lambda reply: reply.recipient == secret.name,
        may_be_empty=True,
    )


def _checked(
    reply: Envelope[SnapshotReply],
    task: Task,
    secret: Secret,
    key: BoxKey,
    digest: bytes,
) -> Released:
    snapshot = decode(
        b"".join(reply.parts), Snapshot, cfg=task.cfg, max_bytes=snapshot_bytes(task)
    )
    header = snapshot.header
    snapshot.verify(task.roster.participant(header.sender).signing_key)
    if (header.recipient, header.request) != (secret.name, digest):
        raise TaskError("the snapshot answers another request")
    vouching = {header.sender} | {
        name
        for witness in reply.header.witnesses
        if (name := _voucher(witness, header, task)) is not None
    }
    vouching.discard(secret.name)
    needed = min(
        task.config.min_contributions, max(1, len(task.roster.participants) - 1)
    )
    if len(vouching) < needed:
        raise TaskError(
            f"{len(vouching)} identities vouch for version {header.version}, "
            f"{needed} must"
        )
    sealed = b"".join(snapshot.parts)
    context = _context(task, secret.name, digest)
    opened = key.open(header.public, sealed, context)
    weights = decode_vector(opened, "<i8", task.config.n_values).astype(np.int64)
    if not _explains(task, header.state_digest, header.previous_digest, weights):
        raise TaskError("the snapshot does not hold the weights that it names")
    return Released(header.version, header.chain, header.state_digest, weights)


def _explains(
    task: Task, digest: bytes, previous: bytes, weights: npt.NDArray[np.int64]
) -> bool:
    """Return whether weights are what upload headers say of a version.

    Where releases are opened one by one, headers hold a hash of all models so far.
    """
    own = state_digest(weights)
    if digest == own == task.config.initial_digest:
        return True
    config = task.config
    if SUITES.get(config.suite).merges_in(config.combine, config.n_buffers):
        return digest == own
    return digest == chained_digest(previous, own)


def _voucher(witness: Witness, snapshot: Snapshot, task: Task) -> str | None:
    """Return who vouches for the snapshot's weights with an upload, if anybody."""
    try:
        upload = Envelope(
            parse_header(witness.header, Upload),
            witness.header,
            (),
            witness.proof,
            witness.signature,
        )
        upload.verify(task.roster.participant(upload.header.sender).signing_key)
    except (ProtocolError, TaskError):
        return None
    header = upload.header
    said = dict(named_models(header.base_version, header.state_digests))
    if header.cfg != task.cfg or said.get(snapshot.version) != snapshot.state_digest:
        return None
    return str(header.sender)


def _context(task: Task, recipient: str, request: bytes) -> bytes:
    return msgspec.msgpack.encode((task.cfg, recipient, request))
