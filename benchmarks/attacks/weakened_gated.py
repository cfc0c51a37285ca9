"""Suites `paper` and `gated` with one defence taken out; `weakened` names the variants.

Nothing here is registered as a suite: a recipe, a task or a federation cannot name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.algebra import divide, power, unmask
from hre_torch.crypto.dcr.encryption import of_lanes
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.errors import DecryptionError
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Body, DataServiceCipher, Parts
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import LaneTask, decode_exponents
from hre_torch.protocol.suites.gated_roles import (
    GatedDataService,
    GatedKeyTransform,
    GatedParticipant,
    GatedSum,
    HeadProduct,
)
from hre_torch.protocol.suites.paper import PaperSum
from hre_torch.protocol.suites.plain import LedgerOnly
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "DataServiceWithoutProofsWeakened",
    "DataServiceWithoutTauWeakened",
    "KeyTransformWithoutProofsWeakened",
    "KeyTransformWithoutSigmaWeakened",
    "ParticipantWithoutSignRuleWeakened",
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
