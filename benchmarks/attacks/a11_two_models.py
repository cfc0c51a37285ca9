"""A11: the DSP gives bob a dead model, so that a sum of three is alice's update alone.

The DSP adds a `delta` whose count is zero to what bob downloads: his released weights
are shifted, his ReLU never fires, his update is zero (D. Pasquini, D. Francati,
G. Ateniese, "Eluding secure aggregation in federated learning via model inconsistency",
CCS 2022). With an accomplice for the third identity the released sum is alice's update.

Every upload states the hash of the models that it was computed on, and the KTS signs no
list that disagrees about one version. A list may mix versions, though: in `gated` what
the DSP does to a version that alice never builds on shows in no hash before the next
one. In `hybrid` a release commits to its sum of words, so that bob refuses any other,
and a shifted secret shows in the noise of a whole block, however small the model is.
What stays is a shift of everybody's model, which contradicts nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene, seeded
from benchmarks.attacks.two_faces import (
    EVERYBODY,
    Connection,
    Lie,
    TwoFacedDataService,
    View,
    shift_secret,
    shift_values,
)
from hre_torch.errors import SpoiledReleaseWarning
from hre_torch.participant.session import Session

__all__ = ["ATTACK", "Learner"]

_N_VALUES: Final = 100
_FEW: Final = 24
_ONE: Final = 1 << 16
"""Weights are integers at this scale."""
_DEAD: Final = -_ONE
"""Shift of the bias: -1, below any bias here."""

Values = npt.NDArray[np.int32]


@dataclass(slots=True)
class Learner:
    """An honest participant with one example and a model of one ReLU neuron.

    Attributes:
        session: the genuine protocol.
        features: private, shape `(n_values - 1,)`.
        label: private.
    """

    session: Session
    features: npt.NDArray[np.float64]
    label: float

    def step(self) -> Values:
        """Push one step of gradient descent on the released weights; return it."""
        weights = self.session.released() / _ONE
        activation = weights[:-1] @ self.features + weights[-1]
        error = activation - self.label if activation > 0 else 0.0
        update = np.rint(-0.1 * error * np.append(self.features, 1.0) * _ONE)
        self.session.push(update.astype(np.int32))
        return update.astype(np.int32)

    def pull(self, refusals: Refusals) -> None:
        """Pull, and ask once more where a download was refused."""
        with warnings.catch_warnings():
            # That the session waits for what others say of a release is no refusal.
            warnings.simplefilter("ignore", SpoiledReleaseWarning)
            for _ in range(2):
                with refusals:
                    self.session.pull()
                    break


def _run(target: Target, seed: int, profile: str) -> Outcome:
    plan, private = _PLANS[target.scenario], seeded(seed)
    initial = np.zeros(plan.n_values, dtype=np.int64)
    initial[-1] = _ONE // 4
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
    dsp = TwoFacedDataService(view, plan.lie, plan.shifts)
    alice, bob = (
        Learner(
            scene.session(name, Connection(name, dsp), initial),
            features=private.random(plan.n_values - 1) / 10,
            label=1.0 + private.random(),
        )
        for name in ("alice", "bob")
    )

    def everybody_uploads() -> Values:
        wanted = alice.step()
        bob.step()
        dsp.join_in()
        return wanted

    refusals, recovered = Refusals(), None
    everybody_uploads()
    dsp.release()
    bob.pull(refusals)
    if plan.one_version:
        alice.pull(refusals)
    wanted = everybody_uploads()
    with refusals:
        recovered = dsp.release()
    # And once more, on what this has made of the weights.
    alice.pull(refusals)
    bob.pull(refusals)
    everybody_uploads()
    with refusals:
        dsp.release()
    return Outcome.of(recovered, wanted, refusals)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Who is shown what.

    Attributes:
        shifts: whose download of which version is shifted, and how far.
        one_version: whether alice builds on the same version as bob.
        lie: what is shifted.
        n_values: size of the model.
    """

    shifts: Mapping[tuple[str, int], int]
    one_version: bool = False
    lie: Lie = shift_values
    n_values: int = _N_VALUES


_PLANS: Final[Mapping[str, _Plan]] = {
    "one version": _Plan({("bob", 1): _DEAD}, one_version=True),
    "one version, secret": _Plan({("bob", 1): 1}, one_version=True, lie=shift_secret),
    "one version, secret, few values": _Plan(
        {("bob", 1): 1}, one_version=True, lie=shift_secret, n_values=_FEW
    ),
    "across versions": _Plan({("bob", 1): _DEAD}),
    "across versions, undone": _Plan({("bob", 1): _DEAD, ("bob", 2): -_DEAD}),
    "across versions, for all": _Plan({(EVERYBODY, 1): _DEAD, (EVERYBODY, 2): -_DEAD}),
}

ATTACK: Final = Attack(
    name="A11",
    title="a sum in which only one model was alive",
    who="DSP and a participant",
    run=_run,
    targets=(
        Target(
            "gated without model rule",
            expected=True,
            because="nobody compares what the updates in a sum were computed on",
            scenario="one version",
        ),
        Target(
            "hybrid without commitment",
            expected=True,
            because="bob takes another sum than everybody else's, and as in gated that "
            "is detected one release late",
            scenario="across versions",
        ),
        Target(
            "gated",
            expected=False,
            because="every upload states the hash of its model, and the KTS signs no "
            "list that disagrees about a version",
            scenario="one version",
        ),
        Target(
            "gated",
            expected=True,
            because="wins once: alice's update builds on another version than bob's, "
            "and the disagreement is detected one release late",
            scenario="across versions",
        ),
        Target(
            "gated",
            expected=True,
            because="wins once: taking the shift back restores bob's weights but not "
            "the hash over all his models so far, and it is detected one release late",
            scenario="across versions, undone",
        ),
        Target(
            "gated",
            expected=True,
            because="not protected: a shift that everybody is shown, and that is taken "
            "back at the next version, contradicts nothing that anybody states",
            scenario="across versions, for all",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the release commits to the sum of words, and bob refuses another",
            scenario="one version",
        ),
        Target(
            "hybrid",
            expected=False,
            because="a shifted secret leaves noise beyond its bound; bob alone says "
            "that the release does not open, and stays at the model before",
            scenario="one version, secret",
        ),
        Target(
            "hybrid",
            expected=False,
            because="even the smallest model is sent in a whole block of words, and "
            "the noise of all of them would have to stay within its bound",
            scenario="one version, secret, few values",
        ),
        Target(
            "hybrid",
            expected=False,
            because="bob stays at the model before rather than take another sum than "
            "the one that the release commits to",
            scenario="across versions",
        ),
        Target(
            "hybrid",
            expected=False,
            because="bob is never shown the shift that would be taken back",
            scenario="across versions, undone",
        ),
        Target(
            "hybrid",
            expected=True,
            because="not protected: the DSP commits to a shifted sum and everybody "
            "opens it; mallory could have uploaded the same shift",
            scenario="across versions, for all",
        ),
    ),
)
