"""Suites with one defence taken out, so that an attack shows what the defence is for.

Nothing here is registered as a suite: a recipe, a task or a federation cannot name any
of it. A `Variant` only tells a `Scene` which parts to put into the real roles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from hre_torch.attacks.algebra import divide, power, unmask
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.crypto.lane_keys import Exponents, of_lanes
from hre_torch.errors import DecryptionError
from hre_torch.protocol.ciphers import (
    Body,
    DataServiceCipher,
    KeyTransformCipher,
    ParticipantCipher,
    Parts,
)
from hre_torch.protocol.data_service import DataServiceProvider
from hre_torch.protocol.key_transform import KeyTransformServer
from hre_torch.protocol.ledger import Entry, Ledger
from hre_torch.protocol.participant import LearningParticipant
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.gated import (
    GatedDataService,
    GatedKeyTransform,
    GatedParticipant,
    GatedSum,
    HeadProduct,
)
from hre_torch.protocol.suites.keys import LaneTask, decode_exponents
from hre_torch.protocol.suites.paper import PaperSum
from hre_torch.protocol.suites.plain import LedgerOnly
from hre_torch.protocol.task import Secret, Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "WEAKENED",
    "AnyExponentsWeakened",
    "DataServiceWeakened",
    "KeyTransformWeakened",
    "ParticipantWeakened",
    "Variant",
    "variant_of",
]


class KeyTransformWithoutSigmaWeakened(LedgerOnly):
    """The KTS of suite `paper`, answering `X_j / Y_j^b_j` and `Z` as they are."""

    def __init__(self, task: Task, secret: Secret) -> None:
        self._lanes = LaneTask(task)
        self._exponents = decode_exponents(secret.material, task.parameters)

    def transform(self, total: None, request: Parts, recipient: str) -> Parts:
        """Return the second phase without `pk_j^sigma` and `g^sigma`."""
        layout, parameters = self._lanes.layout, self._lanes.parameters
        heads, masked = layout.decode(request[:2], what="a transform request")
        powers = layout.decode_lanes(request[2], what="a transform request")
        opened = [
            [
                divide(x, power(y, b, parameters), parameters)
                for x, y, b in zip(
                    xs,
                    ys,
                    of_lanes(self._exponents.reveal(), len(xs), parameters),
                    strict=True,
                )
            ]
            for xs, ys in zip(masked, layout.split(powers), strict=True)
        ]
        return layout.encode(heads, opened)


class DataServiceWithoutTauWeakened(DataServiceCipher[PaperSum]):
    """The DSP of suite `paper`, sending `T_j pk_j^rho` and `T'^a_j` as they are."""

    def __init__(self, task: Task, secret: Secret) -> None:
        self._lanes = LaneTask(task)
        self._honest = SUITES.get("paper").data_service(task, secret, Workers())

    def load(self, body: Body) -> PaperSum:
        """Do as the honest DSP does."""
        return self.restore(body.parts)

    def add(self, totals: Sequence[PaperSum]) -> PaperSum:
        """Do as the honest DSP does."""
        total: PaperSum = self._honest.add(totals)
        return total

    def merge(self, releases: Sequence[PaperSum]) -> PaperSum:
        """Do as the honest DSP does."""
        total: PaperSum = self._honest.merge(releases)
        return total

    def begin(self, total: PaperSum, recipient: str) -> tuple[Parts, None]:
        """Return the first phase without `PK_j^tau` and `A_j^tau`."""
        layout, parameters = self._lanes.layout, self._lanes.parameters
        keys = self._lanes.recipient(recipient)
        heads, masked = [], []
        for block in total.blocks:
            rho = SYSTEM_ENTROPY.exponent(parameters.exponent_bits)
            heads.append(power(parameters.g, rho, parameters))
            masked.append(
                [
                    lane * power(key, rho, parameters) % parameters.n_squared
                    for lane, key in zip(block.lanes, keys, strict=False)
                ]
            )
        _, powers = layout.encode([], total.head_powers)
        return (*layout.encode(heads, masked), powers), None

    def finish(self, kept: Any, reply: Parts) -> Parts:
        """Do as the honest DSP does."""
        return self._honest.finish(kept, reply)

    def dump(self, total: PaperSum) -> Parts:
        """Do as the honest DSP does."""
        return self._honest.dump(total)

    def restore(self, parts: Parts) -> PaperSum:
        """Do as the honest DSP does."""
        total: PaperSum = self._honest.restore(parts)
        return total


class DataServiceWithoutProofsWeakened(GatedDataService):
    """The DSP of suite `gated`, taking every upload on trust."""

    def load(self, body: Body) -> GatedSum:
        """Return the blocks of an upload, its proof unread."""
        return self.restore(body.parts)


class KeyTransformWithoutProofsWeakened(GatedKeyTransform):
    """The KTS of suite `gated`, taking every upload on trust."""

    def load(self, body: Body) -> HeadProduct:
        """Return the heads of an upload, its proof unread."""
        return self.restore(body.parts)


class ParticipantWithoutSignRuleWeakened(GatedParticipant):
    """A participant of suite `gated` that opens `1 + m n` and never its negative."""

    def decrypt(self, parts: Parts, count: int) -> npt.NDArray[np.int64]:
        """Return the sum, unless some `u_j` is `-1` modulo `n`.

        Raises:
            DecryptionError: a sign is wrong.
        """
        elements = unmask(parts, self._lanes, self._exponents.reveal())
        if any(element % self._lanes.parameters.n != 1 for element in elements):
            raise DecryptionError("a downloaded block does not open under this key")
        return super().decrypt(parts, count)


class LedgerWithoutModelRuleWeakened(Ledger):
    """A ledger that releases updates of different models in one sum."""

    def _check_models(self, uploads: Sequence[Entry]) -> None:
        """Let everything pass."""


class AnyExponentsWeakened(Exponents):
    """Secret exponents that may be odd."""

    def __init__(self, values: Sequence[mpz]) -> None:
        self._values = tuple(values)


class DataServiceWeakened(DataServiceProvider):
    """A DSP whose cipher and ledger are those of a weakened variant."""

    def __init__(self, variant: Variant, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        if variant.data_service is not None:
            self._cipher = variant.data_service(task, secret)
        self._ledger = variant.ledger(task.config, task.roster.names)


class KeyTransformWeakened(KeyTransformServer):
    """A KTS whose cipher and ledger are those of a weakened variant."""

    def __init__(self, variant: Variant, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        if variant.key_transform is not None:
            self._cipher = variant.key_transform(task, secret)
        self._ledger = variant.ledger(task.config, task.roster.names)


class ParticipantWeakened(LearningParticipant):
    """A participant whose cipher is that of a weakened variant."""

    def __init__(self, variant: Variant, task: Task, secret: Secret) -> None:
        super().__init__(task, secret, Workers())
        if variant.participant is not None:
            self._cipher = variant.participant(task, secret)


@dataclass(frozen=True, slots=True)
class Variant:
    """A suite, with the parts that replace its own.

    Attributes:
        suite: the suite that it is, or was.
        data_service: makes the DSP's cipher.
        key_transform: makes the KTS's cipher.
        participant: makes the participants' cipher.
        ledger: the class of both servers' ledgers.
    """

    suite: str
    data_service: Callable[[Task, Secret], DataServiceCipher[Any]] | None = None
    key_transform: Callable[[Task, Secret], KeyTransformCipher[Any]] | None = None
    participant: Callable[[Task, Secret], ParticipantCipher] | None = None
    ledger: type[Ledger] = Ledger

    @property
    def genuine(self) -> bool:
        """Whether nothing is replaced."""
        return self == Variant(self.suite)


WEAKENED: Final[Mapping[str, Variant]] = {
    "paper without sigma": Variant(
        "paper", key_transform=KeyTransformWithoutSigmaWeakened
    ),
    "paper without tau": Variant("paper", data_service=DataServiceWithoutTauWeakened),
    "gated without proofs": Variant(
        "gated",
        data_service=lambda task, secret: DataServiceWithoutProofsWeakened(
            LaneTask(task), secret, Workers()
        ),
        key_transform=lambda task, secret: KeyTransformWithoutProofsWeakened(
            LaneTask(task), secret, Workers()
        ),
    ),
    "gated without sign rule": Variant(
        "gated",
        participant=lambda task, secret: ParticipantWithoutSignRuleWeakened(
            LaneTask(task), secret, Workers()
        ),
    ),
    "gated without model rule": Variant("gated", ledger=LedgerWithoutModelRuleWeakened),
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
