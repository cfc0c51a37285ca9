"""A3: the KTS compares what it is sent for two consecutive states.

In suite `paper` the KTS gets `Y_j = (T' g^tau)^a_j` of every state that is downloaded,
and anybody can tap the uploads. Two states that differ by one upload, without `tau`:
their quotient is `T'^a_j` of that upload, its power `b_j` is the upload's mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gmpy2 import mpz

from benchmarks.attacks.algebra import blocks_of, divide, lanes_of, look, power
from benchmarks.attacks.result import Attack, Outcome, Target
from benchmarks.attacks.scene import CAST, Scene
from hre_torch.protocol.messages import TransformRequest, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites.blocks import LaneTask, decode_exponents
from hre_torch.protocol.task import Task

__all__ = ["ATTACK", "View", "consecutive_states"]


@dataclass(frozen=True, slots=True)
class View:
    """What a KTS knows that follows the protocol and listens on the wire.

    Attributes:
        task: public.
        kts: the KTS's keys.
        before: body of the transform request for the state without alice's upload.
        after: the same for the state with it.
        upload: body of alice's upload, tapped.
        downloads: bodies of the downloads of both states, tapped.
    """

    task: Task
    kts: Secret
    before: Parts
    after: Parts
    upload: Parts
    downloads: tuple[Parts, Parts]


def consecutive_states(view: View) -> tuple[int, ...]:
    """Return alice's update, or what is left of it under the masks."""
    lanes = lanes_of(view.task)
    parameters = lanes.parameters
    b = decode_exponents(view.kts.material, parameters).reveal()
    heads, blocks = blocks_of(view.upload, lanes)
    if view.after:
        powers = [_powers(body, lanes) for body in (view.before, view.after)]
    else:
        # Nothing comes from the DSP: use what the DSP's halves leave in the downloads.
        powers = [blocks_of(parts, lanes)[1] for parts in view.downloads]
    elements = []
    for index, (head, block) in enumerate(zip(heads, blocks, strict=True)):
        for j, lane in enumerate(block):
            quotient = divide(powers[1][index][j], powers[0][index][j], parameters)
            mask = power(quotient, b[j], parameters)
            if not view.after:
                mask = quotient * power(head, b[j], parameters)
            elements.append(divide(lane, mask, parameters))
    return look(elements, lanes, 1, view.upload)


def _powers(body: Parts, lanes: LaneTask) -> list[tuple[mpz, ...]]:
    return lanes.layout.split(lanes.layout.decode_lanes(body[2], what="a request"))


def _run(target: Target, seed: int, profile: str) -> Outcome:
    paper = target.suite.startswith("paper")
    scene = Scene(target.suite, seed, profile, contributions=1 if paper else 3)
    scene.contribute(*CAST)
    scene.release()
    updates = scene.contribute(*("alice",) if paper else CAST)
    scene.release()
    # In `paper`, bob is up to date with the first state and mallory fetches both.
    downloads = scene.fetch("bob", 1, 1), scene.fetch("mallory", 1 if paper else 2, 2)
    before, after = scene.heard("dsp->kts", TransformRequest)
    view = View(
        scene.task,
        scene.secrets["kts"],
        before.parts,
        after.parts,
        scene.heard("alice->dsp", Upload)[-1].parts,
        (downloads[0].parts, downloads[1].parts),
    )
    return Outcome.of(consecutive_states(view), updates["alice"])


ATTACK: Final = Attack(
    name="A3",
    title="two consecutive states compared",
    who="KTS alone, passive",
    run=_run,
    targets=(
        Target(
            "paper without tau",
            expected=True,
            because="the powers of two states differ by those of one tapped upload",
        ),
        Target("paper", expected=False, because="the DSP masks every power with tau"),
        Target(
            "gated",
            expected=False,
            because="the DSP's share never reaches the KTS, and what reaches the wire "
            "is masked afresh for every download",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the KTS gets heads of the key layer and no words at all, and what "
            "reaches the wire is masked afresh for every download",
        ),
    ),
)
