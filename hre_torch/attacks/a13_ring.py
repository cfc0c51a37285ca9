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

import numpy as np
import numpy.typing as npt

from hre_torch.attacks.forgery import Draft
from hre_torch.attacks.result import Attack, Outcome, Refusals, Target
from hre_torch.attacks.scene import CAST, Scene
from hre_torch.attacks.words import (
    Words,
    bare,
    decode_words,
    encode_words,
    plain_words,
    ring_of,
)
from hre_torch.crypto.negacyclic import RING_DIMENSION
from hre_torch.crypto.ring_parameters import VALUES_PER_BLOCK
from hre_torch.protocol.envelope import Envelope, seal
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.task import Secret, Task

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
    own = replace_sender(theirs.header, view.mallory.name)
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
