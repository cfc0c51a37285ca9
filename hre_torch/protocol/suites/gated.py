"""Suite `gated`: safe when a server or a participant cheats.

The joint key is additive, `PK_j = g^(a_j + b_j)`; both servers prove knowledge of their
exponents before it exists. Every upload proves that it is well formed and that its
sender knows what is in it. The KTS gets the heads `T'` of every upload, multiplies
exactly those that a signed release lists, and never touches a value of the DSP's
choice; a release holds uploads of at least t >= 3 identities and is opened as a whole.

**Key cards** prove what they hold. A server that published `h_a = g^x / h_b` after
seeing the other's `h_b` would own the joint key `g^x` alone. So every card carries a
proof of knowledge of its exponents, and nobody accepts a roster before all its proofs
have been verified.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2
from typing import Any, ClassVar, Final

import msgspec

from hre_torch.crypto.dcr.encryption import Exponents, check_public_keys
from hre_torch.crypto.dcr.fixed_base import (
    JOINT_WINDOW,
    RECIPIENT_WINDOW,
    recipient_bytes,
    table_bytes,
)
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.proofs import proof_bytes
from hre_torch.crypto.dcr.schnorr import prove_knowledge, verify_knowledge
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import CryptoError, TaskError
from hre_torch.protocol.roster import KeyCard, Role, Roster, Secret
from hre_torch.protocol.suite import (
    Body,
    DataServiceCipher,
    KeyTransformCipher,
    ParticipantCipher,
    Plan,
    Suite,
    Workload,
    new_identity,
)
from hre_torch.protocol.suites.blocks import (
    BlockLayout,
    LaneTask,
    decode_keys,
    encode_exponents,
    encode_keys,
)
from hre_torch.protocol.suites.gated_roles import (
    GatedDataService,
    GatedKeyTransform,
    GatedParticipant,
    checked_heads,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "SUITE",
    "GatedSuite",
    "card_context",
    "check_roster",
    "proven_identity",
    "sum_key",
]

_LABEL: Final = "hre_torch key card 2"


def proven_identity(
    role: Role, name: str, suite: str, parameters: Parameters, entropy: Entropy
) -> tuple[Secret, KeyCard]:
    """Return fresh exponents, one per lane, and a card that proves they are known."""
    exponents = Exponents.generate(parameters, entropy=entropy)
    public = exponents.public(parameters)
    secret, card = new_identity(
        role,
        name,
        suite,
        encode_keys(public, parameters),
        encode_exponents(exponents, parameters),
        entropy,
    )
    proof = prove_knowledge(
        exponents.reveal(), public, parameters, card_context(card, parameters)
    )
    return secret, msgspec.structs.replace(card, proof=proof)


def sum_key(one: KeyCard, other: KeyCard, parameters: Parameters) -> tuple[bytes, ...]:
    """Return `PK_j = h_aj h_bj mod n^2`, which anybody can compute from two cards.

    Raises:
        InvalidElementError: a card does not hold one fresh key per lane.
    """
    mine = decode_keys(one.public, parameters, whose=one.name)
    theirs = decode_keys(other.public, parameters, whose=other.name)
    joint = [a * b % parameters.n_squared for a, b in zip(mine, theirs, strict=True)]
    check_public_keys(joint, parameters, whose="the pair of servers")
    return encode_keys(joint, parameters)


@lru_cache(maxsize=64)
def check_roster(roster: Roster, parameters: Parameters) -> None:
    """Verify every card's proof and recompute the joint key; once per process.

    Raises:
        TaskError: a proof does not verify, or the joint key is not the product.
    """
    for card in roster.cards():
        try:
            public = decode_keys(card.public, parameters, whose=card.name)
            check_public_keys(public, parameters, whose=card.name)
            context = card_context(card, parameters)
            verify_knowledge(public, card.proof, parameters, context)
        except CryptoError as error:
            raise TaskError(
                f"the key card of {card.name!r} does not prove knowledge of its keys "
                f"({error}); ask its owner for the card that keygen made"
            ) from error
    product = sum_key(roster.data_service, roster.key_transform, parameters)
    if roster.joint_key != product:
        raise TaskError(
            "the roster's joint key is not the product of the two servers' keys: "
            "somebody exchanged it; compute it again from the cards"
        )


def card_context(card: KeyCard, parameters: Parameters) -> bytes:
    """Return what a card's proof is bound to besides the group and the keys."""
    return msgspec.msgpack.encode(
        (_LABEL, parameters.name, card.suite, card.role, card.name, card.signing_key)
    )


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
