"""The released weights, sealed for a participant that comes late or lost its memory.

The newcomer signs a fresh X25519 key. Whoever sees the request says, signed, which
models of which versions it knows, and seals version, chain and weights for the key
unless somebody else's snapshot is of the same model. The DSP carries all of it and
reads nothing. The newcomer believes the weights when c + 1 identities besides itself
have signed their hash, in this way or in uploads: at most c lie.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.aggregators.http.aggregator import HTTPAggregator
from hre_torch.crypto.sealed_box import BoxKey, seal_box
from hre_torch.errors import AggregatorError, CryptoError, ProtocolError, TaskError
from hre_torch.protocol.envelope import Envelope, decode, parse_header, seal
from hre_torch.protocol.messages import Upload, named_models
from hre_torch.protocol.requests import (
    Asked,
    Snapshot,
    SnapshotQuery,
    SnapshotReply,
    SnapshotRequest,
    Voucher,
    Witness,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.session import Session
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import chained_digest, decode_vector, state_digest

__all__ = [
    "Released",
    "SnapshotHelper",
    "ask_for_snapshot",
    "seal_snapshot",
    "snapshot_bytes",
]

_LOGGER: Final = logging.getLogger("hre_torch")
_POLL_SECONDS: Final = 0.2
_TOLD_AFTER_SECONDS: Final = 5.0
_NOBODY: Final = (
    "participants that hold them answer at their next push or pull; if nobody holds "
    "them any more, the operator starts a new task from weights that somebody has "
    "written with --out: hre-torch roster sign --start FILE"
)


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


class SnapshotHelper:
    """What one session owes those who come late: its word, and perhaps its weights.

    Args:
        session: of the participant that helps.
        secret: its keys.
    """

    def __init__(self, session: Session, secret: Secret) -> None:
        self._session = session
        self._secret = secret
        self._vouched: dict[bytes, int] = {}
        self._sealed: dict[bytes, int] = {}

    def answers(self, asked: Sequence[Asked]) -> list[bytes]:
        """Return encoded messages for the DSP, once for every version known here.

        Args:
            asked: all requests that are open.
        """
        session = self._session
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


def ask_for_snapshot(
    link: HTTPAggregator, task: Task, secret: Secret, *, timeout: float | None
) -> Released:
    """Return released weights that c + 1 identities besides the asker vouch for.

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
    told = time.monotonic() + _TOLD_AFTER_SECONDS
    key = BoxKey()
    heard, digest = "nobody has answered yet", _ask(link, task, secret, key)
    while time.monotonic() < deadline:
        try:
            reply = _collect(link, task, secret, digest)
            if reply.parts:
                return _checked(reply, task, secret, key, digest)
        except _ForgottenError:
            digest = _ask(link, task, secret, key)
        except (ProtocolError, TaskError, CryptoError) as error:
            heard = str(error)
        if time.monotonic() > told:
            told = math.inf
            _LOGGER.warning("waiting for the released weights (%s): %s", heard, _NOBODY)
        time.sleep(_POLL_SECONDS)
    raise AggregatorError(
        f"no snapshot of the released weights in {timeout:.0f} s ({heard}); {_NOBODY}"
    )


class _ForgottenError(Exception):
    """The DSP knows nothing of a request, as after a restart."""


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
) -> Envelope[SnapshotReply]:
    def make(moment: int) -> SnapshotQuery:
        return SnapshotQuery(
            cfg=task.cfg, sender=secret.name, moment=moment, request=digest
        )

    try:
        reply = link.request(
            "/v1/snapshots/collect",
            make,
            SnapshotReply,
            fits=lambda reply: reply.recipient == secret.name,
        )
    except TaskError as error:
        raise _ForgottenError(str(error)) from error
    return cast(Envelope[SnapshotReply], reply)


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
    needed = task.config.assumed_colluders + 1
    if len(vouching) < needed:
        raise TaskError(
            f"{len(vouching)} identities vouch for version {header.version}, "
            f"{needed} must, so that one of them is honest"
        )
    sealed = b"".join(snapshot.parts)
    context = _context(task, secret.name, digest)
    opened = key.open(header.public, sealed, context)
    weights = decode_vector(opened, "<i8", task.config.n_values).astype(np.int64)
    if not _explains(task, header.state_digest, header.previous_digest, weights):
        raise TaskError("the snapshot does not hold the weights that it names")
    run = header.previous_digest + header.state_digest
    return Released(header.version, header.chain, run, weights)


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
    if SUITES.get(config.suite).merges_in(
        config.combine, config.n_buffers, config.clip
    ):
        return digest == own
    return digest == chained_digest(previous, own)


def _voucher(witness: Witness, snapshot: Snapshot, task: Task) -> str | None:
    """Return who vouches for the snapshot's weights, if anybody."""
    try:
        said = Envelope(
            parse_header(witness.header, Upload | Voucher),
            witness.header,
            (),
            witness.proof,
            witness.signature,
        )
        said.verify(task.roster.participant(said.header.sender).signing_key)
    except (ProtocolError, TaskError):
        return None
    header = said.header
    models = dict(named_models(header.base_version, header.state_digests))
    if header.cfg != task.cfg or models.get(snapshot.version) != snapshot.state_digest:
        return None
    return str(header.sender)


def _context(task: Task, recipient: str, request: bytes) -> bytes:
    return msgspec.msgpack.encode((task.cfg, recipient, request))
