"""A11: the DSP gives bob a dead model, so that a sum of three is alice's update alone.

The DSP multiplies `1 + delta n` into bob's download, with a `delta` whose count is
zero: bob's released weights are shifted, his ReLU never fires, his update is zero
(D. Pasquini, D. Francati, G. Ateniese, "Eluding secure aggregation in federated
learning via model inconsistency", CCS 2022). With an accomplice for the third identity
the released sum is alice's update. In `gated` every upload states the hash of the
weights that it was computed on, and the KTS signs no list that disagrees about one
version. A list may mix versions, though: what the DSP does to a version that alice
never builds on shows in no hash before the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hre_torch.attacks.result import Attack, Outcome, Refusals, Target
from hre_torch.attacks.scene import Scene, seeded
from hre_torch.protocol.aggregator import Aggregator
from hre_torch.protocol.envelope import Envelope, decode, seal
from hre_torch.protocol.messages import (
    Ack,
    Download,
    Release,
    ReleaseOrder,
    Upload,
)
from hre_torch.protocol.participant import LearningParticipant
from hre_torch.protocol.session import Session
from hre_torch.protocol.suites.keys import LaneTask
from hre_torch.protocol.task import Secret, Task

__all__ = ["ATTACK", "Connection", "Learner", "TwoFacedDataService", "View"]

_N_VALUES: Final = 100
_ONE: Final = 1 << 16
"""Weights are integers at this scale."""
_DEAD: Final = -2
"""Shift of the bias in units of 32767 / 65536: about -1, below any bias here."""

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


@dataclass(frozen=True, slots=True)
class View:
    """What the DSP and mallory hold together, and the doors of the KTS they know.

    Attributes:
        task: public.
        dsp: the DSP's keys.
        accomplice: mallory's own end of the protocol.
        deliver: passes an upload on to the KTS, as an honest DSP does.
        transform: makes one release ready for one participant, as an honest DSP does.
        approve: the KTS's answer to a release order.
    """

    task: Task
    dsp: Secret
    accomplice: LearningParticipant
    deliver: Callable[[Envelope[Upload]], Envelope[Ack]]
    transform: Callable[[str, int, int], Envelope[Download]]
    approve: Callable[[Envelope[ReleaseOrder]], Release]


class TwoFacedDataService:
    """The DSP and mallory, at work.

    Args:
        view: what they know and can do.
        shifts: name and version to multiples of `delta`, where a download lies.
    """

    def __init__(self, view: View, shifts: Mapping[tuple[str, int], int]) -> None:
        self.view, self._shifts = view, shifts
        self.version = 0
        self._newest: dict[str, bytes] = {}

    def receive(self, upload: Envelope[Upload]) -> Envelope[Ack]:
        """Pass an upload on, and remember it as its sender's newest."""
        ack = self.view.deliver(upload)
        self._newest[upload.header.sender] = upload.digest
        return ack

    def join_in(self) -> None:
        """Have mallory upload nothing, as the third identity."""
        config = self.view.task.config
        nothing = np.zeros(config.n_values, dtype=np.int32)
        self.receive(self.view.accomplice.seal(nothing, 0, config.initial_digest))

    def release(self) -> npt.NDArray[np.int64] | None:
        """Have everybody's newest upload released; return the sum that mallory opens.

        Raises:
            ReleaseError: the KTS refuses the list.
        """
        order = ReleaseOrder(
            cfg=self.view.task.cfg,
            sender=self.view.dsp.name,
            version=self.version + 1,
            uploads=tuple(self._newest.values()),
        )
        self.view.approve(seal(order, self.view.dsp.signing))
        self.version += 1
        accomplice = self.view.accomplice
        download = self.view.transform(accomplice.name, self.version, self.version)
        return accomplice.open(download.encode()).values

    def download(self, name: str, version: int) -> Envelope[Download]:
        """Return what a participant is shown of a release."""
        download = self.view.transform(name, version, version)
        factor = self._shifts.get((name, version), 0)
        lanes = LaneTask(self.view.task)
        n, n_squared = lanes.parameters.n, lanes.parameters.n_squared
        bias = np.zeros(lanes.n_values, dtype=np.int32)
        nothing = lanes.packing.pack(bias)
        bias[-1] = 32767
        # A difference of two packed vectors counts zero uploads.
        deltas = [
            factor * (m - zero)
            for m, zero in zip(lanes.packing.pack(bias), nothing, strict=True)
        ]
        heads, blocks = lanes.layout.decode(download.parts, what="a download")
        shifted = [
            [x * (1 + m * n) % n_squared for x, m in zip(row, some, strict=True)]
            for row, some in zip(blocks, lanes.layout.split(deltas), strict=True)
        ]
        body = lanes.layout.encode(heads, shifted)
        return seal(download.header, self.view.dsp.signing, body)


class Connection(Aggregator):
    """An honest participant's connection, at whose far end the DSP has two faces."""

    def __init__(self, name: str, dsp: TwoFacedDataService) -> None:
        self._name, self._dsp = name, dsp

    def submit(self, upload: bytes) -> bytes:
        """Hand over an upload."""
        return self._dsp.receive(decode(upload, Upload, max_bytes=len(upload))).encode()

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        """Yield what is new."""
        for version in range(since + 1, self._dsp.version + 1):
            yield self._dsp.download(self._name, version).encode()

    def close(self) -> None:
        """Nothing to give back."""


def _run(target: Target, seed: int, profile: str) -> Outcome:
    initial = np.zeros(_N_VALUES, dtype=np.int64)
    initial[-1] = _ONE // 4
    scene = Scene(target.suite, seed, profile, initial=initial)
    view = View(
        scene.task,
        scene.secrets["dsp"],
        scene.participants["mallory"],
        scene.deliver,
        scene.fetch,
        scene.approve,
    )
    dsp, private = TwoFacedDataService(view, _PLANS[target.scenario]), seeded(seed)
    alice, bob = (
        Learner(
            Session(scene.task, scene.secrets[name], Connection(name, dsp), initial),
            features=private.random(_N_VALUES - 1) / 10,
            label=1.0 + private.random(),
        )
        for name in ("alice", "bob")
    )

    def everybody_uploads() -> Values:
        wanted = alice.step()
        bob.step()
        dsp.join_in()
        return wanted

    everybody_uploads()
    dsp.release()
    bob.session.pull()
    if target.scenario == "one version":
        alice.session.pull()
    refusals, recovered = Refusals(), None
    wanted = everybody_uploads()
    with refusals:
        recovered = dsp.release()
    # And once more, on what this has made of the weights.
    alice.session.pull()
    bob.session.pull()
    everybody_uploads()
    with refusals:
        dsp.release()
    return Outcome.of(recovered, wanted, refusals)


_PLANS: Final[Mapping[str, Mapping[tuple[str, int], int]]] = {
    "one version": {("bob", 1): _DEAD},
    "across versions": {("bob", 1): _DEAD},
    "across versions, undone": {("bob", 1): _DEAD, ("bob", 2): -_DEAD},
    "across versions, for all": {
        (name, version): shift
        for name in ("alice", "bob")
        for version, shift in ((1, _DEAD), (2, -_DEAD))
    },
}
"""Whose download of which version is shifted, and by how much, in each scenario."""

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
            because="not protected: a shift that everybody is shown, and that is taken "
            "back at the next version, contradicts nothing that anybody states",
            scenario="across versions, for all",
        ),
    ),
)
