"""A12: a proof whose sides are squared cannot tell `T` from `-T`.

Negated lanes: the release opens to `-(1 + m_j n)`, which a participant that insists on
`1 + m_j n` refuses for ever, and nobody can say whose upload it was. Negated heads:
`(-T')^(a_j + b_j)` has the sign of the exponent's parity, which mallory reads in its
download. In `gated` and `hybrid` the sign is normalised when a release is opened, and
secret exponents are even.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from benchmarks.attacks.algebra import lanes_of, unmask
from benchmarks.attacks.forgery import Draft
from benchmarks.attacks.result import Attack, Outcome, Refusals, Target
from benchmarks.attacks.scene import Scene, make_task
from benchmarks.attacks.weakened import AnyExponentsWeakened
from hre_torch.crypto.dcr import shares
from hre_torch.crypto.dcr.encryption import Ciphertext
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.proofs import verify_blocks
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.suites.blocks import LaneTask, decode_exponents, encode_keys
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope

__all__ = ["ATTACK", "View", "negated_heads", "negated_lanes"]


@dataclass(frozen=True, slots=True)
class View:
    """What mallory knows, and what it can do.

    Attributes:
        task: public.
        mallory: its own keys.
        door: brings in an upload of its own.
        download: fetches the body of the release that holds it.
    """

    task: Task
    mallory: Secret
    door: Callable[[Envelope[Upload]], object]
    download: Callable[[], Parts]


def negated_lanes(view: View, refusals: Refusals) -> None:
    """Bring in an upload of zeros of which every lane is negated."""
    draft = Draft.of_zeros(view.task)
    n_squared = draft.lanes.parameters.n_squared
    draft.tamper(
        lambda block: replace(block, lanes=tuple(n_squared - x for x in block.lanes))
    )
    with refusals:
        view.door(draft.seal(view.mallory))


def negated_heads(view: View, refusals: Refusals) -> tuple[int, ...] | None:
    """Return the parity of the joint exponent of every lane, as the signs show it."""
    draft = Draft.of_zeros(view.task)
    parameters = draft.lanes.parameters
    draft.tamper(lambda block: replace(block, head=parameters.n_squared - block.head))
    with refusals:
        view.door(draft.seal(view.mallory))
        k = decode_exponents(view.mallory.material, parameters).reveal()
        elements = unmask(view.download(), draft.lanes, k)
        minus = [x % parameters.n == parameters.n - 1 for x in elements]
        return tuple(map(int, minus[: len(draft.rows[0])]))
    return None


class OddServersWeakened:
    """Both servers of `gated`, with secret exponents that nobody made even.

    Args:
        scene: whose roster and participants they serve.
    """

    def __init__(self, scene: Scene) -> None:
        parameters, operator = scene.parameters, SigningKey.generate()
        self._a, self._b = _any_exponents(parameters), _any_exponents(parameters)
        keys = [
            x * y % parameters.n_squared
            for x, y in zip(
                self._a.public(parameters), self._b.public(parameters), strict=True
            )
        ]
        roster = msgspec.structs.replace(
            scene.task.roster,
            operator=operator.public,
            joint_key=encode_keys(keys, parameters),
        )
        initial = np.zeros(scene.task.config.n_values, dtype=np.int64)
        self.task = make_task("gated", roster, parameters, operator, 3, initial)
        self._lanes = LaneTask(self.task)
        self._blocks: list[Ciphertext] = []

    @property
    def parities(self) -> tuple[int, ...]:
        """Parity of `a_j + b_j` for every lane in use."""
        pairs = zip(self._a.reveal(), self._b.reveal(), strict=True)
        used = self._lanes.layout.widths[0]
        return tuple(int((a + b) % 2) for a, b in pairs)[:used]

    def admit(self, upload: Envelope[Upload]) -> None:
        """Verify an upload as the DSP does, and keep its blocks.

        Raises:
            ProofError: its proof does not hold.
        """
        lanes = self._lanes
        blocks = lanes.layout.ciphertexts(upload.parts, what="an upload")
        verify_blocks(
            blocks, upload.proof, lanes.joint, lanes.parameters, upload.header_bytes
        )
        self._blocks = blocks

    def download(self) -> Parts:
        """Return the kept blocks under mallory's key, as both servers make them."""
        lanes, parameters = self._lanes, self._lanes.parameters
        keys = lanes.recipient("mallory")
        made = []
        for block in self._blocks:
            own = shares.unmasked(block, self._a, parameters)
            other = shares.strip(block.head, self._b, len(block.lanes), parameters)
            made.append(
                shares.combine(
                    shares.share(own, keys, parameters),
                    shares.share(other, keys, parameters),
                    parameters,
                )
            )
        return lanes.layout.encode([x.head for x in made], [x.lanes for x in made])


def _any_exponents(parameters: Parameters) -> AnyExponentsWeakened:
    bits = parameters.exponent_bits
    drawn = [SYSTEM_ENTROPY.exponent(bits) for _ in range(parameters.lanes)]
    return AnyExponentsWeakened(drawn)


def _run_lanes(target: Target, seed: int, profile: str) -> Outcome:
    scene, refusals = Scene(target.suite, seed, profile), Refusals()
    view = View(scene.task, scene.secrets["mallory"], scene.deliver, tuple)
    negated_lanes(view, refusals)
    updates = scene.contribute("alice", "bob")
    scene.release()
    opened = scene.opened_by("bob", refusals)
    total = np.sum(list(updates.values()), axis=0)
    outcome = Outcome.of(opened, total, refusals)
    return replace(outcome, succeeded=not outcome.succeeded)


def _run_heads(target: Target, seed: int, profile: str) -> Outcome:
    suite, *odd = target.suite.split()
    scene, refusals = Scene(suite, seed, profile), Refusals()
    mallory = scene.secrets["mallory"]
    if not odd:
        scene.contribute("alice", "bob")

        def download() -> Parts:
            scene.release()
            return scene.fetch("mallory").parts

        view = View(scene.task, mallory, scene.deliver, download)
        true = (0,) * lanes_of(scene.task).layout.widths[0]
    else:
        servers = OddServersWeakened(scene)
        while not any(servers.parities):
            servers = OddServersWeakened(scene)
        view = View(servers.task, mallory, servers.admit, servers.download)
        true = servers.parities
    outcome = Outcome.of(negated_heads(view, refusals), true, refusals)
    # That an exponent is even is no secret where all of them are.
    return replace(outcome, succeeded=outcome.succeeded and any(true))


def _run(target: Target, seed: int, profile: str) -> Outcome:
    run = _run_lanes if target.scenario == "negated lanes" else _run_heads
    return run(target, seed, profile)


ATTACK: Final = Attack(
    name="A12",
    title="signs that a squared proof lets pass",
    who="one participant, alone",
    run=_run,
    targets=(
        Target(
            "gated without sign rule",
            expected=True,
            because="nobody can open the release, and nobody can say whose fault it is",
            scenario="negated lanes",
        ),
        Target(
            "gated with odd keys",
            expected=True,
            because="the sign of an opened block is the parity of the joint exponent",
            scenario="negated heads",
        ),
        Target(
            "gated",
            expected=False,
            because="the sign is normalised when a release is opened, so the upload "
            "counts as what it would have been",
            scenario="negated lanes",
        ),
        Target(
            "gated",
            expected=False,
            because="all secret exponents are even, so the sign of a head is lost",
            scenario="negated heads",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the key layer normalises signs as gated does",
            scenario="negated lanes",
        ),
        Target(
            "hybrid",
            expected=False,
            because="the key layer has gated's even exponents",
            scenario="negated heads",
        ),
    ),
)
