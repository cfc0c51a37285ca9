"""A16: mallory is the first to name the model of a version, and names a false one.

Uploads on another model than the common one are refused, or bob could be shown a model
of his own. If the first upload that names a version is believed, whoever it is of, one
participant settles what is true: the uploads of everybody else are refused.

A version settles only when c + 1 identities name the same model of it in released
lists: at most c collude, so one of them is honest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene
from hre_torch.participant.released import ReleasedWeights

__all__ = ["ATTACK"]

_HONEST: Final = ("alice", "bob", "carol")


def _run(target: Target, seed: int, profile: str) -> Outcome:
    names = (*_HONEST, "mallory")
    scene, refusals = Scene(target.suite, seed, profile, names=names), Refusals()
    config = scene.task.config
    start = np.zeros(config.n_values, dtype=np.int64)
    runs = {name: ReleasedWeights(scene.task, start.copy()) for name in _HONEST}

    def open_release(version: int) -> None:
        for name, weights in runs.items():
            data = scene.fetch(name, version, version).encode()
            weights.add(scene.participants[name].open(data).values)

    def upload(name: str) -> npt.NDArray[np.int32]:
        values, end = scene.draw(), scene.participants[name]
        scene.deliver(end.seal(values, end.version, runs[name].run))
        return values

    for name in _HONEST:
        upload(name)
    scene.release()
    # Alice and bob have not opened release 1 yet, mallory says what it made of it.
    for name in ("alice", "bob"):
        upload(name)
    mallory = scene.participants["mallory"]
    nothing = np.zeros(config.n_values, dtype=np.int32)
    mallory.rebase(1, scene.data_service.chain)
    scene.deliver(mallory.seal(nothing, 1, bytes(len(config.initial_digest))))
    scene.release()
    # Now everybody has opened it, and builds upon it.
    open_release(1)
    wanted, opened = [], None
    for name in _HONEST:
        with refusals:
            wanted.append(upload(name))
    open_release(2)
    with refusals:
        scene.release()
        opened = scene.opened_by("bob", refusals)
    total = np.sum(wanted, axis=0) if wanted else nothing
    outcome = Outcome.of(opened, total, refusals)
    # Here the attacker wants that nothing of the others is released.
    return replace(outcome, succeeded=not outcome.succeeded)


ATTACK: Final = Attack(
    name="A16",
    title="the first word about a model",
    who="one participant, alone",
    run=_run,
    targets=(
        Target(
            "gated without settling rule",
            expected=True,
            because="the false model is believed, and three honest uploads are refused "
            "as computed on another one",
        ),
        Target(
            "gated",
            expected=False,
            because="one identity settles nothing; the three honest ones are released "
            "and settle the true model",
        ),
        Target(
            "hybrid",
            expected=False,
            because="one identity settles nothing; the three honest ones are released "
            "and settle the true model",
        ),
    ),
)
