"""A session: one participant, its connection, released weights and pending uploads.

This is what an optimizer holds. It works on integers at scale 2^f only:

    weights in use = released weights + all own updates not yet released or expired

and an own update is subtracted exactly when a release that contains it is added, or
when an expiry drops it, so that nothing of one's own is lost or counted twice. What
becomes of an own update from sealing to release is told in `pushing`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import (
    AggregatorError,
    EquivocationWarning,
    ReleaseRejectedError,
    SpoiledReleaseError,
    SpoiledReleaseWarning,
)
from hre_torch.observer import Observer, silent
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.disputes import Disputes
from hre_torch.participant.participant import LearningParticipant, Opened
from hre_torch.participant.pending import Attempt, PendingUpdates
from hre_torch.participant.pushing import Pushing
from hre_torch.participant.released import ReleasedWeights, followed
from hre_torch.participant.session_state import (
    SessionState,
    Statistics,
    checked_initial,
)
from hre_torch.protocol.evidence import (
    Evidence,
    check_evidence,
    decode_evidence,
    refuted,
)
from hre_torch.protocol.messages import Listed, Verdict
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector
from hre_torch.protocol.workers import Workers

__all__ = ["Session"]


class Session(Pushing):
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

    Attributes:
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
    ) -> None:
        self.task = task
        self.name = secret.name
        self.observe = observe
        self._aggregator = aggregator
        self._participant = LearningParticipant(
            task, secret, workers or Workers(), state.participant if state else None
        )
        self._pending = (
            PendingUpdates(task, state.pending, state.refused, state.attempts)
            if state
            else PendingUpdates(task)
        )
        self._disputes = Disputes(
            self._participant, lambda statement: self._aggregator.declare(statement)
        )
        self._evidence = list(state.evidence) if state else []
        self._charges: list[str] = []
        self._unsent = None
        self._attached = None
        self.closed = False
        self.module: Any = None
        self.founder: Any = None
        self.optimizer: Any = None
        self.keep: Callable[[], None] | None = None
        self.defaults: Mapping[str, Any] = {}
        self.on_rejection: list[Callable[[Opened], None]] = []
        self.latest_version = 0
        self.statistics = Statistics()
        if state is None or initial is not None:
            self._model = ReleasedWeights(task, checked_initial(task, initial))
        if state is not None:
            self._restore(state)

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
    def staleness(self) -> int:
        """How many releases the DSP is known to be ahead of this session."""
        return self.latest_version - self.version

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
        joined = self._aggregator.joined()
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
        return tuple(map(decode_evidence, self._evidence))

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

    def pull(self) -> list[Opened]:
        """Fetch, open and apply every release that is new here.

        One whose content is spoiled is applied as nothing; in suites where nobody
        decides that alone, only once enough others say so too. Till then the session
        stays before it, which it says once, and asks again with every pull.

        Returns:
            What was opened, oldest first; empty when there was nothing new.

        Raises:
            TransformError: a download is wrong; what came before it is applied, nothing
                of it is, and asking again is safe.
            DisputedReleaseError: a release does not open here, but has for others.
            AggregatorError: the DSP could not be reached.
            NonFiniteError: what is attached is NaN or infinite; nothing was fetched.
        """
        self.statistics.pulls += 1
        opened: list[Opened] = []
        with followed(self._attached, self.observe):
            try:
                self._pull(opened, merge=True)
            except ReleaseRejectedError:
                self._pull(opened, merge=False)
        self._seal_refused()
        for each in opened:
            if each.values is None:
                self._tell_rejection(each)
        self._tell_charges()
        return opened

    def others_may_push(self) -> bool:
        """Say that this participant pushes no more; return whether others still may.

        Where the backend cannot tell, others may.
        """
        return self._aggregator.others_may_push()

    def catch_up(self) -> list[Opened]:
        """Apply every release that there is, and wait for it if need be; see `pull`."""
        return self.pull()

    def attest(self) -> Verdict:
        """State, signed, which weights this session has at its version.

        Nobody uploads upon the last version of a task: such statements settle it.

        Raises:
            ReleaseError: there is no release yet, or this one was long ago.
            AggregatorError: the DSP could not be reached.
        """
        return self._disputes.state(self.model_digest)

    def may_return_to(self, version: int) -> None:
        """Say that this session may be started again from its state at a version.

        From the first call on servers keep what follows that version, so that a
        participant that is killed can go on from its disk; call it whenever a newer
        state is on the disk.
        """
        self._aggregator.opened = version

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
            self._unsent = None
        self.latest_version = max(self.latest_version, version)

    def state(self) -> SessionState:
        """Return everything that a restart needs, keys aside.

        Raises:
            AggregatorError: an upload is sealed but not acknowledged; resend it first.
        """
        if self._unsent is not None:
            raise AggregatorError(
                f"an upload of {self.name!r} is not acknowledged yet; call resend() "
                "before saving the session"
            )
        return SessionState(
            cfg=self.task.cfg,
            name=self.name,
            participant=self._participant.state(),
            released=self._model.values.astype("<i8").tobytes(),
            pending=self._pending.encoded(),
            refused=self._pending.encoded_refused(),
            state_digests=self._model.run,
            attempts=dict(self._pending.attempts),
            evidence=list(self._evidence),
            latest_version=self.latest_version,
            statistics=replace(self.statistics),
        )

    def close(self) -> None:
        """Close the connection to the DSP."""
        self.closed = True
        self._aggregator.close()

    def _pull(self, opened: list[Opened], *, merge: bool) -> None:
        downloads = self._aggregator.fetch(self.version, merge=merge)
        while True:
            with self.observe("fetch"):
                data = next(downloads, None)
            if data is None:
                return
            self.statistics.bytes_down += len(data)
            try:
                with self.observe("open"):
                    found: Opened | None = self._participant.open(data)
            except SpoiledReleaseError:
                if self._disputes.may_ask_again():
                    downloads = self._aggregator.fetch(self.version, merge=False)
                    continue
                found = self._disputes.give_up()
            if found is None:
                return
            opened.append(found)
            self._apply(found)
            if found.values is not None and self._disputes.was_stated(found.last):
                # That it opened after all is said as well; what is uploaded upon it
                # says so again.
                with contextlib.suppress(AggregatorError):
                    self.attest()

    def _apply(self, opened: Opened) -> None:
        rejected = opened.values is None
        if rejected:
            names = {item.name for item in opened.uploads}
            if self.statistics.rejected:
                names &= set(self.statistics.suspects)
            self.statistics.rejected += 1
            self.statistics.suspects = tuple(sorted(names))
        releases = opened.last - opened.first + 1
        self.statistics.releases += releases
        self._model.add(opened.values, releases)
        for item in opened.uploads:
            if item.name == self.name:
                # What is not pending here is no loss: it has arrived with the sum.
                dropped, attempt = self._pending.consume(item.sequence)
                self.statistics.spent += dropped and rejected
                if attempt is not None:
                    self._accuse(attempt, item, opened)
        for item in opened.expired:
            if item.name == self.name:
                self.statistics.expired += self._pending.expire(item.sequence)
        if self._unsent and self._unsent[0].header.sequence not in self._pending:
            # Its answer would only come too late now.
            self._unsent = None
            self.statistics.pushes += 1
        self.latest_version = max(self.latest_version, opened.newest)

    def _tell_rejection(self, rejected: Opened) -> None:
        for listener in self.on_rejection:
            listener(rejected)
        names = ", ".join(sorted({item.name for item in rejected.uploads}))
        suspects = ", ".join(self.statistics.suspects) or "nobody"
        warnings.warn(
            f"Release {rejected.last} was spoiled and is given up, with every update "
            f"in it; its uploads are of {names}. Spoiled so far: "
            f"{self.statistics.rejected}; {suspects} had uploads in every one.",
            SpoiledReleaseWarning,
            stacklevel=3,
        )

    def _accuse(self, attempt: Attempt, item: Listed, opened: Opened) -> None:
        """Keep evidence that a list names what the DSP has refused for good."""
        evidence = refuted(attempt.refusal, item, opened.signed, self.task)
        if evidence is None:
            self._charges.append(
                f"upload {item.sequence} was refused, but a release up to "
                f"{opened.last} contains it; the refusal is worded so that it proves "
                "nothing"
            )
            return
        self._charges.append(check_evidence(evidence, self.task))
        if not self._evidence:
            self._evidence.append(evidence.encode())

    def _tell_charges(self) -> None:
        charges, self._charges = self._charges, []
        for charge in charges:
            warnings.warn(
                f"The DSP has broken its word: {charge}. It counts once. Show others "
                "`session.evidence`, and use another DSP if it recurs.",
                EquivocationWarning,
                stacklevel=3,
            )

    def _restore(self, state: SessionState) -> None:
        task = self.task
        state.require(task, self.name)
        values = decode_vector(state.released, "<i8", task.config.n_values)
        self._model = ReleasedWeights(
            task, values.astype(np.int64), state.state_digests
        )
        self.latest_version = state.latest_version
        self.statistics = replace(state.statistics)
