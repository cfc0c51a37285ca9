"""A5: the DSP has the KTS raise `1 + n` to its secret exponents.

In suite `paper` the KTS computes `Y_j^b_j` for any `Y_j` that the DSP sends. The DSP
sends `Y_j = 1 + n` for mallory, who opens `-b_j mod n`. Knowing `a_j` and `b_j`, the
DSP opens every upload by itself from then on. In `gated` the KTS exponentiates nothing
that anybody has chosen without proving its form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.attacks.algebra import lanes_of, look, power, read, unmask
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, Scene, transform_request
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.protocol.messages import TransformReply, TransformRequest, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites.blocks import decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope

__all__ = ["ATTACK", "View", "chosen_power"]


@dataclass(frozen=True, slots=True)
class View:
    """What the DSP and mallory hold together, and the door of the KTS they know.

    Attributes:
        task: public.
        dsp: the DSP's keys.
        mallory: the accomplice's keys.
        upload: body of alice's upload.
        transform: the KTS's answer to a transform request.
    """

    task: Task
    dsp: Secret
    mallory: Secret
    upload: Parts
    transform: Callable[[Envelope[TransformRequest]], Envelope[TransformReply]]


def chosen_power(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return alice's update; None if the KTS refuses to raise `1 + n`."""
    lanes, parameters = lanes_of(view.task), view.task.parameters
    layout, n = lanes.layout, parameters.n
    # X and Z are what a first phase of zeros has there, blinded for mallory.
    rho = SYSTEM_ENTROPY.exponent(parameters.exponent_bits)
    masks = [power(key, rho, parameters) for key in lanes.recipient("mallory")]
    heads = [power(parameters.g, rho, parameters)] * layout.blocks
    body = (
        *layout.encode(heads, [masks[:width] for width in layout.widths]),
        layout.encode([], [[1 + n] * width for width in layout.widths])[1],
    )
    with refusals:
        request = transform_request(view.task, view.dsp, "mallory", body)
        reply = view.transform(request)
        k = decode_exponents(view.mallory.material, parameters).reveal()
        opened = [read(x, parameters) for x in unmask(reply.parts, lanes, k)]
        b = [-value % n for value in opened if value is not None]
        a = decode_exponents(view.dsp.material, parameters).reveal()
        joint = [x * y for x, y in zip(a, b, strict=False)]
        return look(unmask(view.upload, lanes, joint), lanes, 1, view.upload)
    return None


def _run(target: Target, seed: int, profile: str) -> Outcome:
    scene, refusals = Scene(target.suite, seed, profile), Refusals()
    updates = scene.contribute(*CAST)
    scene.release()
    view = View(
        scene.task,
        scene.secrets["dsp"],
        scene.secrets["mallory"],
        scene.heard("alice->dsp", Upload)[0].parts,
        scene.key_transform.transform,
    )
    return Outcome.of(chosen_power(view, refusals), updates["alice"], refusals)


ATTACK: Final = Attack(
    name="A5",
    title="the KTS's secret exponents read out of a chosen power",
    who="DSP and a participant",
    run=_run,
    targets=(
        Target(
            "paper",
            expected=True,
            because="the KTS raises whatever the DSP sends it to its exponents",
        ),
        Target(
            "gated",
            expected=False,
            because="the KTS never exponentiates a value that the DSP chose",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the KTS is that of gated, and exponentiates its own product only",
        ),
    ),
)
