"""A1: the DSP has one participant's upload re-encrypted for an accomplice.

Nothing in suite `paper` ties what the DSP sends the KTS to a release. So the DSP runs
the first phase on alice's upload alone, the KTS follows with the second, and mallory
opens alice's update with its own key. In `gated` the KTS transforms nothing but its
own product of the heads that a list of t identities names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.attacks.algebra import lanes_of, look, unmask
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, Scene, transform_request
from hre_torch.protocol.messages import (
    Release,
    ReleaseOrder,
    TransformReply,
    TransformRequest,
    Upload,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, seal
from hre_torch.protocol.workers import Workers

__all__ = ["ATTACK", "View", "single_upload"]


@dataclass(frozen=True, slots=True)
class View:
    """What the DSP and mallory hold together, and which doors of the KTS they know.

    Attributes:
        task: public.
        dsp: the DSP's keys.
        mallory: the accomplice's keys.
        upload: alice's upload, as the DSP has received it.
        transform: the KTS's answer to a transform request.
        approve: the KTS's answer to a release order.
    """

    task: Task
    dsp: Secret
    mallory: Secret
    upload: Envelope[Upload]
    transform: Callable[[Envelope[TransformRequest]], Envelope[TransformReply]]
    approve: Callable[[Envelope[ReleaseOrder]], Envelope[Release]]


def single_upload(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return alice's update, or what comes of trying."""
    task, lanes = view.task, lanes_of(view.task)
    exponents = decode_exponents(view.mallory.material, task.parameters).reveal()
    cipher = SUITES.get(task.config.suite).data_service(task, view.dsp, Workers())
    upload = cipher.restore(view.upload.parts)
    begun, kept = cipher.begin(upload, view.mallory.name)

    with refusals:
        # Where the KTS wants a list first: one that names alice's upload alone.
        order = ReleaseOrder(
            cfg=task.cfg,
            sender=view.dsp.name,
            version=2,
            uploads=(view.upload.digest,),
        )
        view.approve(seal(order, view.dsp.signing))

    recovered = None
    # Where the suite has the DSP send nothing, it slips in the upload, then obeys.
    for body in [begun] if begun else [view.upload.parts, begun]:
        with refusals:
            request = transform_request(task, view.dsp, view.mallory.name, body)
            reply = view.transform(request)
            finished = cipher.finish(kept, reply.parts)
            recovered = look(unmask(finished, lanes, exponents), lanes, 1, finished)
    return recovered


def _run(target: Target, seed: int, profile: str) -> Outcome:
    scene, refusals = Scene(target.suite, seed, profile), Refusals()
    scene.contribute(*CAST)
    scene.release()
    updates = scene.contribute("alice")
    view = View(
        scene.task,
        scene.secrets["dsp"],
        scene.secrets["mallory"],
        scene.heard("alice->dsp", Upload)[-1],
        scene.key_transform.transform,
        scene.key_transform.approve,
    )
    return Outcome.of(single_upload(view, refusals), updates["alice"], refusals)


ATTACK: Final = Attack(
    name="A1",
    title="a single upload re-encrypted for an accomplice",
    who="DSP and a participant",
    run=_run,
    targets=(
        Target(
            "paper",
            expected=True,
            because="the KTS re-encrypts whatever the DSP sends it",
        ),
        Target(
            "gated",
            expected=False,
            because="the KTS transforms only its own product over a signed list of "
            "uploads of t identities",
        ),
        Target(
            "hybrid",
            expected=False,
            because="without its secret an upload stays masked, and the secret goes "
            "through the key layer, where it is as in gated",
        ),
    ),
)
