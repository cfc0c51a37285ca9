"""A10: the DSP waits for the KTS's key and publishes one that cancels it.

The joint key of `gated` and `hybrid` is the product `PK_j = h_aj h_bj`. Having seen
`h_bj`, the DSP publishes `h_aj = g^x_j / h_bj`, and `PK_j = g^x_j` is its own. It does
not know the discrete logarithm of such an `h_aj`, which is what every key card must
prove.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.attacks.algebra import divide, lanes_of, look, unmask
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, make_task, seeded
from hre_torch.crypto.dcr.encryption import Exponents
from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.roster import KeyCard
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import decode_keys, encode_keys
from hre_torch.protocol.suites.gated import sum_key
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.workers import Workers

__all__ = ["ATTACK", "View", "rogue_key"]

Values = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class View:
    """What the DSP knows, and what it can get others to do.

    Attributes:
        parameters: public.
        card: its own honest key card, which it does not publish.
        other: the KTS's key card, which it has waited for.
        train: has alice join under a card of the DSP's and upload; returns the task
            and the body of her upload.
    """

    parameters: Parameters
    card: KeyCard
    other: KeyCard
    train: Callable[[KeyCard], tuple[Task, Parts]]


def rogue_key(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return alice's update; None if she refuses the card."""
    parameters = view.parameters
    x = Exponents.generate(parameters)
    theirs = decode_keys(view.other.public, parameters, whose="the KTS")
    rogue = [
        divide(own, key, parameters)
        for own, key in zip(x.public(parameters), theirs, strict=True)
    ]
    # No proof can be made for these keys; the best at hand is one for others.
    card = msgspec.structs.replace(view.card, public=encode_keys(rogue, parameters))
    with refusals:
        task, upload = view.train(card)
        lanes = lanes_of(task)
        return look(unmask(upload, lanes, x.reveal()), lanes, 1, upload)
    return None


def _run(target: Target, seed: int, profile: str) -> Outcome:
    name, *trusts = target.suite.split()
    parameters, suite = load_profile(profile), SUITES.get(name)
    operator = SigningKey.generate()
    secrets, honest = suite.setup(CAST, parameters, operator=operator.public)
    values = seeded(seed).integers(-32767, 32768, 100).astype(np.int32)

    def train(card: KeyCard) -> tuple[Task, Parts]:
        joint = sum_key(card, honest.key_transform, parameters)
        roster = msgspec.structs.replace(honest, data_service=card, joint_key=joint)
        initial = np.zeros(values.size, dtype=np.int64)
        task = make_task(name, roster, parameters, operator, 3, initial)
        if not trusts:
            alice = LearningParticipant(task, secrets["alice"], Workers())
            return task, alice.seal(values, 0, state_digest(initial)).parts
        # Whoever takes key cards on trust goes straight to encryption.
        trusting = suite.participant(task, secrets["alice"], Workers())
        return task, trusting.encrypt(values).parts

    refusals = Refusals()
    view = View(parameters, honest.data_service, honest.key_transform, train)
    return Outcome.of(rogue_key(view, refusals), values, refusals)


ATTACK: Final = Attack(
    name="A10",
    title="a key that cancels the other server's",
    who="DSP alone",
    run=_run,
    targets=(
        Target(
            "gated without key proofs",
            expected=True,
            because="the joint key becomes the DSP's own",
        ),
        Target(
            "gated",
            expected=False,
            because="both servers prove knowledge of every exponent, and every role "
            "verifies the proofs before it uses the joint key",
        ),
        Target(
            "hybrid without key proofs",
            expected=True,
            because="the joint key of the key layer becomes the DSP's own",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the key layer has the keys and the key proofs of gated",
        ),
    ),
)
