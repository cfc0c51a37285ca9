"""A13: what goes wrong with Ring-LWE masks that are not made and kept as they must be.

An upload of `hybrid` is `c_k = a_k s + e_k + Delta m_k mod 2^32` for all blocks k.

* One secret for two uploads, of one participant or of two: `a_k s` cancels in
  the difference of their words, and a wire-tapper reads the difference of the updates.
* One element for two blocks: the same inside a single upload.
* Words changed on their way under an unchanged header, or sent by mallory under its own
  name with the key layer and the proof of alice: she would have trained something that
  she did not. The header holds the hash of the words, and the proof is bound to it.
* Words that were never masked honestly, in an upload of mallory's own: they prove
  nothing about themselves, and so their sum may be noise. The release is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.attacks.forgery import Draft
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, Scene
from benchmarks.attacks.words import (
    Words,
    bare,
    decode_words,
    encode_words,
    plain_words,
)
from hre_torch.crypto.rlwe.parameters import VALUES_PER_BLOCK
from hre_torch.crypto.rlwe.ring import RING_DIMENSION
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, seal

__all__ = ["ATTACK", "View", "change_words", "difference", "spoil_words"]

_FORGED: Final = 1000
"""By how much the forger wants the first value of alice's update to be larger."""


@dataclass(frozen=True, slots=True)
class View:
    """What mallory knows, listening on the wire, and what it can do.

    Attributes:
        task: public.
        mallory: its own keys.
        uploads: what it has tapped.
        door: brings in an upload, be it its own or one held up on its way.
    """

    task: Task
    mallory: Secret
    uploads: tuple[Envelope[Upload], ...]
    door: Callable[[Envelope[Upload]], object]


def difference(one: Words, other: Words, n_values: int) -> npt.NDArray[np.int64]:
    """Return by what two updates differ whose words hold the same masks."""
    return bare(one - other, n_values)


def change_words(view: View, refusals: Refusals) -> None:
    """Bring in alice's upload with other words: held up on its way, or as its own."""
    [theirs] = view.uploads
    shift = np.zeros(view.task.config.n_values, dtype=np.int64)
    shift[0] = _FORGED
    words = decode_words(theirs.parts) + plain_words(shift, 0, view.task)
    parts = (*theirs.parts[:-1], encode_words(words))
    own = msgspec.structs.replace(theirs.header, sender=view.mallory.name)
    for forged in (
        replace(theirs, parts=parts),
        seal(own, view.mallory.signing, parts, prove=lambda _: theirs.proof),
    ):
        with refusals:
            view.door(forged)
            break


def spoil_words(view: View, refusals: Refusals) -> None:
    """Bring in an upload whose words have nothing to do with the secret in it."""
    draft = Draft.of_zeros(view.task)
    [theirs] = view.uploads
    draft.words = decode_words(theirs.parts)
    with refusals:
        view.door(draft.seal(view.mallory))


def _two_uploads(target: Target, seed: int, profile: str) -> Outcome:
    """Play reused secrets: both uploads are alice's, or one is bob's."""
    scene = Scene(target.suite, seed, profile)
    names = ("alice", "bob" if target.scenario == "shared secret" else "alice")
    updates = [scene.contribute(name)[name] for name in names]
    tapped = [
        decode_words(scene.heard(f"{name}->dsp", Upload)[index].parts)
        for name, index in zip(names, (0, names.count("alice") - 1), strict=True)
    ]
    got = difference(tapped[0], tapped[1], scene.task.config.n_values)
    return Outcome.of(got, updates[0] - updates[1])


def _two_blocks(target: Target, seed: int, profile: str) -> Outcome:
    initial = np.zeros(2 * VALUES_PER_BLOCK, dtype=np.int64)
    scene = Scene(target.suite, seed, profile, initial=initial)
    update = scene.contribute("alice")["alice"]
    words = decode_words(scene.heard("alice->dsp", Upload)[0].parts)
    got = difference(
        words[:RING_DIMENSION], words[RING_DIMENSION:], n_values=VALUES_PER_BLOCK
    )
    return Outcome.of(got, update[:VALUES_PER_BLOCK] - update[VALUES_PER_BLOCK:])


def _changed_words(target: Target, seed: int, profile: str) -> Outcome:
    names = (*CAST, "carol")
    scene, refusals = Scene(target.suite, seed, profile, names=names), Refusals()
    update = scene.draw()
    upload = scene.seal("alice", update)
    view = View(scene.task, scene.secrets["mallory"], (upload,), scene.deliver)
    change_words(view, refusals)
    scene.deliver(upload)
    updates = scene.contribute("bob", "carol") | {"alice": update}
    scene.release()
    wanted = np.sum(list(updates.values()), axis=0)
    wanted[0] += _FORGED
    return Outcome.of(scene.opened_by("bob", refusals), wanted, refusals)


def _spoiled_words(target: Target, seed: int, profile: str) -> Outcome:
    scene, refusals = Scene(target.suite, seed, profile), Refusals()
    updates = scene.contribute("alice", "bob")
    tapped = scene.heard("alice->dsp", Upload)
    view = View(scene.task, scene.secrets["mallory"], tuple(tapped), scene.deliver)
    spoil_words(view, refusals)
    scene.release()
    opened = scene.opened_by("bob", refusals)
    total = np.sum(list(updates.values()), axis=0)
    outcome = Outcome.of(opened, total, refusals)
    # Here the attacker wants that bob does *not* get the true sum.
    return replace(outcome, succeeded=not outcome.succeeded)


_SCENARIOS: Final[Mapping[str, Callable[[Target, int, str], Outcome]]] = {
    "reused secret": _two_uploads,
    "shared secret": _two_uploads,
    "repeated element": _two_blocks,
    "changed words": _changed_words,
    "spoiled words": _spoiled_words,
}


def _run(target: Target, seed: int, profile: str) -> Outcome:
    return _SCENARIOS[target.scenario](target, seed, profile)


ATTACK: Final = Attack(
    name="A13",
    title="masks of Ring-LWE that repeat, and words that were changed",
    who="whoever listens, or one participant",
    run=_run,
    targets=(
        Target(
            "hybrid with one secret",
            expected=True,
            because="two uploads of one participant hold the same masks",
            scenario="reused secret",
        ),
        Target(
            "hybrid with a shared secret",
            expected=True,
            because="participants that were forked with the state of their generator "
            "draw the same masks",
            scenario="shared secret",
        ),
        Target(
            "hybrid with one element",
            expected=True,
            because="two blocks of one upload hold the same product a s",
            scenario="repeated element",
        ),
        Target(
            "hybrid without hashes",
            expected=True,
            because="nobody compares the words with the header that alice signed",
            scenario="changed words",
        ),
        Target(
            "hybrid",
            expected=False,
            because="every upload draws its secret and its errors from the operating "
            "system, and no function takes a secret",
            scenario="reused secret",
        ),
        Target(
            "hybrid",
            expected=False,
            because="nothing random is kept between two draws, so a fork copies none",
            scenario="shared secret",
        ),
        Target(
            "hybrid",
            expected=False,
            because="every block of an upload has an element of its own",
            scenario="repeated element",
        ),
        Target(
            "hybrid",
            expected=False,
            because="alice's signed header holds the hash of her words, and the proof "
            "of her key layer is bound to that header",
            scenario="changed words",
        ),
        Target(
            "hybrid",
            expected=True,
            because="not protected: an upload that was not masked honestly costs a "
            "release; everybody rejects it alike, and nobody takes a wrong sum for it",
            scenario="spoiled words",
        ),
    ),
)
