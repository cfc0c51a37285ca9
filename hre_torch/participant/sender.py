"""Own updates from sealing to their last word.

An update counts from when it is sealed: whether the DSP has acknowledged it changes no
weight. Until the DSP has said its last word, the identical octets are sent again. One
that is refused stays pending as well, and is sealed anew, under a new number, which
voids those before: the DSP may have lied, and the same values must not be in two lists.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hre_torch.errors import (
    BackPressure,
    HREError,
    SpentUpdateError,
    StaleUploadError,
    UsedNumberError,
)
from hre_torch.observer import Observer
from hre_torch.participant.carriers import Carrier, Sealed
from hre_torch.participant.participant import LearningParticipant
from hre_torch.participant.pending import AT_ONCE, Attempt, PendingUpdates
from hre_torch.participant.released import ReleasedWeights
from hre_torch.participant.session_state import Statistics
from hre_torch.protocol.answers import read_decision, ruling_release
from hre_torch.protocol.messages import Ack, Upload
from hre_torch.protocol.suite import Integers
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Refusal

__all__ = ["Sender"]

_FOR_NOW: Final = (BackPressure, SpentUpdateError, StaleUploadError, UsedNumberError)
"""Refusals of one upload, not of what is in it: sealed anew, it may be accepted."""


class Sender:
    """Seals a session's updates, has them carried, and hears what becomes of them.

    Args:
        task: the task.
        participant: who seals.
        carrier: how uploads travel.
        observe: told of the phase `encrypt`.
        model: the released weights, which headers name.
        pending: own updates that no release contains yet.
        statistics: of the session; counts pushes and bytes.

    Attributes:
        latest_version: newest release that the DSP is known to have.
    """

    def __init__(
        self,
        task: Task,
        participant: LearningParticipant,
        carrier: Carrier,
        observe: Observer,
        model: ReleasedWeights,
        pending: PendingUpdates,
        statistics: Statistics,
    ) -> None:
        self._task = task
        self._participant = participant
        self._carrier = carrier
        self._observe = observe
        self._model = model
        self._pending = pending
        self._statistics = statistics
        self.latest_version = 0

    @property
    def staleness(self) -> int:
        """How many releases the DSP is known to be ahead."""
        return self.latest_version - self._participant.version

    @property
    def pushed(self) -> int:
        """How many updates went out from here, acknowledged or yet to be."""
        waiting = self._carrier.in_transit + len(self._pending.refused)
        return self._statistics.pushes + waiting

    def learn(self, version: int) -> None:
        """Take note that the DSP has a release."""
        self.latest_version = max(self.latest_version, version)

    def push(self, values: Integers) -> int:
        """Seal one update and send it; see `Session.push`."""
        self.hear()
        config, pending = self._task.config, self._pending.count
        if pending >= config.pending_limit:
            raise BackPressure(
                f"{pending} updates of {self._participant.name!r} are under way or "
                f"unreleased, the task allows {config.pending_limit}: pull to learn "
                "what was released, or keep accumulating locally"
            )
        if self._carrier.background and self.staleness >= config.staleness_bound:
            raise StaleUploadError(
                f"the DSP is {self.staleness} releases ahead, the task allows "
                f"{config.staleness_bound}: pull, then push again"
            )
        sequence = self._send(values)
        if not self._carrier.background:
            self.hear()
        return sequence

    def hear(self, *, wait: bool = False) -> None:
        """Take note of what the DSP has answered, or will if it is waited for.

        Raises:
            AggregatorError: an upload did not get through, or what came back is not its
                answer; it is kept and sent again.
            HREError: the DSP refuses one, and not because it is too old, one too many
                or under a used number. It is kept, and sealed again later.
        """
        for sealed, answer in self._carrier.answers(wait=wait):
            upload, octets = sealed
            self._statistics.bytes_up += len(octets)
            try:
                decision = read_decision(answer, upload, octets, self._task)
            except HREError:
                self._carrier.again(sealed)
                raise
            self._carrier.settle()
            self._note(upload, decision)

    def seal_refused(self) -> None:
        """Seal anew what was refused and is due by now."""
        if self._carrier.in_transit and not self._carrier.background:
            return
        due = self._pending.take_due(self._participant.version)
        try:
            while due:
                update = due.pop(0)
                self._send(update.values, update.attempts)
                if not self._carrier.background:
                    self.hear()
        finally:
            self._pending.refused += due

    def drop_consumed(self) -> None:
        """Give up what waits to be sent, where a release or expiry has settled it."""
        self._statistics.pushes += self._carrier.withdraw(self._pending)

    def _send(self, values: Integers, attempts: tuple[Attempt, ...] = ()) -> int:
        sealed = self._seal(values, attempts)
        self._carrier.send(sealed)
        return sealed[0].header.sequence

    def _seal(self, values: Integers, attempts: tuple[Attempt, ...] = ()) -> Sealed:
        with self._observe("encrypt"):
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

    def _note(
        self, upload: Envelope[Upload], decision: Envelope[Ack] | Envelope[Refusal]
    ) -> None:
        """Take note of the DSP's last word about an upload.

        Raises:
            HREError: it is a refusal of what is in the upload.
        """
        header = decision.header
        self.learn(header.version)
        if isinstance(header, Ack):
            self._statistics.pushes += 1
            return
        error, after = header.exception(), AT_ONCE
        if isinstance(error, StaleUploadError | BackPressure):
            after = upload.header.base_version
        elif isinstance(error, SpentUpdateError):
            # With that release the update goes, whatever the DSP says of it.
            after = ruling_release(header, upload.header, self._task).version - 1
        self._pending.refuse(Attempt.of(upload.header, decision), after)
        if not isinstance(error, _FOR_NOW):
            raise error
