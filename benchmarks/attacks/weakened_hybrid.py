"""Suite `hybrid` with one defence taken out; `weakened` gives the variants their names.

Every class here is a mistake that somebody could make who implements the suite anew.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.weakened_gated import (
    DataServiceWithoutProofsWeakened,
    KeyTransformWithoutProofsWeakened,
)
from benchmarks.attacks.words import encode_words, ring_of
from hre_torch.crypto.entropy import Entropy
from hre_torch.crypto.rlwe.masking import mask
from hre_torch.crypto.rlwe.sampling import PublicExpansion
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts, SealedBody
from hre_torch.protocol.suites.hybrid import (
    HybridDataService,
    HybridParticipant,
    HybridSum,
    key_layer,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "DataServiceWithoutCommitmentWeakened",
    "EntropyWithoutFreshnessWeakened",
    "ExpansionWithOneElementWeakened",
    "HybridDataServiceWithoutProofsWeakened",
    "HybridKeyTransformWithoutProofsWeakened",
    "ParticipantWithOneElementWeakened",
    "ParticipantWithOneSecretWeakened",
    "ParticipantWithSharedSecretWeakened",
    "ParticipantWithoutCommitmentWeakened",
]


class HybridDataServiceWithoutProofsWeakened(HybridDataService):
    """The DSP of suite `hybrid`, taking every key layer on trust."""

    def __init__(self, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        self._keys = DataServiceWithoutProofsWeakened(
            key_layer(task), secret, Workers()
        )


class HybridKeyTransformWithoutProofsWeakened(KeyTransformWithoutProofsWeakened):
    """The KTS of suite `hybrid`, taking every key layer on trust."""

    def __init__(self, task: Task, secret: Secret) -> None:
        super().__init__(key_layer(task), secret, Workers())


class DataServiceWithoutCommitmentWeakened(HybridDataService):
    """The DSP of suite `hybrid`, where releases commit to no sum."""

    def __init__(self, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())

    def commitment(self, total: HybridSum) -> bytes:
        """Return nothing for the KTS to sign."""
        return b""


class ParticipantWithoutCommitmentWeakened(HybridParticipant):
    """A participant of suite `hybrid` that takes any sum for the one released."""

    def __init__(self, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())

    def commitment(self, parts: Parts) -> bytes:
        """Return nothing to compare with the release."""
        return b""


class EntropyWithoutFreshnessWeakened(Entropy):
    """Octets that are the same whenever they are asked for.

    Args:
        seed: what they depend on.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    def octets(self, count: int) -> bytes:
        """Return the first octets of a stream, never any later ones."""
        return hashlib.shake_256(self._seed).digest(count)


class ParticipantWithOneSecretWeakened(HybridParticipant):
    """A participant of suite `hybrid` that masks all its updates with one (s, e)."""

    def __init__(self, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        self._task = task
        self._entropy = EntropyWithoutFreshnessWeakened(self.seed(task, secret))

    def seed(self, task: Task, secret: Secret) -> bytes:
        """Return what the masks depend on: the participant."""
        return task.cfg + secret.signing.public

    def encrypt(self, values: npt.NDArray[np.int32]) -> SealedBody:
        """Do as the honest participant does, with the same randomness every time."""
        masked = mask(
            values, ring_of(self._task), self._expansion, entropy=self._entropy
        )
        keys = self._keys.encrypt(masked.secret.astype(np.int32))
        return SealedBody((*keys.parts, encode_words(masked.words)), keys.prove)


class ParticipantWithSharedSecretWeakened(ParticipantWithOneSecretWeakened):
    """One of several participants that were forked with their generator's state."""

    def seed(self, task: Task, secret: Secret) -> bytes:
        """Return what the masks depend on: nothing of the participant's own."""
        return task.cfg


class ExpansionWithOneElementWeakened(PublicExpansion):
    """Public elements that are all the same."""

    def elements(self, first: int, count: int) -> npt.NDArray[np.int32]:
        """Return `a_0`, as often as asked for."""
        return np.repeat(super().elements(0, 1), count, axis=0)


class ParticipantWithOneElementWeakened(HybridParticipant):
    """A participant of suite `hybrid` that masks every block with `a_0 s`."""

    def __init__(self, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        self._expansion = ExpansionWithOneElementWeakened(task.cfg)
