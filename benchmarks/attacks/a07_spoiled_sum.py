"""A7: one participant makes a sum that nobody can open, ever.

Mallory multiplies a lane by an n-th residue that has nothing to do with the joint key.
The product of all uploads then opens under nobody's key, and asking the servers again
does not help. Whoever added it up cannot tell whose fault it is. Verified before it is
added, such an upload reaches no sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.attacks.algebra import power
from benchmarks.attacks.forgery import Draft
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope

__all__ = ["ATTACK", "View", "spoil"]


@dataclass(frozen=True, slots=True)
class View:
    """What mallory knows, and what it can do.

    Attributes:
        task: public.
        mallory: its own keys.
        door: brings in an upload of its own.
    """

    task: Task
    mallory: Secret
    door: Callable[[Envelope[Upload]], object]


def spoil(view: View, refusals: Refusals) -> None:
    """Bring in an upload of which one lane is off the key relation."""
    parameters = view.task.parameters
    n, n_squared = parameters.n, parameters.n_squared
    stray = power(SYSTEM_ENTROPY.unit(n), n, parameters)
    draft = Draft.of_zeros(view.task)
    draft.tamper(
        lambda block: replace(
            block, lanes=(block.lanes[0] * stray % n_squared, *block.lanes[1:])
        )
    )
    with refusals:
        view.door(draft.seal(view.mallory))


def _run(target: Target, seed: int, profile: str) -> Outcome:
    names = ("alice", "bob", "carol", "mallory")
    scene, refusals = Scene(target.suite, seed, profile, names=names), Refusals()
    spoil(View(scene.task, scene.secrets["mallory"], scene.deliver), refusals)
    updates = scene.contribute("alice", "bob", "carol")
    scene.release()
    opened = scene.opened_by("bob", refusals)
    total = np.sum(list(updates.values()), axis=0)
    outcome = Outcome.of(opened, total, refusals)
    # Here the attacker wants that bob does *not* get the true sum.
    return replace(outcome, succeeded=not outcome.succeeded)


ATTACK: Final = Attack(
    name="A7",
    title="a sum that opens under nobody's key",
    who="one participant, alone",
    run=_run,
    targets=(
        Target(
            "paper",
            expected=True,
            because="the DSP adds what it cannot check, and bob can never open it",
        ),
        Target(
            "gated without proofs",
            expected=True,
            because="one lane off the key relation spoils the sum of all",
        ),
        Target(
            "gated",
            expected=False,
            because="the DSP verifies every lane before it adds an upload; bob opens "
            "the sum of the others",
        ),
        Target(
            "hybrid without proofs",
            expected=True,
            because="one lane of the key layer spoils the sum of all",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the DSP verifies every lane of the key layer; for words that are "
            "not masked honestly see A13",
        ),
    ),
)
