"""Suite `plain`: no protection at all, the baseline that every other suite must equal.

Updates travel as plain integers; DSP and KTS keep their ledgers as in every suite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import ChecksumError, MessageError
from hre_torch.protocol.roster import KeyCard, Role, Secret
from hre_torch.protocol.suite import (
    Body,
    DataServiceCipher,
    KeyTransformCipher,
    ParticipantCipher,
    Parts,
    Plan,
    SealedBody,
    Suite,
    Workload,
    new_identity,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["SUITE", "LedgerOnly", "PlainSuite"]

_SERVICE_WORDS: Final = 2
"""Count and checksum, in front of the values, both int64."""


class LedgerOnly(KeyTransformCipher[None]):
    """The KTS of a suite that forwards nothing of an upload to it."""

    def load(self, body: Body) -> None:
        """Nothing is forwarded."""

    def add(self, totals: Sequence[None]) -> None:
        """Nothing is summed."""

    def dump(self, total: None) -> Parts:
        """Nothing is kept."""
        return ()

    def restore(self, parts: Parts) -> None:
        """Nothing was kept."""

    def transform(self, total: None, request: Parts, recipient: str) -> Parts:
        """Return an empty body; anything in the request is a mistake."""
        if request:
            raise MessageError(
                "this suite's transform request has no body, this one has "
                f"{len(request)} parts"
            )
        return ()


class _Participant(ParticipantCipher):
    def __init__(self, task: Task) -> None:
        self._n_values = task.config.n_sealed

    def encrypt(self, values: npt.NDArray[np.int32]) -> SealedBody:
        words = _with_service_words(values.astype(np.int64), 1)
        return SealedBody((words.tobytes(),))

    def decrypt(self, parts: Parts, count: int) -> npt.NDArray[np.int64]:
        words = _words(parts, self._n_values)
        seen, checksum, values = int(words[0]), int(words[1]), words[2:]
        if (seen, checksum) != (count, int(values.sum())):
            raise ChecksumError(
                f"the count word is {seen} and the lists say {count}, or the checksum "
                "does not match the values"
            )
        return values


class _DataService(DataServiceCipher[npt.NDArray[np.int64]]):
    def __init__(self, task: Task) -> None:
        self._n_values = task.config.n_sealed

    def load(self, body: Body) -> npt.NDArray[np.int64]:
        return self.restore(body.parts)

    def add(self, totals: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        total = totals[0].copy()
        for other in totals[1:]:
            total += other
        return total

    def begin(
        self, total: npt.NDArray[np.int64], recipient: str
    ) -> tuple[Parts, npt.NDArray[np.int64]]:
        return (), total

    def finish(self, kept: npt.NDArray[np.int64], reply: Parts) -> Parts:
        return self.dump(kept)

    def restore(self, parts: Parts) -> npt.NDArray[np.int64]:
        return _words(parts, self._n_values)

    def dump(self, total: npt.NDArray[np.int64]) -> Parts:
        return (total.astype("<i8").tobytes(),)


class PlainSuite(Suite):
    """No protection: whoever sees an upload reads it."""

    name = "plain"
    baseline = True
    protects = "nothing: every server and everybody on the wire reads every update"

    def default_contributions(self, participants: int) -> int:
        """Return that of the suites that need one, for the same training; P if fewer.

        An average over one of four would move the model four times as far as theirs.
        """
        return min(participants, max(3, math.ceil(participants / 2)))

    def plan(self, parameters: Parameters, workload: Workload) -> Plan:
        """Predict 8 bytes per value each way."""
        size = 8 * (workload.n_values + _SERVICE_WORDS)
        return Plan(
            plaintexts=0, upload_bytes=size, download_bytes=size, server_bytes=0
        )

    def keygen(
        self,
        role: Role,
        name: str,
        parameters: Parameters,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[Secret, KeyCard]:
        """Make a signing key; there is nothing else to keep secret."""
        return new_identity(role, name, self.name, (), b"", entropy)

    def joint_key(
        self, secret: Secret, own: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Return the empty joint key."""
        return ()

    def agreed_key(
        self, one: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Return the empty joint key."""
        return ()

    def upload_sizes(self, task: Task) -> tuple[int, ...]:
        """One part: the words of the update."""
        return (8 * (task.config.n_sealed + _SERVICE_WORDS),)

    def participant(
        self, task: Task, secret: Secret, workers: Workers
    ) -> ParticipantCipher:
        """Return the participant's half."""
        return _Participant(task)

    def data_service(
        self, task: Task, secret: Secret, workers: Workers
    ) -> DataServiceCipher[npt.NDArray[np.int64]]:
        """Return the DSP's half."""
        return _DataService(task)

    def key_transform(
        self, task: Task, secret: Secret, workers: Workers
    ) -> KeyTransformCipher[None]:
        """Return a KTS that only counts."""
        return LedgerOnly()


def _with_service_words(
    values: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    words = np.empty(values.size + _SERVICE_WORDS, dtype="<i8")
    words[0], words[1], words[2:] = count, values.sum(), values
    return words


def _words(parts: Parts, n_values: int) -> npt.NDArray[np.int64]:
    expected = 8 * (n_values + _SERVICE_WORDS)
    if [len(part) for part in parts] != [expected]:
        raise MessageError(
            f"expected one part of {expected} octets, got "
            f"{[len(part) for part in parts]}"
        )
    return np.frombuffer(parts[0], dtype="<i8").astype(np.int64)


SUITE: Final = PlainSuite()
