"""The half of a session that pushes: own updates from sealing to release.

An update counts from when it is sealed: whether the DSP has acknowledged it changes no
weight. One that is refused for now waits for newer weights and is sealed anew, under a
new number; one that is refused for good goes back to what trains on the session.
"""

from __future__ import annotations

from dataclasses import replace

from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    HREError,
    StaleUploadError,
)
from hre_torch.observer import Observer
from hre_torch.protocol.aggregator import Aggregator
from hre_torch.protocol.answers import read_acknowledgement
from hre_torch.protocol.ciphers import Integers
from hre_torch.protocol.envelope import Envelope
from hre_torch.protocol.local_weights import LocalWeights
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.participant import LearningParticipant
from hre_torch.protocol.pending import PendingUpdates
from hre_torch.protocol.released import ReleasedWeights
from hre_torch.protocol.session_state import Statistics
from hre_torch.protocol.task import Task

__all__ = ["Pushing"]


class Pushing:
    """What `Session` inherits, whose constructor sets the attributes.

    Attributes:
        task: the task.
        name: the participant.
        observe: told of the phases.
        latest_version: newest release that the DSP is known to have.
        statistics: what was done so far.
    """

    task: Task
    name: str
    observe: Observer
    latest_version: int
    statistics: Statistics
    _aggregator: Aggregator
    _participant: LearningParticipant
    _model: ReleasedWeights
    _pending: PendingUpdates
    _unsent: tuple[Envelope[Upload], bytes] | None
    _attached: LocalWeights | None

    @property
    def pending(self) -> int:
        """Own updates that no release or expiry seen so far contains."""
        return self._pending.count

    @property
    def pushed(self) -> int:
        """How many updates went out from here, acknowledged or yet to be."""
        unsent = self._unsent is not None
        return self.statistics.pushes + unsent + len(self._pending.refused)

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
            HREError: the DSP refused this update or an earlier one; see `resend`.
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
            upload = self._participant.seal(
                values, self._participant.version, self._model.run
            )
            data = upload.encode()
        self._pending[upload.header.sequence] = self._pending.narrow(values)
        # Its words are in `data` now, and need not be in memory twice.
        return replace(upload, parts=()), data

    def _seal_refused(self) -> None:
        """Seal anew what was refused for now, where a newer version is known by now."""
        while self._unsent is None:
            values = self._pending.take_due(self._participant.version)
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
            self._attached.take_back(self.task.fixed_point.to_float(own))

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

    def _drop(self, sequence: int) -> None:
        # What is not pending here is no loss: it has arrived with the sum. It may wait
        # for its acknowledgement still, which would only come too late now.
        self._pending.pop(sequence, None)
        if self._unsent is not None and self._unsent[0].header.sequence == sequence:
            self._unsent = None
            self.statistics.pushes += 1
