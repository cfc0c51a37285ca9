"""A14: bob trains on a model of his own for ever, and no two uploads name one version.

As in A11 bob's ReLU never fires, his update is zero, and with an accomplice's the sum
is alice's update alone. What was compared were digests of the one version that an
upload is based on. So the DSP lets alice see even versions and bob odd ones: nothing is
ever compared, and every release shows alice's update.

In `gated` bob's first download is shifted. In `hybrid` mallory raises everybody's bias
with one upload and takes it back with the next. One lane of the key layer that bob gets
of the first release is multiplied by 1 + n: he sees a wrong count, and if he gives the
release up alone, his bias is only ever lowered.

Now uploads name the models of all versions that their senders have opened, and nobody
gives a release up alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.attacks.a11_two_models import Learner
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene, seeded
from benchmarks.attacks.two_faces import (
    Connection,
    Lie,
    TwoFacedDataService,
    View,
    shift_values,
    spoil_count,
)

__all__ = ["ATTACK", "RELEASES"]

_N_VALUES: Final = 100
_ONE: Final = 1 << 16
"""Weights are integers at this scale."""
_BIAS: Final = _ONE // 8
"""Bias of the initial model; its activation is positive."""
_LIFT: Final = 3 * _BIAS
"""More than the bias, and less than half, which an upload may change a weight by."""
RELEASES: Final = 6
"""So many sums in a row should be alice's update alone."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How bob's model dies.

    Attributes:
        lie: what is done to bob's download of release 1, every time.
        by: how far.
        uploads: mallory's uploads to the first releases: by how much each raises the
            bias; to later ones nothing.
        first: the first release that is alice's update alone.
    """

    lie: Lie
    by: int
    uploads: tuple[int, ...]
    first: int


_PLANS: Final = {
    "gated": _Plan(shift_values, -_ONE, (), first=2),
    # Bob misses the first of these and applies the second.
    "hybrid": _Plan(spoil_count, 1, (_LIFT, -_LIFT), first=4),
}


def _run(target: Target, seed: int, profile: str) -> Outcome:
    plan, private = _PLANS[target.suite.split()[0]], seeded(seed)
    initial = np.zeros(_N_VALUES, dtype=np.int64)
    initial[-1] = _BIAS
    scene = Scene(target.suite, seed, profile, initial=initial)
    view = View(
        scene.task,
        scene.secrets["dsp"],
        scene.arithmetic(),
        scene.participants["mallory"],
        scene.smuggle,
        scene.key_transform.approve,
        scene.key_transform.transform,
        scene.key_transform.declare,
    )
    dsp = TwoFacedDataService(view, plan.lie, {("bob", 1): plan.by})
    alice, bob = (
        Learner(
            scene.session(name, Connection(name, dsp), initial),
            features=private.random(_N_VALUES - 1) / 100,
            label=0.2 + private.random() / 10,
        )
        for name in ("alice", "bob")
    )
    refusals, wanted, recovered = Refusals(), [], []
    for release in range(1, plan.first + RELEASES):
        if release > 1:
            # After an odd number of releases bob sees them, after an even one alice.
            (alice if release % 2 else bob).pull(refusals)
        update = alice.step()
        bob.step()
        raised = plan.uploads[release - 1] if release <= len(plan.uploads) else 0
        dsp.join_in(raised)
        if release >= plan.first:
            wanted.append(update)
        values = None
        with refusals:
            values = dsp.release()
        if values is None:
            break
        if release >= plan.first:
            recovered.append(values)
    return Outcome.of(
        np.concatenate(recovered) if recovered else None,
        np.concatenate(wanted) if wanted else (),
        refusals,
    )


ATTACK: Final = Attack(
    name="A14",
    title="two models, one of them dead, for good",
    who="DSP and a participant",
    run=_run,
    targets=(
        Target(
            "gated without histories",
            expected=True,
            because="uploads name the model of one version only, and alice and bob "
            "never the same one",
        ),
        Target(
            "hybrid without histories and verdicts",
            expected=True,
            because="bob gives a release up alone that everybody else applies, and "
            "uploads name the model of one version only",
        ),
        Target(
            "gated",
            expected=False,
            because="wins once: bob has seen another model, alice none yet. The next "
            "uploads of both name the models that they have opened, and the KTS signs "
            "no list in which two differ",
        ),
        Target(
            "hybrid",
            expected=False,
            because="bob alone says that the release does not open, so he does not "
            "give it up: he stays at the version before, which is everybody's",
        ),
    ),
)
