"""A2: the DSP takes its own mask off the KTS's answer.

The DSP knows `rho`, because it drew it. In suite `paper` the KTS answers with
`U_j = (1 + m_j n) pk_j^(rho + sigma)`; without `sigma` the DSP divides by `pk_j^rho`
and reads every release that anybody downloads, while it follows the protocol to the
letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from gmpy2 import mpz

from benchmarks.attacks.algebra import divide, lanes_of, look, power
from benchmarks.attacks.result import Attack, Outcome, Target
from benchmarks.attacks.scene import CAST, Scene, transform_request
from hre_torch.crypto.dcr.encryption import Ciphertext, Exponents
from hre_torch.crypto.dcr.shares import unmasked
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.protocol.messages import TransformReply, TransformRequest, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import LaneTask, decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope
from hre_torch.protocol.workers import Workers

__all__ = ["ATTACK", "View", "answer_on_the_wire"]


@dataclass(frozen=True, slots=True)
class View:
    """What an honest-but-curious DSP knows.

    Attributes:
        task: public.
        dsp: the DSP's keys.
        uploads: bodies of the uploads in release 1.
        transform: the KTS's answer to a transform request.
    """

    task: Task
    dsp: Secret
    uploads: tuple[Parts, ...]
    transform: Callable[[Envelope[TransformRequest]], Envelope[TransformReply]]


def answer_on_the_wire(view: View) -> tuple[int, ...]:
    """Return the released sum as the KTS's answer for bob shows it to the DSP."""
    task, lanes = view.task, lanes_of(view.task)
    a = decode_exponents(view.dsp.material, task.parameters)
    cipher = SUITES.get(task.config.suite).data_service(task, view.dsp, Workers())
    parts = cipher.dump(cipher.add([cipher.restore(part) for part in view.uploads]))
    total = lanes.layout.ciphertexts(parts[:2], what="a sum")
    if task.config.suite == "paper":
        begun = [_first_phase(block, a, lanes) for block in total]
        body = (
            *lanes.layout.encode([z for _, _, z, _ in begun], [x for x, *_ in begun]),
            lanes.layout.encode([], [y for _, y, *_ in begun])[1],
        )
        known = [mask for *_, mask in begun]
    else:
        # Here the DSP adds its own half by itself; no mask of its own is in the way.
        body = ()
        known = [
            [divide(mpz(1), half, task.parameters) for half in halves]
            for halves in (unmasked(block, a, task.parameters) for block in total)
        ]
    reply = view.transform(transform_request(task, view.dsp, "bob", body))
    _, answered = lanes.layout.decode(reply.parts, what="an answer")
    elements = [
        divide(element, mask, task.parameters)
        for block, masks in zip(answered, known, strict=True)
        for element, mask in zip(block, masks, strict=True)
    ]
    return look(elements, lanes, len(view.uploads), parts)


def _first_phase(
    block: Ciphertext, a: Exponents, lanes: LaneTask
) -> tuple[list[mpz], list[mpz], mpz, list[mpz]]:
    """Return `X`, `Y`, `Z` as the protocol has them, and `pk^rho`, which stays."""
    parameters, n_squared = lanes.parameters, lanes.parameters.n_squared
    rho, tau = (SYSTEM_ENTROPY.exponent(parameters.exponent_bits) for _ in range(2))
    head = block.head * power(parameters.g, tau, parameters)
    kept = [power(key, rho, parameters) for key in lanes.recipient("bob")]
    kept = kept[: len(block.lanes)]
    masked = [
        lane * mask * power(joint, tau, parameters) % n_squared
        for lane, mask, joint in zip(block.lanes, kept, lanes.joint, strict=False)
    ]
    powers = [power(head, x, parameters) for x in a.reveal()[: len(kept)]]
    return masked, powers, power(parameters.g, rho, parameters), kept


def _run(target: Target, seed: int, profile: str) -> Outcome:
    scene = Scene(target.suite, seed, profile)
    updates = scene.contribute(*CAST)
    scene.release()
    view = View(
        scene.task,
        scene.secrets["dsp"],
        tuple(scene.heard(f"{name}->dsp", Upload)[0].parts for name in CAST),
        scene.key_transform.transform,
    )
    total = np.sum(list(updates.values()), axis=0)
    return Outcome.of(answer_on_the_wire(view), total)


ATTACK: Final = Attack(
    name="A2",
    title="the DSP's own mask taken off the KTS's answer",
    who="DSP alone, passive",
    run=_run,
    targets=(
        Target(
            "paper without sigma",
            expected=True,
            because="the answer carries no mask but the DSP's own",
        ),
        Target("paper", expected=False, because="the KTS adds sigma of its own"),
        Target(
            "gated",
            expected=False,
            because="the KTS's share carries sigma of its own, and the DSP's never "
            "leaves the DSP unmasked",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the KTS's share of the key layer carries sigma of its own",
        ),
    ),
)
