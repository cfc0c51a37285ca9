"""One that comes late, or lost its memory, and asks for the released weights.

The newcomer believes a snapshot when c + 1 identities besides itself have signed its
hash, in vouchers or in uploads: at most c lie. Where fewer are left, one that holds the
weights is enough. The KTS signs which model of which version is *settled*: c + 1
identities, whether they live or not, have named it in released uploads. The newcomer
opens the releases after that version itself, takes them off the weights that it got,
and goes on from there if what is left is that model.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.keys.boxes import BoxKey
from hre_torch.errors import (
    AggregatorError,
    CryptoError,
    HREError,
    LayoutError,
    ProtocolError,
    SpoiledReleaseError,
    TaskError,
)
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.participant import (
    Held,
    LearningParticipant,
    ParticipantState,
)
from hre_torch.participant.session import Session
from hre_torch.participant.snapshots import (
    Released,
    SnapshotHelper,
    box_context,
    proven_run,
    snapshot_bytes,
)
from hre_torch.protocol.heads import LedgerHead
from hre_torch.protocol.messages import (
    Asked,
    Snapshot,
    SnapshotQuery,
    SnapshotReply,
    SnapshotRequest,
    Upload,
    Voucher,
    Witness,
    named_models,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector
from hre_torch.protocol.wire import (
    DIGEST_BYTES,
    Envelope,
    decode,
    parse_header,
    seal,
)
from hre_torch.protocol.workers import Workers

__all__ = ["ask_for_snapshot"]

_HELP_EVERY_SECONDS: Final = 1.0
_LOGGER: Final = logging.getLogger("hre_torch")
_POLL_SECONDS: Final = 0.2
_TOLD_AFTER_SECONDS: Final = 5.0
_MOST_REFUSED: Final = 16
"""A request has to stay short."""
_NOBODY: Final = (
    "participants that hold them answer at their next push or pull; if nobody holds "
    "them any more, the operator starts a new task from weights that somebody has "
    "written with --out: hre-torch roster sign --start FILE"
)


def ask_for_snapshot(
    link: HTTPAggregator, task: Task, secret: Secret, *, timeout: float | None
) -> Released:
    """Return released weights that c + 1 identities besides the asker vouch for.

    They are those of the newest version, or of the newest settled one.

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
    newcomer = _Newcomer(link, task, secret)
    heard = "nobody has answered yet"
    newcomer.ask()
    while time.monotonic() < deadline:
        try:
            found = newcomer.collect()
            if found is not None:
                return found
        except _ForgottenError:
            newcomer.ask()
        except _UselessError as error:
            heard = str(error)
            newcomer.ask()
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


class _UselessError(TaskError):
    """A snapshot is false, or cannot be compared with what is settled."""


