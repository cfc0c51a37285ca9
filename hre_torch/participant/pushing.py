"""The half of a session that pushes: own updates from sealing to release.

An update counts from when it is sealed: whether the DSP has acknowledged it changes no
weight. Until the DSP has said its last word, the identical octets are sent again. One
that is refused stays here as well, and is sealed anew, under a new number, which voids
those before: the DSP may have lied, and the same values must not be in two lists.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hre_torch.errors import (
    BackPressure,
    SpentUpdateError,
    StaleUploadError,
    UsedNumberError,
)
from hre_torch.observer import Observer
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.participant import LearningParticipant
from hre_torch.participant.pending import AT_ONCE, Attempt, PendingUpdates
from hre_torch.participant.released import LocalWeights, ReleasedWeights
from hre_torch.participant.session_state import Statistics
from hre_torch.protocol.answers import read_decision, ruling_release
from hre_torch.protocol.ciphers import Integers
from hre_torch.protocol.messages import Ack, Upload
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Refusal

__all__ = ["Pushing"]

_FOR_NOW: Final = (BackPressure, SpentUpdateError, StaleUploadError, UsedNumberError)
"""Refusals of one upload, not of what is in it: sealed anew, it may be accepted."""


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
            BackPressure: Q own updates wait already; nothing was sent or kept.
            AggregatorError: no answer came; the sealed bytes are kept and sent again.
            HREError: the DSP refused this update or an earlier one; see `resend`. If
                this one was sealed (`sequence` is greater than before), it is kept.
        """
        self.resend()
        limit = self.task.config.pending_limit
        if self.pending >= limit:
            raise BackPressure(
                f"{self.pending} uploads of {self.name!r} may be unreleased, "
                f"the task allows {limit}: pull to learn what was released, or keep "
                "accumulating locally"
            )
        upload, _ = self._unsent = self._seal(values)
        self._submit()
        return upload.header.sequence

    def resend(self) -> None:
        """Submit what the DSP has not said its last word about, if anything.

        Raises:
            AggregatorError: the DSP still cannot be reached, or what came back is not
                its answer to these bytes; they are kept.
            HREError: the DSP refuses them, and not because they are too old, too many
                or under a used number. They are kept, and sent or sealed again.
        """
        self._submit()

    def _seal(
        self, values: Integers, attempts: tuple[Attempt, ...] = ()
    ) -> tuple[Envelope[Upload], bytes]:
        """Return an upload without its words, and all of its octets."""
        with self.observe("encrypt"):
            upload = self._participant.seal(
                values,
                self._participant.version,
                self._model.named,
                tuple(attempt.sequence for attempt in attempts),
            )
            data = upload.encode()
        self._pending.enter(upload.header.sequence, values, attempts)
        # Its words are in `data` now, and need not be in memory twice.
        return replace(upload, parts=()), data

    def _seal_refused(self) -> None:
        """Seal anew what was refused and is due by now."""
        if self._unsent is not None:
            return
        due = self._pending.take_due(self._participant.version)
        try:
            while due:
                update = due.pop(0)
                self._unsent = self._seal(update.values, update.attempts)
                self._submit()
        finally:
            self._pending.refused += due

    def _submit(self) -> None:
        """Submit what is sealed and has had no last word.

        Raises:
            AggregatorError, HREError: see `resend`.
        """
        if self._unsent is None:
            return
        upload, data = self._unsent
        with self.observe("submit"):
            reply = self._aggregator.submit(data)
        self.statistics.bytes_up += len(data)
        decision = read_decision(reply, upload, data, self.task)
        self._unsent = None
        self._note(upload, decision)

    def _note(
        self, upload: Envelope[Upload], decision: Envelope[Ack] | Envelope[Refusal]
    ) -> None:
        """Take note of the DSP's last word about an upload.

        Raises:
            HREError: it is a refusal of what is in the upload.
        """
        header = decision.header
        self.latest_version = max(self.latest_version, header.version)
        if isinstance(header, Ack):
            self.statistics.pushes += 1
            return
        error, after = header.exception(), AT_ONCE
        if isinstance(error, StaleUploadError | BackPressure):
            after = upload.header.base_version
        elif isinstance(error, SpentUpdateError):
            # With that release the update goes, whatever the DSP says of it.
            after = ruling_release(header, upload.header, self.task).version - 1
        self._pending.refuse(Attempt.of(upload.header, decision), after)
        if not isinstance(error, _FOR_NOW):
            raise error
