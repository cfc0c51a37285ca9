"""A6: an accomplice cancels bob inside the sum, and alice stands alone.

Mallory uploads the inverse of bob's upload, made fresh with zeros of its own, and its
count slot set so that the sum still counts three. What the release then opens to is
alice's update. The forger knows the content of its upload no more than bob's, and that
is what a proof of *knowledge*, bound to mallory's name, does not let pass. In `hybrid`
words are subtracted freely, but bob's secret in the key layer is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.attacks.algebra import invert_block, lanes_of, look, unmask
from benchmarks.attacks.forgery import Draft
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, Scene
from benchmarks.attacks.words import decode_words, plain_words
from hre_torch.crypto.dcr.encryption import add
from hre_torch.protocol.messages import Download, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites.blocks import decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope

__all__ = ["ATTACK", "View", "cancelled_upload"]

_COUNT: Final = 2
"""What mallory's own count slot must be: it stands for bob's as well."""


@dataclass(frozen=True, slots=True)
class View:
    """What mallory knows, and what it can do to the servers.

    Attributes:
        task: public.
        mallory: its own keys.
        cancelled: bob's upload, tapped.
        doors: ways to bring in an upload of its own, the DSP's help included.
        download: fetches the release of all three.
    """

    task: Task
    mallory: Secret
    cancelled: Envelope[Upload]
    doors: tuple[Callable[[Envelope[Upload]], object], ...]
    download: Callable[[], Envelope[Download]]


def cancelled_upload(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return alice's update; None if no door lets the inverse in."""
    lanes = lanes_of(view.task)
    attempts = [(door, _cancelling_all(view)) for door in view.doors]
    if view.task.config.suite == "hybrid":
        attempts.append((view.doors[0], _cancelling_words(view)))
    for number, (door, draft) in enumerate(attempts):
        with refusals:
            door(draft.seal(view.mallory, number))
            k = decode_exponents(view.mallory.material, lanes.parameters).reveal()
            parts = view.download().parts
            return look(unmask(parts, lanes, k), lanes, len(CAST), parts)
    return None


def _cancelling_all(view: View) -> Draft:
    """Return what cancels bob's upload, if only somebody takes it."""
    draft = Draft.of_zeros(view.task, _COUNT)
    lanes, theirs = draft.lanes, view.cancelled.parts
    draft.blocks = [
        add(own, invert_block(block, lanes.parameters), lanes.parameters)
        for own, block in zip(
            draft.blocks,
            lanes.layout.ciphertexts(theirs[:2], what="an upload"),
            strict=True,
        )
    ]
    if draft.words.size:
        draft.words -= decode_words(theirs)
    return draft


def _cancelling_words(view: View) -> Draft:
    """Return what cancels bob's words only, for which a proof can be made."""
    draft = Draft.of_zeros(view.task)
    nothing = np.zeros(view.task.config.n_sealed, dtype=np.int64)
    more = plain_words(nothing, _COUNT - 1, view.task)
    draft.words += more - decode_words(view.cancelled.parts)
    return draft


def _run(target: Target, seed: int, profile: str) -> Outcome:
    scene, refusals = Scene(target.suite, seed, profile), Refusals()
    updates = scene.contribute("alice", "bob")

    def download() -> Envelope[Download]:
        scene.release()
        return scene.fetch("mallory")

    view = View(
        scene.task,
        scene.secrets["mallory"],
        scene.heard("bob->dsp", Upload)[0],
        (scene.deliver, scene.smuggle),
        download,
    )
    return Outcome.of(cancelled_upload(view, refusals), updates["alice"], refusals)


ATTACK: Final = Attack(
    name="A6",
    title="an honest upload cancelled inside a sum",
    who="a participant, with or without the DSP",
    run=_run,
    targets=(
        Target(
            "paper",
            expected=True,
            because="anybody can multiply a tapped upload's inverse into its own",
        ),
        Target(
            "gated without proofs",
            expected=True,
            because="a sum of three identities is no sum of three updates",
        ),
        Target(
            "gated",
            expected=False,
            because="each server verifies a proof of knowledge that is bound to the "
            "sender",
        ),
        Target(
            "hybrid without proofs",
            expected=True,
            because="whoever cancels both words and key layer cancels the upload",
        ),
        Target(
            "hybrid",
            expected=False,
            because="each server verifies a proof of knowledge of the secret in the "
            "key layer, and words alone cancel nothing that opens",
        ),
    ),
)