class _Newcomer:
    """Asks for the released weights, and checks what comes."""

    def __init__(self, link: HTTPAggregator, task: Task, secret: Secret) -> None:
        self._link = link
        self._task = task
        self._secret = secret
        self._key = BoxKey()
        self._refused: set[str] = set()
        self._request = b""

    def ask(self) -> None:
        """Ask everybody."""
        requests: list[bytes] = []

        def make(moment: int) -> SnapshotRequest:
            request = SnapshotRequest(
                cfg=self._task.cfg,
                sender=self._secret.name,
                moment=moment,
                public=self._key.public,
                refused=tuple(sorted(self._refused)[:_MOST_REFUSED]),
            )
            requests.append(seal(request, self._secret.signing).digest)
            return request

        self._link.request(
            "/v1/snapshots/ask",
            make,
            SnapshotReply,
            fits=lambda _: True,
            may_be_empty=True,
        )
        self._request = requests[-1]

    def collect(self) -> Released | None:
        """Return released weights that can be believed; None if nobody has answered.

        Raises:
            _ForgottenError: the DSP does not know the request.
            _UselessError: there is a false answer.
            ProtocolError, TaskError: there is one that cannot be believed yet.
        """
        queries: list[bytes] = []

        def make(moment: int) -> SnapshotQuery:
            query = SnapshotQuery(
                cfg=self._task.cfg,
                sender=self._secret.name,
                moment=moment,
                request=self._request,
            )
            queries.append(seal(query, self._secret.signing).digest)
            return query

        try:
            answer = self._link.request(
                "/v1/snapshots/collect",
                make,
                SnapshotReply,
                fits=lambda reply: reply.recipient == self._secret.name,
            )
        except TaskError as error:
            raise _ForgottenError(str(error)) from error
        reply = cast(Envelope[SnapshotReply], answer)
        return self._checked(reply, queries) if reply.parts else None

    def _checked(
        self, reply: Envelope[SnapshotReply], queries: Sequence[bytes]
    ) -> Released:
        task = self._task
        snapshot = decode(
            b"".join(reply.parts),
            Snapshot,
            cfg=task.cfg,
            max_bytes=snapshot_bytes(task),
        )
        header = snapshot.header
        snapshot.verify(task.roster.participant(header.sender).signing_key)
        if (header.recipient, header.request) != (self._secret.name, self._request):
            raise TaskError("the snapshot answers another request")
        said = {header.sender: dict(header.models())}
        for witness in reply.header.witnesses:
            said |= _vouched(witness, header, task)
        said.pop(self._secret.name, None)
        needed = task.config.assumed_colluders + 1
        head = None
        if len(said) < needed:
            alone = (
                f"{len(said)} identities vouch for version {header.version}, "
                f"{needed} must, so that one of them is honest"
            )
            head = self._head(reply.header.head, queries, alone)
        try:
            found = self._opened(snapshot)
            if head is None:
                return _with_earlier(found, header, [*said.values()], needed)
            return self._taken_back(header, found, head)
        except _UselessError:
            self._refused.add(header.sender)
            raise

    def _head(self, encoded: bytes, queries: Sequence[bytes], alone: str) -> LedgerHead:
        """Return what the KTS says now, where those who vouch are too few."""
        if not encoded:
            raise TaskError(
                f"{alone}; or the key transform server must say which model is "
                "settled, and it does not answer"
            )
        head = decode(encoded, LedgerHead, cfg=self._task.cfg, max_bytes=0)
        head.verify(self._task.roster.key_transform.signing_key)
        if head.header.request not in queries:
            raise TaskError(f"{alone}; and what the DSP shows of the KTS is not new")
        return head.header

    def _opened(self, snapshot: Envelope[Snapshot]) -> Released:
        """Return what is sealed in a snapshot.

        Raises:
            _UselessError: it is not what its header names.
        """
        task, header = self._task, snapshot.header
        context = box_context(task, self._secret.name, self._request)
        false = f"the snapshot of {header.sender!r} does not hold what it names"
        try:
            opened = self._key.open(header.public, b"".join(snapshot.parts), context)
            weights = decode_vector(opened, "<i8", task.config.n_values)
        except (CryptoError, LayoutError) as error:
            raise _UselessError(f"{false}: {error}") from error
        weights = weights.astype(np.int64)
        run = proven_run(task, header.state_digest, header.previous_digest, weights)
        if not run:
            raise _UselessError(false)
        return Released(header.version, header.chain, run, weights)

    def _taken_back(
        self, header: Snapshot, found: Released, head: LedgerHead
    ) -> Released:
        """Return what weights were at the settled version, if they were that model.

        Raises:
            _UselessError: they were not, or the sender does not know that version.
            TaskError: the servers do not keep what follows it.
        """
        version, digest = head.settled_version, head.settled_digest
        models = dict(header.models())
        if version not in models or header.version > head.version:
            raise _UselessError(
                f"the servers are at version {head.version}, and {version} is the "
                f"newest one that is settled; {header.sender!r} names none like that, "
                f"but version {header.version}"
            )
        state = ParticipantState(version=version, chain=head.settled_chain)
        participant = LearningParticipant(self._task, self._secret, Workers(), state)
        weights = found.weights
        while participant.version < found.version:
            change = self._next_release(participant)
            if change is not None:
                weights -= change
        run = proven_run(self._task, digest, models.get(version - 1, b""), weights)
        if not run or participant.state().chain != found.chain:
            raise _UselessError(
                f"the weights that {header.sender!r} has sealed as those of version "
                f"{found.version} do not follow from the settled model of version "
                f"{version}"
            )
        return Released(version, head.settled_chain, run, weights)

    def _next_release(
        self, participant: LearningParticipant
    ) -> npt.NDArray[np.signedinteger] | None:
        """Return what the next release adds to the weights; None if it is given up."""
        download = next(self._link.fetch(participant.version, merge=False), None)
        if download is None:
            raise TaskError(
                f"the servers have no release {participant.version + 1} yet"
            )
        try:
            return participant.open(download).values
        except SpoiledReleaseError:
            # Whether everybody has given it up, the settled digest will tell.
            held = cast(Held, participant.held).release
            participant.rebase(held.version, held.chain)
            return None


