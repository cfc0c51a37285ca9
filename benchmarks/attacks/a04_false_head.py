"""A4: a participant uploads a head that encrypts something itself.

With `T' = (1 + n) g^r` the servers, who raise `T'` to their exponents, shift what
mallory downloads by the *joint exponent*: `m_j - a_j b_j mod n`. Mallory knows `m_j`,
because nobody else is in that release of suite `paper`, and with 256-bit exponents the
whole `a_j b_j` is smaller than `n`. From then on it opens every upload it can tap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.attacks.algebra import lanes_of, look, read, unmask
from benchmarks.attacks.forgery import Draft
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene
from hre_torch.protocol.messages import Download, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites.blocks import decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope

__all__ = ["ATTACK", "View", "false_head"]


@dataclass(frozen=True, slots=True)
class View:
    """What mallory knows, and what it can do to the servers.

    Attributes:
        task: public.
        mallory: its own keys.
        upload: body of alice's upload, tapped.
        doors: ways to bring in an upload of its own.
        download: fetches the release that holds mallory's upload.
    """

    task: Task
    mallory: Secret
    upload: Parts
    doors: tuple[Callable[[Envelope[Upload]], object], ...]
    download: Callable[[], Envelope[Download]]


def false_head(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return alice's update; None if no door lets the false heads in."""
    lanes = lanes_of(view.task)
    n, n_squared = lanes.parameters.n, lanes.parameters.n_squared
    draft = Draft.of(view.task, [0] * lanes.layout.plaintexts)
    draft.tamper(lambda block: replace(block, head=block.head * (1 + n) % n_squared))
    forged = draft.seal(view.mallory)
    for door in view.doors:
        with refusals:
            door(forged)
            break
    else:
        return None
    own = decode_exponents(view.mallory.material, lanes.parameters).reveal()
    opened = unmask(view.download().parts, lanes, own)
    # The plaintext 0 comes back as minus the joint exponent of its lane.
    shifts = [read(element, lanes.parameters) for element in opened]
    joint = [-shift % n for shift in shifts if shift is not None]
    return look(unmask(view.upload, lanes, joint), lanes, 1, view.upload)


def _run(target: Target, seed: int, profile: str) -> Outcome:
    paper = target.suite == "paper"
    scene = Scene(target.suite, seed, profile, contributions=1 if paper else 3)
    refusals = Refusals()
    updates = scene.contribute("alice")
    scene.contribute("bob")
    if paper:
        scene.release()

    def download() -> Envelope[Download]:
        scene.release()
        return scene.fetch("mallory")

    view = View(
        scene.task,
        scene.secrets["mallory"],
        scene.heard("alice->dsp", Upload)[0].parts,
        (scene.deliver, scene.smuggle),
        download,
    )
    return Outcome.of(false_head(view, refusals), updates["alice"], refusals)


ATTACK: Final = Attack(
    name="A4",
    title="a head that encrypts something shifts the opening by the joint key",
    who="one participant, alone",
    run=_run,
    targets=(
        Target(
            "paper",
            expected=True,
            because="no server looks at the form of a head, and the joint exponent "
            "comes back as a plaintext",
        ),
        Target(
            "gated",
            expected=False,
            because="each server verifies the proof that every head is a power of g",
        ),
        Target(
            "hybrid",
            expected=False,
            because="each server verifies the same proof for the key layer",
        ),
    ),
)
