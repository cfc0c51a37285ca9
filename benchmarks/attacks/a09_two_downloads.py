"""A9: two downloads with one upload between them.

Plain asynchronous training gives every participant new weights after every upload. So
mallory, who follows the protocol, subtracts one download from the next and holds
alice's exact update, and from it her picture (`inversion`). In suite `phong` it need
not even wait: all participants share the key that opens her upload. In `gated` the next
weights differ by the updates of at least t identities.

What such a sum shows is no noise. Whose update is whose is hidden, but a neuron that
fires for one picture only still shows it: use batches, more contributors, or
differential privacy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.algebra import lanes_of, look, unmask
from benchmarks.attacks.inversion import Victim, invert
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, Scene
from hre_torch.app.data.load import ImageSet, load_data
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["ATTACK", "View", "tapped_upload", "two_downloads", "watch"]

_PLAIN_ASYNCHRONOUS: Final = ("plain", "paper")
"""Suites that are played with t = 1, as their authors have them."""

Weights = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class View:
    """What mallory knows, following the protocol and listening on the wire.

    Attributes:
        task: public.
        mallory: its own keys.
        before: released weights before alice's upload was released.
        after: released weights after it.
        own: mallory's own part in that, if it has any.
        upload: body of alice's upload, tapped.
    """

    task: Task
    mallory: Secret
    before: Weights = field(repr=False)
    after: Weights = field(repr=False)
    own: Weights = field(repr=False)
    upload: Parts = field(repr=False)


def two_downloads(view: View) -> Weights:
    """Return by what two consecutive downloads differ, apart from one's own part."""
    return view.after - view.before - view.own


def tapped_upload(view: View) -> Weights:
    """Return alice's upload as mallory's own key opens it."""
    if view.task.config.suite == "phong":
        cipher = SUITES.get("phong").participant(view.task, view.mallory, Workers())
        return cipher.decrypt(view.upload, 1)
    lanes = lanes_of(view.task)
    k = decode_exponents(view.mallory.material, view.task.parameters).reveal()
    return np.array(look(unmask(view.upload, lanes, k), lanes, 1, view.upload))


def watch(
    suite: str, victim: Victim, indices: Sequence[int], seed: int, profile: str
) -> View:
    """Play the scene and return what mallory has seen.

    Args:
        suite: any suite.
        victim: the network that everybody trains.
        indices: the pictures of alice, bob and mallory; where t is 1, the first
            release holds alice's update alone.
        seed: seed of the scene.
        profile: modulus profile.
    """
    t = 1 if suite in _PLAIN_ASYNCHRONOUS else 3
    before = victim.initial()
    scene = Scene(suite, seed, profile, contributions=t, initial=before)
    own = np.zeros_like(before)
    for name, index in list(zip(CAST, indices, strict=True))[:t]:
        update = victim.update(index)
        scene.deliver(scene.seal(name, update))
        own = update.astype(np.int64) if name == "mallory" else own
    scene.release()
    opened = scene.opened_by("mallory", Refusals())
    return View(
        task=scene.task,
        mallory=scene.secrets["mallory"],
        before=before,
        after=before if opened is None else before + opened,
        own=own,
        upload=scene.heard("alice->dsp", Upload)[0].parts,
    )


@functools.cache
def _digits() -> ImageSet:
    return load_data("digits").train


def _run(target: Target, seed: int, profile: str) -> Outcome:
    victim = Victim.of(_digits(), seed)
    indices = victim.draw(len(CAST), seed)
    view = watch(target.suite, victim, indices, seed, profile)
    seen = tapped_upload if target.scenario == "tapped upload" else two_downloads
    picture = victim.pixels(invert(seen(view), *victim.shape))
    return Outcome.of(picture.tolist(), victim.true_pixels(indices[0]).tolist())


ATTACK: Final = Attack(
    name="A9",
    title="two downloads that differ by one upload, and the picture in it",
    who="one participant, passive",
    run=_run,
    targets=(
        Target(
            "plain",
            expected=True,
            because="with t = 1 every release is one participant's exact update",
        ),
        Target(
            "paper",
            expected=True,
            because="with t = 1 every release is one participant's exact update, "
            "however well it was encrypted on its way",
        ),
        Target(
            "phong",
            expected=True,
            because="the key that opens releases opens every upload as well",
            scenario="tapped upload",
        ),
        Target(
            "gated",
            expected=False,
            because="a release sums the updates of at least t identities: a mixture of "
            "pictures, which hides whose update is whose but is no noise",
        ),
        Target(
            "gated",
            expected=False,
            because="an upload opens under no participant's key: noise",
            scenario="tapped upload",
        ),
        Target(
            "hybrid",
            expected=False,
            because="a release sums the updates of at least t identities, as in gated",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the secret of an upload opens under no participant's key, and "
            "without it the words are noise",
            scenario="tapped upload",
        ),
    ),
)
