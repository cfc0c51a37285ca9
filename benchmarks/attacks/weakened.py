"""Suites with one defence taken out, so that an attack shows what the defence is for.

Nothing here is registered as a suite: a recipe, a task or a federation cannot name any
of it. A `Variant` only tells a `Scene` which parts to put into the real roles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from gmpy2 import mpz

from benchmarks.attacks import weakened_gated as gated
from benchmarks.attacks import weakened_hybrid as hybrid
from hre_torch.crypto.dcr.encryption import Exponents
from hre_torch.crypto.keys.signatures import SIGNATURE_BYTES
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.entries import CommonModels, Entry
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import (
    DataServiceCipher,
    Integers,
    KeyTransformCipher,
    ParticipantCipher,
)
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import LaneTask
from hre_torch.protocol.task import Task, TaskConfig
from hre_torch.protocol.wire import (
    DIGEST_BYTES,
    LENGTHS_BYTES,
    Envelope,
    Header,
    decode_head,
    lengths_of,
)
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer

__all__ = [
    "WEAKENED",
    "AnyExponentsWeakened",
    "DataServiceWeakened",
    "KeyTransformWeakened",
    "ParticipantWeakened",
    "Variant",
    "decode_without_hashes_weakened",
    "variant_of",
]

H = TypeVar("H", bound=Header)


class _AnyModelsWeakened(CommonModels):
    """A rule of common models that lets everything pass."""

    def check(self, uploads: Sequence[Entry]) -> None:
        """Let everything pass."""

    def contradicted(self, entry: Entry) -> None:
        """Find nothing."""


class LedgerWithoutModelRuleWeakened(Ledger):
    """A ledger that releases updates of different models in one sum."""

    def __init__(self, config: TaskConfig, names: Sequence[str]) -> None:
        super().__init__(config, names)
        self._models = _AnyModelsWeakened(config)


class _OneWordSettlesWeakened(CommonModels):
    """Common models of which the first word is believed, whoever says it."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._needed = 1


class LedgerThatBelievesOneWeakened(Ledger):
    """A ledger to which one identity is enough to settle a model."""

    def __init__(self, config: TaskConfig, names: Sequence[str]) -> None:
        super().__init__(config, names)
        self._models = _OneWordSettlesWeakened(config)


class LedgerWithoutVoidsWeakened(Ledger):
    """A ledger that takes no notice of what an upload voids."""

    def _check_voids(self, entry: Entry) -> None:
        """Let everything pass."""

    def _voided(self, entry: Entry) -> list[Entry]:
        """Find nothing."""
        return []


class AnyExponentsWeakened(Exponents):
    """Secret exponents that may be odd."""

    def __init__(self, values: Sequence[mpz]) -> None:
        self._values = tuple(values)