def _vouched(
    witness: Witness, snapshot: Snapshot, task: Task
) -> dict[str, dict[int, bytes]]:
    """Return who vouches for a snapshot, and which models of which versions it names.

    Empty if it does not vouch.
    """
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
        return {}
    header = said.header
    models = dict(named_models(header.base_version, header.state_digests))
    if header.cfg != task.cfg or models.get(snapshot.version) != snapshot.state_digest:
        return {}
    return {header.sender: models}


def _with_earlier(
    found: Released, header: Snapshot, said: list[dict[int, bytes]], needed: int
) -> Released:
    """Add what the sender says of earlier versions, as far as enough others say so.

    Args:
        found: the weights, and what these prove.
        header: of the snapshot.
        said: which models of which versions each who vouches names.
        needed: how many must.
    """
    run = found.state_digests
    oldest = found.version - len(run) // DIGEST_BYTES
    for version, digest in reversed([*header.models()]):
        if version > oldest:
            continue
        if sum(models.get(version) == digest for models in said) < needed:
            break
        run = digest + run
    return replace(found, state_digests=run)


class SnapshotResync:
    """Goes on from a sealed snapshot, and seals them for others.

    Servers keep sums of old releases for a while only. Who comes back later finds the
    next one gone, and takes the released weights from another participant instead.
    With every push and pull a session seals them for whoever was seen to need them; who
    that is, it asks once a second at most.

    Args:
        link: the connection to the DSP.
        task: the task.
        secret: the participant's keys.
        timeout: seconds to wait for a snapshot; None waits until stopped.
    """

    def __init__(
        self, link: HTTPAggregator, task: Task, secret: Secret, *, timeout: float | None
    ) -> None:
        self._link = link
        self._task = task
        self._secret = secret
        self._timeout = timeout
        self._helper = SnapshotHelper(secret)
        self._asked: tuple[Asked, ...] = ()
        self._sealed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._next_look = 0.0

    def snapshot(self) -> Released:
        """See `ask_for_snapshot`."""
        return ask_for_snapshot(
            self._link, self._task, self._secret, timeout=self._timeout
        )

    def errand(self) -> None:
        """Send what was sealed, and look who asks; what is refused is no error here."""
        with contextlib.suppress(HREError):
            while not self._sealed.empty():
                self._link.help_with(self._sealed.get())
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _HELP_EVERY_SECONDS
                self._asked = self._link.wanted_snapshots() or self._asked

    def seal_for_others(self, session: Session) -> bool:
        """Seal in the thread that trains, where weights do not change meanwhile."""
        asked, self._asked = self._asked, ()
        answers = self._helper.answers(session, asked)
        for message in answers:
            self._sealed.put(message)
        return bool(answers)
