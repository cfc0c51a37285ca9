"""A17: operator and DSP have the KTS serve old keys under a weaker suite.

Keys of all suites with lanes are exponents, and a card of suite `paper` proves nothing.
So whoever signs rosters signs one of suite `paper` with the KTS's card of `hybrid` in
it. The KTS of `paper` raises whatever the DSP sends it to its exponents, and the DSP
sends the heads of alice's *old* upload: mallory opens it, years later if need be.
Therefore keys serve one suite only. It stands on every card, in every proof and in the
key file, and every role compares it with the roster's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

import msgspec
import numpy as np

from benchmarks.attacks.algebra import blocks_of, divide, lanes_of, look, power, unmask
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import CAST, Scene, make_task, transform_request
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.encoding.packing import Packing
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.suites.blocks import LaneTask, decode_exponents
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer

__all__ = ["ATTACK", "View", "suite_downgrade"]

_WEAKER: Final = "paper"


@dataclass(frozen=True, slots=True)
class View:
    """What operator, DSP and mallory hold together, and the door of the KTS they know.

    Attributes:
        task: public; of the suite that protects alice.
        dsp: the DSP's keys.
        mallory: the accomplice's keys.
        upload: body of alice's upload to that task.
        serve: has the KTS serve another task, whose roster it is handed.
    """

    task: Task
    dsp: Secret
    mallory: Secret
    upload: Parts
    serve: Callable[[Task], KeyTransformServer]


def suite_downgrade(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return alice's update; None if the KTS does not serve the roster."""
    lanes = lanes_of(view.task)
    weaker = _weaker_task(view)
    dsp, mallory = _for_paper(view.dsp), _for_paper(view.mallory)
    with refusals:
        kts = view.serve(weaker)
        _release_something(weaker, dsp, mallory, kts)
        request = transform_request(weaker, dsp, mallory.name, _old_upload(view))
        reply = kts.transform(request)
        exponents = decode_exponents(mallory.material, weaker.parameters).reveal()
        opened = unmask(reply.parts, LaneTask(weaker), exponents)
        return look(opened, lanes, 1, view.upload)
    return None


def _weaker_task(view: View) -> Task:
    """Return a task of mallory alone, with as many plaintexts as alice's upload."""
    old, parameters = view.task.roster, view.task.parameters
    cards = [
        msgspec.structs.replace(card, suite=_WEAKER, proof=b"")
        for card in (old.data_service, old.key_transform, old.card(view.mallory.name))
    ]
    operator = SigningKey.generate()
    roster = msgspec.structs.replace(
        old,
        operator=operator.public,
        data_service=cards[0],
        key_transform=cards[1],
        participants=(cards[2],),
        joint_key=SUITES.get(_WEAKER).joint_key(
            _for_paper(view.dsp), cards[0], cards[1], parameters
        ),
    )
    n_values = next(_lengths(lanes_of(view.task)))
    initial = np.zeros(n_values, dtype=np.int64)
    return make_task(_WEAKER, roster, parameters, operator, 1, initial)


def _lengths(lanes: LaneTask) -> Iterator[int]:
    """Yield lengths of vectors that take the plaintexts of `lanes` in suite `paper`."""
    packing = Packing(
        modulus=int(lanes.parameters.n),
        value_bits=16,
        max_additions=SUITES.get(_WEAKER).default_max_additions,
    )
    for n_values in count(1):
        if packing.plaintexts(n_values) == lanes.layout.plaintexts:
            yield n_values


def _release_something(
    task: Task, dsp: Secret, mallory: Secret, kts: KeyTransformServer
) -> None:
    """Go by the rules until the KTS has a release that it transforms."""
    service = DataServiceProvider(task, dsp, Workers())
    zeros = np.zeros(task.config.n_values, dtype=np.int32)
    sender = LearningParticipant(task, mallory, Workers())
    upload = sender.seal(zeros, 0, state_digest(zeros.astype(np.int64)))
    service.confirm(kts.deposit(service.admit(upload)))
    order = service.propose()
    if order is not None:
        service.record(kts.approve(order))


def _old_upload(view: View) -> Parts:
    """Return a first phase whose answer is alice's blocks under mallory's key.

    `X_j = T_j T'^-a_j pk_j^rho`, `Y_j = T'`, `Z = g^rho`: the KTS divides by `Y_j^b_j`.
    """
    lanes, parameters = lanes_of(view.task), view.task.parameters
    heads, blocks = blocks_of(view.upload, lanes)
    rho = SYSTEM_ENTROPY.exponent(parameters.exponent_bits)
    masks = [power(key, rho, parameters) for key in lanes.recipient(view.mallory.name)]
    a = decode_exponents(view.dsp.material, parameters).reveal()
    first = [
        [
            divide(lane * mask, power(head, x, parameters), parameters)
            for lane, x, mask in zip(block, a, masks, strict=False)
        ]
        for head, block in zip(heads, blocks, strict=True)
    ]
    chosen = [[head] * len(block) for head, block in zip(heads, blocks, strict=True)]
    blinds = [power(parameters.g, rho, parameters)] * len(heads)
    layout = lanes.layout
    return (*layout.encode(blinds, first), layout.encode([], chosen)[1])


def _for_paper(secret: Secret) -> Secret:
    """Return keys with another label: what nobody but their owner can do."""
    return Secret(secret.role, secret.name, _WEAKER, secret.signing, secret.material)


def _run(target: Target, seed: int, profile: str) -> Outcome:
    name, *compares_nothing = target.suite.split()
    scene, refusals = Scene(name, seed, profile), Refusals()
    updates = scene.contribute(*CAST)
    secret = scene.secrets["kts"]

    def serve(task: Task) -> KeyTransformServer:
        used = _for_paper(secret) if compares_nothing else secret
        return KeyTransformServer(task, used, Workers())

    view = View(
        scene.task,
        scene.secrets["dsp"],
        scene.secrets["mallory"],
        scene.heard("alice->dsp", Upload)[0].parts,
        serve,
    )
    return Outcome.of(suite_downgrade(view, refusals), updates["alice"], refusals)


ATTACK: Final = Attack(
    name="A17",
    title="an old update opened with the same keys under a weaker suite",
    who="operator, DSP and a participant",
    run=_run,
    targets=(
        Target(
            "gated without suite rule",
            expected=True,
            because="the KTS serves the roster of suite paper that holds its card",
        ),
        Target(
            "gated",
            expected=False,
            because="the KTS's keys are for suite gated and serve no other roster",
        ),
        Target(
            "hybrid without suite rule",
            expected=True,
            because="the KTS serves the roster of suite paper that holds its card, and "
            "the key layer opens the words",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the KTS's keys are for suite hybrid and serve no other roster",
        ),
    ),
)
