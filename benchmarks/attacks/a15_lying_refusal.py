"""A15: the DSP refuses an upload and releases it all the same; its values come again.

Alice and bob push. The DSP answers "stale", and keeps what they sent. An honest session
then seals the same values again, on newer weights. If both copies of what they pushed
get into a list, once with carol's update and once without, mallory subtracts one sum
from the other and holds carol's exact update; with a copy in every release, whoever
averages the sums holds alice's.

An upload of values that were refused before *voids* the numbers that they had. The KTS
strikes these and logs the upload in one step, so that no list can name both: a list
that was signed before makes it refuse the upload, one that comes after is not signed. A
session that finds a refused number in a list takes it for what it is, released.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene
from benchmarks.attacks.two_faces import (
    Connection,
    TwoFacedDataService,
    View,
    shift_values,
)
from hre_torch.errors import StaleUploadError
from hre_torch.protocol.messages import Ack, Upload
from hre_torch.protocol.wire import Envelope, Refusal, seal

__all__ = ["ATTACK", "RefusingDataService"]

_NAMES: Final = ("alice", "bob", "carol", "dave", "mallory")
_TOLD: Final = ("alice", "bob")
"""Who is told that their first upload is stale."""


class RefusingDataService(TwoFacedDataService):
    """A DSP that keeps every upload, whatever it answers.

    Args:
        view: what it and mallory know and can do.

    Attributes:
        kept: every upload so far, in the order in which they came.
    """

    def __init__(self, view: View) -> None:
        super().__init__(view, shift_values, {})
        self.kept: list[Envelope[Upload]] = []

    def receive(self, upload: Envelope[Upload]) -> Envelope[Ack] | Envelope[Refusal]:
        """Keep an upload; acknowledge it, or refuse the first one of who is lied to."""
        self.kept.append(upload)
        header = upload.header
        if header.sender in _TOLD and header.sequence == 0:
            return self.refuse(upload)
        return self.acknowledge(upload)

    def refuse(self, upload: Envelope[Upload]) -> Envelope[Refusal]:
        """Return a refusal of an upload as an honest DSP would word it."""
        refusal = Refusal(
            cfg=self.view.task.cfg,
            sender=self.view.dsp.name,
            error=StaleUploadError.__name__,
            message="the upload is based on weights that are too old",
            about=hashlib.sha256(upload.encode()).digest(),
            upload=upload.digest,
            version=self.version + 1,
        )
        return seal(refusal, self.view.dsp.signing)

    def deposit(self, number: int, *names: str) -> list[Envelope[Upload]]:
        """Bring those uploads of some participants to the KTS that have a number.

        Raises:
            HREError: the KTS refuses one.
        """
        chosen = [
            upload
            for upload in self.kept
            if upload.header.sender in names and upload.header.sequence == number
        ]
        for upload in chosen:
            self.view.deposit(upload)
        return chosen


def _run(target: Target, seed: int, profile: str) -> Outcome:
    scene = Scene(target.suite, seed, profile, names=_NAMES)
    n_values = scene.task.config.n_values
    initial = np.zeros(n_values, dtype=np.int64)
    dsp = RefusingDataService(
        View(
            scene.task,
            scene.secrets["dsp"],
            scene.arithmetic(),
            scene.participants["mallory"],
            scene.smuggle,
            scene.key_transform.approve,
            scene.key_transform.transform,
            scene.key_transform.declare,
        )
    )
    sessions = {
        name: scene.session(name, Connection(name, dsp), initial)
        for name in _NAMES
        if name != "mallory"
    }
    for session in sessions.values():
        session.push(scene.draw() // 4)
    dsp.join_in()
    # A first release without alice and bob: now they know newer weights.
    dsp.release(dsp.deposit(0, "carol", "dave", "mallory"))
    for name in _TOLD:
        sessions[name].pull()
    wanted = scene.draw() // 4
    sessions["carol"].push(wanted)
    dsp.join_in()
    refusals, sums = Refusals(), []
    lists = [((0, *_TOLD), (1, "carol")), ((1, *_TOLD), (1, "mallory"))]
    if target.scenario:
        with refusals:
            dsp.deposit(0, *_TOLD)
        lists.reverse()
    for listed in lists:
        with refusals:
            chosen = [dsp.deposit(number, *names) for number, *names in listed]
            sums.append(dsp.release([upload for each in chosen for upload in each]))
    recovered = None
    if len(sums) == len(lists):
        first, second = reversed(sums) if target.scenario else sums
        recovered = None if first is None or second is None else first - second
    return Outcome.of(recovered, wanted, refusals)


_STRUCK: Final = "the second copy first"

ATTACK: Final = Attack(
    name="A15",
    title="an update that was refused, released, and sealed again",
    who="DSP and a participant",
    run=_run,
    targets=(
        Target(
            "gated without voids",
            expected=True,
            because="an upload does not say that its values were sealed before",
        ),
        Target(
            "gated with voids ignored",
            expected=True,
            because="the KTS signs a list of the first copy and one of the second",
        ),
        Target(
            "gated with voids ignored",
            expected=True,
            because="the KTS signs a list of the second copy and one of the first",
            scenario=_STRUCK,
        ),
        Target(
            "gated",
            expected=False,
            because="the second copy voids the first, which a list has released: the "
            "KTS does not take it",
        ),
        Target(
            "gated",
            expected=False,
            because="with the second copy, the KTS strikes the first, which can be in "
            "no list any more",
            scenario=_STRUCK,
        ),
        Target(
            "hybrid",
            expected=False,
            because="the second copy voids the first, as in gated",
        ),
        Target(
            "hybrid",
            expected=False,
            because="with the second copy, the KTS strikes the first, as in gated",
            scenario=_STRUCK,
        ),
        Target(
            "paper",
            expected=False,
            because="all suites keep the same ledger; with t = 1, as its authors have "
            "it, no lie is needed (A9)",
        ),
    ),
)
