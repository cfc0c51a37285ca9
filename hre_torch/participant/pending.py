"""Own updates that no release or expiry seen so far contains.

The DSP's word that an upload is refused proves nothing: a list may name it all the
same. So whoever seals the same values again remembers under which numbers they were
sealed before. The next upload voids these, and a list that names one of them counts as
naming the update. A number can be released only up to S versions after the one that its
upload was based on; once that many lists have been opened, it is remembered no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.protocol.combination import Combination
from hre_torch.protocol.messages import Upload, Witness
from hre_torch.protocol.suite import Integers
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector
from hre_torch.protocol.wire import Envelope

__all__ = ["AT_ONCE", "Attempt", "PendingUpdates", "RefusedState", "RefusedUpdate"]

AT_ONCE = -1
"""In place of a version: an update that may be sealed again whatever is known."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """An upload that the DSP has refused.

    Attributes:
        sequence: its number.
        base_version: what it was based on.
        refusal: the DSP's signed word.
    """

    sequence: int
    base_version: int
    refusal: Witness

    @classmethod
    def of(cls, upload: Upload, refusal: Envelope[Any]) -> Attempt:
        """Return the attempt that an upload and its refusal are."""
        word = Witness(refusal.header_bytes, refusal.proof, refusal.signature)
        return cls(upload.sequence, upload.base_version, word)


class RefusedState(msgspec.Struct, frozen=True, array_like=True):
    """A `RefusedUpdate` whose values are octets, int32 little-endian."""

    after: int
    values: bytes
    attempts: tuple[Attempt, ...]


@dataclass(slots=True)
class RefusedUpdate:
    """An update that was refused and is to be sealed again.

    Attributes:
        after: version after which it may be; a newer one has to be known.
        values: as it was pushed.
        attempts: uploads of it so far, oldest first.
    """

    after: int
    values: Integers
    attempts: tuple[Attempt, ...] = field(repr=False)

    @property
    def voids(self) -> tuple[int, ...]:
        """Numbers under which it was sealed, rising."""
        return tuple(attempt.sequence for attempt in self.attempts)


class PendingUpdates(dict[int, Integers]):
    """Quantised updates as they were pushed, each of shape `(n_sealed,)`, by number.

    They wait in as few octets as their values fit: half of what int32 would take.

    Args:
        task: the task.
        encoded: what `encoded` returned in an earlier session.
        refused: what `encoded_refused` returned then.
        attempts: what `attempts` held then.

    Attributes:
        refused: updates that were refused and have no number now.
        attempts: earlier uploads of the same values, by the number that they have now.

    Raises:
        LayoutError: that is of another model.
    """

    def __init__(
        self,
        task: Task,
        encoded: Mapping[int, bytes] | None = None,
        refused: Sequence[RefusedState] = (),
        attempts: Mapping[int, tuple[Attempt, ...]] | None = None,
    ) -> None:
        super().__init__()
        self._task = task
        self._combination = Combination(task.config)
        self._lag = task.config.staleness_bound
        for number, data in (encoded or {}).items():
            self[number] = self._decoded(data)
        self.refused = [
            RefusedUpdate(each.after, self._decoded(each.values), each.attempts)
            for each in refused
        ]
        self.attempts = dict(attempts or {})

    @property
    def count(self) -> int:
        """How many there are, the refused ones included."""
        return len(self) + len(self.refused)

    def enter(
        self, number: int, values: Integers, attempts: tuple[Attempt, ...] = ()
    ) -> None:
        """Note that an update was sealed.

        Args:
            number: its sequence number.
            values: as it was pushed.
            attempts: earlier uploads of the same values.
        """
        self[number] = self.narrow(values)
        if attempts:
            self.attempts[number] = attempts

    def refuse(self, attempt: Attempt, after: int) -> None:
        """Note that an update was refused; it counts on, and is sealed again.

        Args:
            attempt: what was refused; its number stays used.
            after: version after which it may be sealed again, or `AT_ONCE`.
        """
        values = self.pop(attempt.sequence, None)
        earlier = self.attempts.pop(attempt.sequence, ())
        if values is not None:
            self.refused.append(RefusedUpdate(after, values, (*earlier, attempt)))

    def take_due(self, version: int) -> list[RefusedUpdate]:
        """Take out those that may be sealed again now that a version is known.

        One with more than S attempts, which is what an upload may void, waits until the
        oldest of these can be released no more.
        """
        self._forget_attempts(version)
        due: list[RefusedUpdate] = []
        wait: list[RefusedUpdate] = []
        for update in self.refused:
            ready = update.after < version and len(update.attempts) <= self._lag
            (due if ready else wait).append(update)
        self.refused = wait
        return due

    def consume(self, number: int) -> tuple[bool, Attempt | None]:
        """Drop the update that a list names by one of its numbers.

        Returns:
            Whether there was one; and the attempt, if the DSP had refused this number.
        """
        if self.pop(number, None) is not None:
            self.attempts.pop(number, None)
            return True, None
        for current, attempts in self.attempts.items():
            if found := _numbered(attempts, number):
                del self[current], self.attempts[current]
                return True, found
        for place, update in enumerate(self.refused):
            if found := _numbered(update.attempts, number):
                del self.refused[place]
                return True, found
        return False, None

    def expire(self, number: int) -> bool:
        """Drop the update that has this number now; False if there is none.

        An earlier number of it may well be named as expired: that one was not summed.
        """
        self.attempts.pop(number, None)
        return self.pop(number, None) is not None

    def clear(self) -> None:
        """Drop all of them."""
        super().clear()
        self.refused.clear()
        self.attempts.clear()

    def narrow(self, values: Integers) -> Integers:
        """Return an update in the type in which it waits.

        A read-only array of that type is returned as it is, anything else is copied.
        """
        dtype = self._task.fixed_point.dtype
        return values.astype(dtype, copy=values.flags.writeable)

    def add_to(self, weights: npt.NDArray[np.int64], piece: slice) -> None:
        """Add all of them, at the size at which their owner applies them.

        Args:
            weights: int64 at scale 2^f; changed.
            piece: which contiguous part of the vector that is.
        """
        for values in (*self.values(), *(each.values for each in self.refused)):
            weights += self._combination.own(values, piece)

    def encoded(self) -> dict[int, bytes]:
        """Return those with a number as octets, int32 little-endian."""
        return {number: _octets(values) for number, values in self.items()}

    def encoded_refused(self) -> list[RefusedState]:
        """Return the refused ones alike."""
        return [
            RefusedState(each.after, _octets(each.values), each.attempts)
            for each in self.refused
        ]

    def _forget_attempts(self, version: int) -> None:
        """Forget numbers that no list after a version can release any more."""

        def recent(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
            oldest = version - self._lag
            return tuple(each for each in attempts if each.base_version >= oldest)

        for update in self.refused:
            update.attempts = recent(update.attempts)
        self.attempts = {
            number: kept
            for number, attempts in self.attempts.items()
            if (kept := recent(attempts))
        }

    def _decoded(self, data: bytes) -> Integers:
        values = decode_vector(data, "<i4", self._task.config.n_sealed)
        return values.astype(self._task.fixed_point.dtype)


def _numbered(attempts: Sequence[Attempt], number: int) -> Attempt | None:
    return next((each for each in attempts if each.sequence == number), None)


def _octets(values: Integers) -> bytes:
    return values.astype("<i4").tobytes()
