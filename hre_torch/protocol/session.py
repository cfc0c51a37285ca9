"""A session: one participant, its connection, released weights and pending uploads.

This is what an optimizer holds. It works on integers at scale 2^f only:

    weights in use = released weights + all own updates not yet released or expired

and an own update is subtracted exactly when a release that contains it is added, or
when an expiry drops it, so that nothing of one's own is lost or counted twice. It
counts from when it is sealed: whether the DSP has acknowledged it changes no weight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    HREError,
    ReleaseRejectedError,
    StaleUploadError,
)
from hre_torch.observer import Observer, silent
from hre_torch.protocol.aggregator import Aggregator
from hre_torch.protocol.answers import read_acknowledgement
from hre_torch.protocol.envelope import Envelope
from hre_torch.protocol.local_weights import LocalWeights, followed
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.participant import LearningParticipant, Opened
from hre_torch.protocol.pending import PendingUpdates
from hre_torch.protocol.released import ReleasedWeights
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.session_state import SessionState, Statistics, checked_initial
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector
from hre_torch.protocol.workers import Workers

__all__ = ["Session"]

Integers = npt.NDArray[np.signedinteger]


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
            PendingUpdates(task, state.pending, state.refused)
            if state
            else PendingUpdates(task)
        )
        self._unsent: tuple[Envelope[Upload], bytes] | None = None
        self._attached: LocalWeights | None = None
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
    def pending(self) -> int:
        """Own updates that no release or expiry seen so far contains."""
        return self._pending.count

    @property
    def pushed(self) -> int:
        """How many updates went out from here, acknowledged or yet to be."""
        unsent = self._unsent is not None
        return self.statistics.pushes + unsent + len(self._pending.refused)

    @property
    def fixed_point(self) -> FixedPoint:
        """The task's quantiser."""
        return self.task.fixed_point

    def released(self) -> npt.NDArray[np.int64]:
        """Return a copy of the released weights at scale 2^f, shape `(n_values,)`."""
        return self._model.values.copy()

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

    def follows(self, local: LocalWeights) -> bool:
        """Whether this is the local model that follows."""
        return self._attached is local

    def push(self, values: Integers) -> int:
        """Seal and submit one quantised update.

        Args:
            values: int32 or int16, shape `(n_sealed,)`, |q| <= 2^(b-1) - 1; the last
                one is the weight, where updates have weights. A read-only array of the
                narrower type that fits is kept as it is, not copied.

        Returns:
            The upload's sequence number.

        Raises:
            BackPressure: Q own uploads wait already; nothing was sent or kept.
            StaleUploadError: the weights known here are too old; nothing was kept.
            AggregatorError: no answer came; the sealed bytes are kept and sent again.
        """
        self.resend()
        limit = self.task.config.pending_limit
        if self.pending >= limit:
            raise BackPressure(
                f"{self.pending} uploads of {self.name!r} may be unreleased, "
                f"the task allows {limit}: pull to learn what was released, or keep "
                "accumulating locally"
            )
        upload, data = self._seal(values)
        self._unsent = (upload, data)
        try:
            self._submit()
        except AggregatorError:
            raise
        except HREError:
            del self._pending[upload.header.sequence]
            raise
        return upload.header.sequence

    def resend(self) -> None:
        """Submit what an `AggregatorError` kept from being acknowledged, if anything.

        Raises:
            AggregatorError: the DSP still cannot be reached, or what came back is not
                its answer to these bytes; they are kept.
            HREError: the DSP refused them; what is attached has the update back.
        """
        if self._unsent is None:
            return
        sequence = self._unsent[0].header.sequence
        try:
            self._submit()
        except AggregatorError:
            raise
        except HREError:
            self._give_back(sequence)
            raise

    def _seal(self, values: Integers) -> tuple[Envelope[Upload], bytes]:
        """Return an upload without its words, and all of its octets."""
        with self.observe("encrypt"):
            upload = self._participant.seal(values, self.version, self.model_digest)
            data = upload.encode()
        self._pending[upload.header.sequence] = self._pending.narrow(values)
        # Its words are in `data` now, and need not be in memory twice.
        return replace(upload, parts=()), data

    def _seal_refused(self) -> None:
        """Seal anew what was refused for now, where a newer version is known by now."""
        while self._unsent is None:
            values = self._pending.take_due(self.version)
            if values is None:
                return
            upload, _ = self._unsent = self._seal(values)
            try:
                self._submit()
            except AggregatorError:
                raise
            except (StaleUploadError, BackPressure):
                header = upload.header
                self._pending.refuse(header.sequence, header.base_version)
            except HREError:
                self._give_back(upload.header.sequence)
                raise

    def _give_back(self, sequence: int) -> None:
        """Drop an update that was refused for good; what is attached has it again."""
        values = self._pending.pop(sequence, None)
        if values is not None and self._attached is not None:
            own = self._pending.own(values)
            self._attached.take_back(self.fixed_point.to_float(own))

    def _submit(self) -> None:
        """Submit what is sealed and not acknowledged.

        Raises:
            AggregatorError: no answer came; it is kept.
            HREError: it was refused, and will not be sent again.
        """
        if self._unsent is None:
            return
        upload, data = self._unsent
        with self.observe("submit"):
            reply = self._aggregator.submit(data)
        self.statistics.bytes_up += len(data)
        try:
            ack = read_acknowledgement(reply, upload, data, self.task)
        except HREError as error:
            if not isinstance(error, AggregatorError):
                self._unsent = None
            raise
        self._unsent = None
        self.latest_version = max(self.latest_version, ack.version)
        self.statistics.pushes += 1

    def pull(self) -> list[Opened]:
        """Fetch, open and apply every release that is new here.

        Returns:
            What was opened, oldest first; empty when there was nothing new.

        Raises:
            TransformError: a download is wrong; what came before it is applied, nothing
                of it is, and asking again is safe.
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
        return opened

    def catch_up(self) -> list[Opened]:
        """Apply every release that there is, and wait for it if need be; see `pull`."""
        return self.pull()

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
        model_digest: bytes,
        released: npt.NDArray[np.int64],
    ) -> None:
        """Go on from released weights of a newer version, as others vouch for them.

        Own updates that were under way are dropped: each is in those weights already,
        or based on weights too old ever to be released.

        Args:
            version: release after which the weights are these.
            chain: hash chain after that release.
            model_digest: what upload headers say of the weights at that version.
            released: int64 at scale 2^f, shape `(n_values,)`.
        """
        with followed(self._attached, self.observe):
            self._participant.rebase(version, chain)
            self._model.replace(released, model_digest)
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
            model_digest=self.model_digest,
            latest_version=self.latest_version,
            statistics=self.statistics,
        )

    def close(self) -> None:
        """Close the connection to the DSP."""
        self._aggregator.close()

    def _pull(self, opened: list[Opened], *, merge: bool) -> None:
        downloads = self._aggregator.fetch(self.version, merge=merge)
        while True:
            with self.observe("fetch"):
                data = next(downloads, None)
            if data is None:
                return
            self.statistics.bytes_down += len(data)
            with self.observe("open"):
                opened.append(self._participant.open(data))
            self._apply(opened[-1])

    def _apply(self, opened: Opened) -> None:
        if opened.values is None:
            self.statistics.rejected += 1
        self._model.add(opened.values)
        for item in (*opened.uploads, *opened.expired):
            if item.name == self.name:
                self._drop(item.sequence)
        self.statistics.expired += sum(it.name == self.name for it in opened.expired)
        self.statistics.releases += opened.last - opened.first + 1
        self.latest_version = max(self.latest_version, opened.newest)

    def _drop(self, sequence: int) -> None:
        # What is not pending here is no loss: it has arrived with the sum. It may wait
        # for its acknowledgement still, which would only come too late now.
        self._pending.pop(sequence, None)
        if self._unsent is not None and self._unsent[0].header.sequence == sequence:
            self._unsent = None
            self.statistics.pushes += 1

    def _restore(self, state: SessionState) -> None:
        task = self.task
        state.require(task, self.name)
        values = decode_vector(state.released, "<i8", task.config.n_values)
        self._model = ReleasedWeights(task, values.astype(np.int64), state.model_digest)
        self.latest_version = state.latest_version
        self.statistics = state.statistics
