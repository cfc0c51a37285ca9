"""Suite `gated`: safe when a server or a participant cheats.

The joint key is additive, `PK_j = g^(a_j + b_j)`; both servers prove knowledge of their
exponents before it exists. Every upload proves that it is well formed and that its
sender knows what is in it. The KTS gets the heads `T'` of every upload, multiplies
exactly those that a signed release lists, and never touches a value of the DSP's
choice; a release holds uploads of at least t >= 3 identities and is opened as a whole.
"""

from __future__ import annotations

from math import log2
from typing import Any, ClassVar, Final

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.crypto.fixed_base import (
    JOINT_WINDOW,
    RECIPIENT_WINDOW,
    recipient_bytes,
    table_bytes,
)
from hre_torch.crypto.modulus import Parameters
from hre_torch.crypto.proofs import proof_bytes
from hre_torch.errors import TaskError
from hre_torch.protocol.ciphers import (
    Body,
    DataServiceCipher,
    KeyTransformCipher,
    ParticipantCipher,
)
from hre_torch.protocol.roster import KeyCard, Role, Secret
from hre_torch.protocol.suite import Plan, Suite, Workload
from hre_torch.protocol.suites.blocks import BlockLayout
from hre_torch.protocol.suites.gated_roles import (
    GatedDataService,
    GatedKeyTransform,
    GatedParticipant,
    checked_heads,
)
from hre_torch.protocol.suites.key_proofs import (
    check_roster,
    proven_identity,
    sum_key,
)
from hre_torch.protocol.suites.keys import LaneTask
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["SUITE", "GatedSuite"]


_SPLIT_POWER: Final = 200
"""Multiplications per lane of a power of a split 256-bit exponent."""
_PROVING: Final = (1_400, 2_500)
"""Multiplications of a proof about one block, and about several; counted."""
_VERIFYING: Final = 4_800
"""Multiplications of its check, besides what the weights of several blocks cost."""


class GatedSuite(Suite):
    """Gated releases with proofs, for servers and participants that may cheat."""

    name = "gated"
    protects = (
        "against a cheating DSP with up to c colluding participants, against cheating "
        "participants and whoever listens, if the KTS does not collude with the DSP"
    )
    judged = True
    merges = False
    least_contributions = 3
    forwarded: ClassVar[tuple[int, ...]] = (0,)

    def plan(self, parameters: Parameters, workload: Workload) -> Plan:
        """Predict cost; multiplications are mod n^2."""
        layout = BlockLayout.of_workload(parameters, workload)
        heads, lanes = layout.part_sizes
        bits, plaintexts = parameters.exponent_bits, layout.plaintexts
        joint, small = -(-bits // JOINT_WINDOW), -(-bits // RECIPIENT_WINDOW)
        used = min(parameters.lanes, plaintexts)
        recipients = recipient_bytes(parameters, used, workload.participants)
        base = table_bytes(parameters, JOINT_WINDOW)
        split_power = _SPLIT_POWER * bits // 256
        # The first recipient of a release pays for the power that all of them need.
        transform = split_power // workload.participants + small
        return Plan(
            plaintexts=plaintexts,
            upload_bytes=heads + lanes,
            download_bytes=heads + lanes,
            server_bytes=heads + lanes,
            multiplications={
                "encrypt": (plaintexts + layout.blocks) * joint + plaintexts,
                "first_phase": plaintexts * transform,
                "second_phase": plaintexts * transform,
                "open": plaintexts * split_power,
            },
            unshared={
                "encrypt": _PROVING[layout.blocks > 1],
                "check": _VERIFYING + _weighing(layout.blocks, parameters),
                "add": plaintexts + layout.blocks,
            },
            table_bytes={
                "participant": base * (used + 1),
                "dsp": base + recipients,
                "kts": base + recipients,
            },
            recipient_bytes=recipient_bytes(parameters, used, 1),
        )

    def keygen(
        self,
        role: Role,
        name: str,
        parameters: Parameters,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> tuple[Secret, KeyCard]:
        """Make exponents and a card that proves knowledge of them."""
        return proven_identity(role, name, self.name, parameters, entropy)

    def joint_key(
        self, secret: Secret, own: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Return `PK_j = h_aj h_bj`."""
        return sum_key(own, other, parameters)

    def agreed_key(
        self, one: KeyCard, other: KeyCard, parameters: Parameters
    ) -> tuple[bytes, ...]:
        """Return `PK_j = h_aj h_bj`, which anybody can compute."""
        return sum_key(one, other, parameters)

    def check(self, task: Task) -> None:
        """Check t, c, every key card and the joint key.

        Raises:
            TaskError: one of them is wrong.
        """
        super().check(task)
        t, c = task.config.min_contributions, task.config.assumed_colluders
        if not 0 <= c <= t - 2:
            raise TaskError(
                f"assumed_colluders (c) is {c} and min_contributions (t) is {t}: t "
                "must be at least c + 2, so that two honest updates hide each other"
            )
        check_roster(task.roster, task.parameters)

    def check_forwarded(self, task: Task, body: Body) -> None:
        """Verify the proof of an upload for its heads."""
        checked_heads(body, LaneTask(task).layout)

    def proof_size(self, task: Task) -> int:
        """Size of the batched proof of all blocks."""
        return proof_bytes(LaneTask(task).layout.plaintexts, task.parameters)

    def upload_sizes(self, task: Task) -> tuple[int, ...]:
        """Heads, then lanes."""
        return LaneTask(task).layout.part_sizes

    def participant(
        self, task: Task, secret: Secret, workers: Workers
    ) -> ParticipantCipher:
        """Return the participant's half."""
        return GatedParticipant(LaneTask(task), secret, workers)

    def data_service(
        self, task: Task, secret: Secret, workers: Workers
    ) -> DataServiceCipher[Any]:
        """Return the DSP's half."""
        return GatedDataService(LaneTask(task), secret, workers)

    def key_transform(
        self, task: Task, secret: Secret, workers: Workers
    ) -> KeyTransformCipher[Any]:
        """Return the KTS's half."""
        return GatedKeyTransform(LaneTask(task), secret, workers)


def _weighing(blocks: int, parameters: Parameters) -> int:
    """Return the multiplications that give every block its random weight.

    Heads and lanes are `lanes + 1` products of powers with 128-bit exponents. By Bos
    and Coster one takes about 1.15 * 128 b / log2(b + 1) for b blocks: counted 204 for
    2 and 1,470 for 55. One block needs no weight.
    """
    if blocks == 1:
        return 0
    return round((parameters.lanes + 1) * 1.15 * 128 * blocks / log2(blocks + 1))


SUITE: Final = GatedSuite()
