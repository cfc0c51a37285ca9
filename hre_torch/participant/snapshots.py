"""The released weights, sealed for a participant that comes late or lost its memory.

The newcomer signs a fresh X25519 key. Whoever sees the request says, signed, which
models of which versions it knows, and seals version, chain and weights for the key
unless somebody else's snapshot is of the same model. The DSP carries all of it and
reads nothing. When the newcomer believes the weights is told in `newcomer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.crypto.keys.boxes import seal_box
from hre_torch.errors import (
    CryptoError,
    ProtocolError,
    TaskError,
)
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import (
    Asked,
    Snapshot,
    SnapshotRequest,
    Voucher,
    named_models,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import chained_digest, state_digest
from hre_torch.protocol.wire import (
    DIGEST_BYTES,
    decode,
    seal,
)

__all__ = [
    "Released",
    "SnapshotHelper",
    "box_context",
    "proven_run",
    "seal_snapshot",
    "snapshot_bytes",
]


@dataclass(frozen=True)
class Released:
    """Released weights at one version: int64 at scale 2^f, shape `(n_values,)`.

    `state_digests` is what headers say of them and, if that is known, of those before.
    """

    version: int
    chain: bytes
    state_digests: bytes
    weights: npt.NDArray[np.int64]


def snapshot_bytes(task: Task) -> int:
    """Return how many octets a sealed snapshot has at most."""
    return 8 * task.config.n_values + 1024


def seal_snapshot(session: Session, secret: Secret, request: bytes) -> bytes | None:
    """Return an encoded snapshot for whoever asks.

    None if the request is not valid, or if this session has opened several releases
    as one, so that it cannot prove what the weights' digest is made of.

    Args:
        session: of the participant that helps.
        secret: its keys.
        request: an encoded `SnapshotRequest`.
    """
    task = session.task
    if not proven_run(
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
            box_context(task, recipient, asked.digest),
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
        earlier=session.state_digests[: -2 * DIGEST_BYTES],
    )
    return seal(header, secret.signing, (sealed,)).encode()


class SnapshotHelper:
    """What one session owes those who come late: its word, and perhaps its weights.

    Args:
        secret: the keys of the participant that helps.
    """

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._vouched: dict[bytes, int] = {}
        self._sealed: dict[bytes, int] = {}

    def answers(self, session: Session, asked: Sequence[Asked]) -> list[bytes]:
        """Return encoded messages for the DSP, once for every version known here.

        Args:
            session: of the participant that helps.
            asked: all requests that are open.
        """
        here, run = session.version, session.state_digests
        answers = []
        if any(self._vouched.get(each.request) != here for each in asked):
            voucher = Voucher(
                cfg=session.task.cfg,
                sender=self._secret.name,
                base_version=here,
                state_digests=run,
            )
            answers.append(seal(voucher, self._secret.signing).encode())
        models = dict(named_models(here, run))
        sealed = {}
        for each in asked:
            sealed[each.request] = before = self._sealed.get(each.request, -1)
            if before == here or models.get(each.version) == each.state_digest:
                continue
            sealed[each.request] = here
            snapshot = seal_snapshot(session, self._secret, each.request)
            if snapshot is not None:
                answers.append(snapshot)
        self._vouched = {each.request: here for each in asked}
        self._sealed = sealed
        return answers


def proven_run(
    task: Task, digest: bytes, previous: bytes, weights: npt.NDArray[np.int64]
) -> bytes:
    """Return what weights prove of what upload headers say; empty if nothing.

    Where releases are opened one by one, headers hold a hash of all models so far.

    Args:
        task: the task.
        digest: what headers say of the weights' version.
        previous: what they say of the version before.
        weights: int64 at scale 2^f, shape `(n_values,)`.

    Returns:
        Digests of consecutive versions, the last of which is `digest`.
    """
    own = state_digest(weights)
    if digest == own == task.config.initial_digest:
        return digest
    config = task.config
    if SUITES.get(config.suite).merges_in(
        config.combine, config.n_buffers, config.clip
    ):
        return digest if digest == own else b""
    return previous + digest if digest == chained_digest(previous, own) else b""


def box_context(task: Task, recipient: str, request: bytes) -> bytes:
    """Return what a sealed snapshot is bound to."""
    return msgspec.msgpack.encode((task.cfg, recipient, request))