class DataServiceWeakened(DataServiceProvider):
    """A DSP whose cipher and ledger are those of a weakened variant."""

    def __init__(self, variant: Variant, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        self._cipher = variant.data_service_cipher(task, secret)
        ledger = variant.ledger(task.config, task.roster.names)
        self._ledger = self._horizon._ledger = ledger


class KeyTransformWeakened(KeyTransformServer):
    """A KTS whose cipher and ledger are those of a weakened variant."""

    def __init__(self, variant: Variant, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        if variant.key_transform is not None:
            self._cipher = variant.key_transform(task, secret)
        ledger = variant.ledger(task.config, task.roster.names)
        self._ledger = self._horizon._ledger = ledger


class ParticipantWeakened(LearningParticipant):
    """A participant of a weakened variant."""

    def __init__(self, variant: Variant, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        self._histories, self._voids = variant.histories, variant.voids
        self._judged = self._judged and variant.verdicts
        if variant.participant is not None:
            self._cipher = variant.participant(task, secret)

    def seal(
        self,
        values: Integers,
        base_version: int,
        digests: bytes,
        voids: tuple[int, ...] = (),
    ) -> Envelope[Upload]:
        """Return an upload that may name the newest model only, and void nothing."""
        named = digests if self._histories else digests[-DIGEST_BYTES:]
        return super().seal(values, base_version, named, voids if self._voids else ())


def decode_without_hashes_weakened(
    data: bytes, kind: type[H], *, cfg: bytes
) -> Envelope[H]:
    """Parse one envelope, its parts compared with no hash in its header.

    Raises:
        MessageError, WrongTaskError: as the honest decoder has it for the rest.
    """
    end = LENGTHS_BYTES + sum(lengths_of(data)) + SIGNATURE_BYTES
    head = decode_head(data[:end], kind, cfg=cfg)
    parts = []
    for part in head.header.parts:
        parts.append(data[end : end + part.size])
        end += part.size
    return replace(head, parts=tuple(parts))


@dataclass(frozen=True, slots=True)
class Variant:
    """A suite, with the parts that replace its own.

    Attributes:
        suite: the suite that it is, or was.
        data_service: makes the DSP's cipher.
        key_transform: makes the KTS's cipher.
        participant: makes the participants' cipher.
        ledger: the class of both servers' ledgers.
        hashes: whether parts of a message are compared with the header's hashes.
        histories: whether uploads name all models that their senders have opened.
        verdicts: whether nobody gives a release up alone.
        voids: whether an upload names earlier ones of the same values.
    """

    suite: str
    data_service: Callable[[Task, Secret], DataServiceCipher[Any]] | None = None
    key_transform: Callable[[Task, Secret], KeyTransformCipher[Any]] | None = None
    participant: Callable[[Task, Secret], ParticipantCipher] | None = None
    ledger: type[Ledger] = Ledger
    hashes: bool = True
    histories: bool = True
    verdicts: bool = True
    voids: bool = True

    @property
    def genuine(self) -> bool:
        """Whether nothing is replaced."""
        return self == Variant(self.suite)

    def data_service_cipher(self, task: Task, secret: Secret) -> DataServiceCipher[Any]:
        """Return the arithmetic of a DSP."""
        if self.data_service is not None:
            return self.data_service(task, secret)
        return SUITES.get(self.suite).data_service(task, secret, Workers())


WEAKENED: Final[Mapping[str, Variant]] = {
    "paper without sigma": Variant(
        "paper", key_transform=gated.KeyTransformWithoutSigmaWeakened
    ),
    "paper without tau": Variant(
        "paper", data_service=gated.DataServiceWithoutTauWeakened
    ),
    "gated without proofs": Variant(
        "gated",
        data_service=lambda task, secret: gated.DataServiceWithoutProofsWeakened(
            LaneTask(task), secret, Workers()
        ),
        key_transform=lambda task, secret: gated.KeyTransformWithoutProofsWeakened(
            LaneTask(task), secret, Workers()
        ),
    ),
    "gated without sign rule": Variant(
        "gated",
        participant=lambda task, secret: gated.ParticipantWithoutSignRuleWeakened(
            LaneTask(task), secret, Workers()
        ),
    ),
    "gated without model rule": Variant("gated", ledger=LedgerWithoutModelRuleWeakened),
    "gated without histories": Variant("gated", histories=False),
    "gated without settling rule": Variant(
        "gated", ledger=LedgerThatBelievesOneWeakened
    ),
    "hybrid without histories and verdicts": Variant(
        "hybrid", histories=False, verdicts=False
    ),
    "gated without voids": Variant("gated", voids=False),
    "gated with voids ignored": Variant("gated", ledger=LedgerWithoutVoidsWeakened),
    "hybrid without proofs": Variant(
        "hybrid",
        data_service=hybrid.HybridDataServiceWithoutProofsWeakened,
        key_transform=hybrid.HybridKeyTransformWithoutProofsWeakened,
    ),
    "hybrid without commitment": Variant(
        "hybrid",
        data_service=hybrid.DataServiceWithoutCommitmentWeakened,
        participant=hybrid.ParticipantWithoutCommitmentWeakened,
    ),
    "hybrid without hashes": Variant("hybrid", hashes=False),
    "hybrid with one secret": Variant(
        "hybrid", participant=hybrid.ParticipantWithOneSecretWeakened
    ),
    "hybrid with a shared secret": Variant(
        "hybrid", participant=hybrid.ParticipantWithSharedSecretWeakened
    ),
    "hybrid with one element": Variant(
        "hybrid", participant=hybrid.ParticipantWithOneElementWeakened
    ),
}
"""Variants that replace a part of a role; their names say what is missing."""


def variant_of(label: str) -> Variant:
    """Return a weakened variant, or the genuine suite of that name.

    Raises:
        UnknownPluginError: there is neither.
    """
    if label in WEAKENED:
        return WEAKENED[label]
    SUITES.get(label)
    return Variant(label)
