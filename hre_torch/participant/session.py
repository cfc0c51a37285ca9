"""A session: one participant, its connection, released weights and pending uploads.

This is what an optimizer holds. It works on integers at scale 2^f only:

    weights in use = released weights + all own updates not yet released or expired

and an own update is subtracted exactly when a release that contains it is added, or
when an expiry drops it, so that nothing of one's own is lost or counted twice. What
becomes of an own update until the DSP's last word is told in `sender`, and how messages
travel in `carriers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import (
    SnapshotNeededError,
)
from hre_torch.observer import Observer, silent
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.carriers import Carrier, DirectCarrier
from hre_torch.participant.participant import LearningParticipant, Opened
from hre_torch.participant.pending import PendingUpdates
from hre_torch.participant.receiver import Receiver
from hre_torch.participant.released import LocalWeights, ReleasedWeights, followed
from hre_torch.participant.sender import Sender
from hre_torch.participant.session_state import (
    SessionState,
    Statistics,
    checked_initial,
)
from hre_torch.protocol.evidence import (
    Evidence,
    decode_evidence,
)
from hre_torch.protocol.messages import Verdict
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Integers
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector
from hre_torch.protocol.workers import Workers

if TYPE_CHECKING:
    from hre_torch.participant.newcomer import SnapshotResync

__all__ = ["Session"]

_MOST_SNAPSHOTS: Final = 10
"""One after another: what follows each of them was gone again meanwhile."""


class Session:
    """One participant's view of a task.

    Args:
        task: the task.
        secret: this participant's keys.
        aggregator: connection to the DSP; closed with the session.
        initial: weights that the task starts from, int64, shape `(n_values,)`; None if
            `state` says where to go on.
        workers: where block-wise arithmetic runs.
        observe: told of the phases `encrypt`, `submit`, `fetch`, `open` and `load`, the
            last for what is attached.
        state: where an earlier session of the same participant stopped.
        carrier: how messages travel over that connection; by default a session waits
            for each answer.
        resync: what to do where the next release is gone; by default that is an error.
        participant: who seals and opens, at the version of `state`; made if left out.

    Attributes:
        task: the task.
        name: the participant.
        observe: told of the phases.
        statistics: what was done so far.
        closed: whether `close` was called.
        module: the participant's model, if it was named when it joined; optimizers take
            the order of the task's values from it.
        keep: writes down where this session stands, if somebody remembers it.
        defaults: what optimizers use where the script says nothing, by name.
        optimizer: the optimizer that was made on this session last.
        founder: the model that the task was made from, if it is in this process.
        on_rejection: called with every release that is given up, its content spoiled.

    Raises:
        LayoutError: `initial` is not the vector that the task starts from.
        WrongTaskError: `state` is another participant's, or of another task.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        aggregator: Aggregator,
        initial: npt.NDArray[np.int64] | None,
        *,
        workers: Workers | None = None,
        observe: Observer = silent,
        state: SessionState | None = None,
        carrier: Carrier | None = None,
        resync: SnapshotResync | None = None,
        participant: LearningParticipant | None = None,
    ) -> None:
        self.task = task
        self.name = secret.name
        self.observe = observe
        if state is not None:
            state.require(task, self.name)
        self._carrier = carrier or DirectCarrier(aggregator)
        self._carrier.observe = self._observed
        self._resync = resync
        self._participant = participant or LearningParticipant(
            task, secret, workers or Workers(), state.participant if state else None
        )
        self._pending = (
            PendingUpdates(task, state.pending, state.refused, state.attempts)
            if state
            else PendingUpdates(task)
        )
        if initial is not None or state is None:
            self._model = ReleasedWeights(task, checked_initial(task, initial))
        if state is not None:
            self._model = ReleasedWeights(
                task,
                decode_vector(state.released, "<i8", task.config.n_values).astype(
                    np.int64
                ),
                state.state_digests,
            )
        self.statistics = replace(state.statistics) if state else Statistics()
        self._sender = Sender(
            task,
            self._participant,
            self._carrier,
            self._observed,
            self._model,
            self._pending,
            self.statistics,
        )
        if state is not None:
            self._sender.latest_version = state.latest_version
        self._receiver = Receiver(
            task,
            self._participant,
            self._carrier,
            self._sender,
            self._observed,
            self._model,
            self._pending,
            self.statistics,
            state.evidence if state else (),
        )
        self._attached: LocalWeights | None = None
        self._returns_to: int | None = None
        self.closed = False
        self.module: Any = None
        self.founder: Any = None
        self.optimizer: Any = None
        self.keep: Callable[[], None] | None = None
        self.defaults: Mapping[str, Any] = {}
        self.on_rejection: list[Callable[[Opened], None]] = []
        self._carrier.opened(self.version)

    def __repr__(self) -> str:
        return (
            f"Session(name={self.name!r}, suite={self.task.config.suite!r}, "
            f"version={self.version}, pending={self.pending})"
        )

    @property
    def version(self) -> int:
        """Number of releases applied to the released weights."""
        return self._participant.version

    @property
    def sequence(self) -> int:
        """Sequence number of the next own upload."""
        return self._participant.state().sequence

    @property
    def model_digest(self) -> bytes:
        """What upload headers say of the released weights at this version."""
        return self._model.digest

    @property
    def state_digests(self) -> bytes:
        """What they say of this version and those before it; see `ReleasedWeights`."""
        return self._model.run

    @property
    def previous_digest(self) -> bytes:
        """What they said one release ago; empty if that is not known here."""
        return self._model.previous_digest

    @property
    def chain(self) -> bytes:
        """Hash chain over all releases applied."""
        return self._participant.state().chain

    @property
    def latest_version(self) -> int:
        """Newest release that the DSP is known to have."""
        return self._sender.latest_version

    @property
    def staleness(self) -> int:
        """How many releases the DSP is known to be ahead of this session."""
        return self._sender.staleness

    @property
    def pending(self) -> int:
        """Own updates that no release or expiry seen so far contains."""
        return self._pending.count

    @property
    def pushed(self) -> int:
        """How many updates went out from here, acknowledged or yet to be."""
        return self._sender.pushed

    @property
    def background(self) -> bool:
        """Whether training goes on while messages travel."""
        return self._carrier.background

    @property
    def disputed(self) -> int | None:
        """The next release, if it does not open here and others are asked about it."""
        held = self._participant.held
        return None if held is None else held.release.version

    @property
    def fixed_point(self) -> FixedPoint:
        """The task's quantiser."""
        return self.task.fixed_point

    def company(self) -> str:
        """Say who takes part, as far as is known, and what a release needs."""
        needed = self.task.config.min_contributions
        names = len(self.task.roster.names)
        joined = self._carrier.aggregator.joined()
        if joined is None:
            return (
                f"A release needs updates of {needed} of the {names} participants: "
                "are the others training?"
            )
        have = f"{joined} of {names} participants {'has' if joined == 1 else 'have'} "
        if joined == names:
            return f"{have}joined, and a release needs updates of {needed}."
        alone = ": you are training alone" if joined == 1 else ""
        return (
            f"{have}joined{alone}, and a release needs updates of {needed}. Each "
            "participant trains a model of its own through a session of its own: in "
            "turn, in a thread or in a process."
        )

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proof that the DSP has broken its word, which anybody can check."""
        return tuple(map(decode_evidence, self._receiver.evidence))

    def released(self, piece: slice = slice(None)) -> npt.NDArray[np.int64]:
        """Return a copy of the released weights, or of a piece of them.

        Args:
            piece: contiguous part of the vector; all of it by default.

        Returns:
            int64 at scale 2^f, shape `(n_values,)` or that of the piece.
        """
        return self._model.values[piece].copy()

    def weights(self, piece: slice = slice(None)) -> npt.NDArray[np.int64]:
        """Return released weights plus own pending updates, or a piece of them.

        Args:
            piece: contiguous part of the vector; all of it by default.

        Returns:
            int64 at scale 2^f, shape `(n_values,)` or that of the piece.
        """
        weights = self._model.values[piece].copy()
        self._pending.add_to(weights, piece)
        return weights

    def attach(self, local: LocalWeights) -> None:
        """Have a local model follow, whoever makes this session pull from now on.

        Args:
            local: takes the place of what was attached before.
        """
        self._attached = local

    @property
    def attached(self) -> LocalWeights | None:
        """The local model that follows, if there is one."""
        return self._attached

    def follows(self, local: LocalWeights) -> bool:
        """Whether this is the local model that follows."""
        return self._attached is local

    def push(self, values: Integers) -> int:
        """Seal and submit one quantised update.

        Where messages travel in the background, nobody waits for the answer, and errors
        are those of *earlier* uploads; this one was not kept then.

        Args:
            values: int32 or int16, shape `(n_sealed,)`, |q| <= 2^(b-1) - 1; the last
                one is the weight, where updates have weights. A read-only array of the
                narrower type that fits is kept as it is, not copied.

        Returns:
            The upload's sequence number.

        Raises:
            BackPressure: Q own updates wait already; nothing was sent or kept.
            StaleUploadError: the weights known here are too old; nothing was kept.
            AggregatorError: no answer came; the sealed bytes are kept and sent again.
            HREError: the DSP refused this update or an earlier one; see `resend`. If
                this one was sealed (`sequence` is greater than before), it is kept.
        """
        self._help_others()
        return self._sender.push(values)

    def resend(self) -> None:
        """Wait for the DSP's last word about all that was pushed, sending it again.

        Raises:
            AggregatorError: the DSP still cannot be reached, or what came back is not
                its answer to these bytes; they are kept.
            HREError: the DSP refuses them, and not because they are too old, too many
                or under a used number. They are kept, and sent or sealed again.
        """
        self._sender.hear(wait=True)

    def pull(self) -> list[Opened]:
        """Fetch, open and apply every release that is new here.

        One whose content is spoiled is applied as nothing; in suites where nobody
        decides that alone, only once enough others say so too. Till then the session
        stays before it, which it says once, and asks again with every pull. Where the
        next release is gone, the session goes on from a snapshot of others.

        In the background it is applied what has come; the network is waited for only if
        the weights known here are too old to push.

        Returns:
            What was opened, oldest first; empty when there was nothing new.

        Raises:
            TransformError: a download is wrong; what came before it is applied, nothing
                of it is, and asking again is safe.
            DisputedReleaseError: a release does not open here, but has for others.
            AggregatorError: the DSP could not be reached, or nobody seals a snapshot.
            NonFiniteError: what is attached is NaN or infinite; nothing was fetched.
        """
        return self._pull_all(wait=False)

    def others_may_push(self) -> bool:
        """Say that this participant pushes no more; return whether others still may.

        Where the backend cannot tell, others may.
        """
        return self._carrier.aggregator.others_may_push()

    def catch_up(self) -> list[Opened]:
        """Have everything answered, then apply every release that there is; see `pull`.

        Raises:
            AggregatorError, HREError: see `resend` and `pull`.
        """
        self.resend()
        return self._pull_all(wait=True)

    def attest(self) -> Verdict:
        """State, signed, which weights this session has at its version.

        Nobody uploads upon the last version of a task: such statements settle it.

        Raises:
            ReleaseError: there is no release yet, or this one was long ago.
            AggregatorError: the DSP could not be reached.
        """
        return self._receiver.attest()

    def may_return_to(self, version: int) -> None:
        """Say that this session may be started again from its state at a version.

        From the first call on servers keep what follows that version, so that a
        participant that is killed can go on from its disk; call it whenever a newer
        state is on the disk.
        """
        self._returns_to = self._carrier.aggregator.opened = version

    def rebase(
        self,
        version: int,
        chain: bytes,
        state_digests: bytes,
        released: npt.NDArray[np.int64],
    ) -> None:
        """Go on from released weights of a newer version, as others vouch for them.

        Own updates that were under way are dropped: each is in those weights already,
        or based on weights too old ever to be released. So are refused ones, which may
        be in those weights all the same.

        Args:
            version: release after which the weights are these.
            chain: hash chain after that release.
            state_digests: what upload headers say of the weights at that version, and
                of those before it, as far as that is known.
            released: int64 at scale 2^f, shape `(n_values,)`.
        """
        with followed(self._attached, self.observe):
            self._participant.rebase(version, chain)
            self._model.replace(released, state_digests)
            self.statistics.spent += len(self._pending.refused)
            self._pending.clear()
            self._carrier.withdraw(())
        self._sender.learn(version)

    def state(self) -> SessionState:
        """Return everything that a restart needs, keys aside, once all is answered.

        Raises:
            AggregatorError, HREError: see `resend`.
        """
        self.resend()
        return SessionState(
            cfg=self.task.cfg,
            name=self.name,
            participant=self._participant.state(),
            released=self._model.values.astype("<i8").tobytes(),
            pending=self._pending.encoded(),
            refused=self._pending.encoded_refused(),
            state_digests=self._model.run,
            attempts=dict(self._pending.attempts),
            evidence=list(self._receiver.evidence),
            latest_version=self.latest_version,
            statistics=replace(self.statistics),
        )

    def close(self) -> None:
        """Send what waits, as far as the DSP can be reached; close the connection."""
        self.closed = True
        self._carrier.close()

    def _observed(self, phase: str) -> AbstractContextManager[None]:
        # Who trains may put another observer in place of the first.
        return self.observe(phase)

    def _help_others(self) -> None:
        if self._resync is None:
            return
        if not self.background:
            self._resync.errand()
        if self._resync.seal_for_others(self):
            self._carrier.run_errand()

    def _pull_all(self, *, wait: bool) -> list[Opened]:
        for _ in range(_MOST_SNAPSHOTS):
            try:
                return self._pull_once(wait=wait)
            except SnapshotNeededError:
                if self._resync is None:
                    raise
                found = self._resync.snapshot()
                self.rebase(
                    found.version, found.chain, found.state_digests, found.weights
                )
        return self._pull_once(wait=wait)

    def _pull_once(self, *, wait: bool) -> list[Opened]:
        if self.background:
            self._sender.hear()
            wait = wait or self.staleness >= self.task.config.staleness_bound
        self.statistics.pulls += 1
        try:
            with followed(self._attached, self.observe):
                opened = self._receiver.receive(wait=wait)
            self._sender.seal_refused()
        finally:
            if self._returns_to is None:
                self._carrier.opened(self.version)
        for rejected in self._receiver.tell(opened):
            for listener in self.on_rejection:
                listener(rejected)
        self._help_others()
        return opened
