"""A small task, and its two servers as something that can be stopped and started.

`kill_driver.py` uses the same pieces, with a process for each server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import AggregatorError, BehindError, HREError
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.session import Session
from hre_torch.protocol.heads import Records
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    TransformReply,
    TransformRequest,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.wire import Envelope, decode, signed_bytes
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer
from hre_torch.servers.store import Store
from tests.tasks import config_for

KINDS = {
    "admit": Upload,
    "confirm": Receipt,
    "record": Release,
    "finish": TransformReply,
    "deposit": Deposit,
    "approve": ReleaseOrder,
    "transform": TransformRequest,
    "declare": Statement,
    "compare": Records,
    "pass_on": Verdict,
}
"""Steps that take a message, and which."""


@dataclass
class World:
    """A task with everybody's secrets."""

    task: Task
    secrets: dict[str, Secret]
    initial: np.ndarray


def make_world(suite: str = "plain", n_values: int = 62, **options: Any) -> World:
    """Return a task of four participants, with t = 3."""
    chosen = SUITES.get(suite)
    parameters = load_profile("toy-insecure")
    operator = SigningKey.generate()
    names = [f"p{i}" for i in range(4)]
    secrets, roster = chosen.setup(names, parameters, operator=operator.public)
    initial = np.arange(n_values, dtype=np.int64)
    numbers = {"max_additions": 64, "pending_limit": 4, "assumed_colluders": 0}
    config = config_for(
        roster,
        parameters,
        initial,
        suite=suite,
        min_contributions=3,
        combine="sum",
        **(numbers | options),
    )
    task = Task(config, roster, parameters, sign_task(config, operator))
    return World(task, secrets, initial)


class Callee(Protocol):
    """A server that one can ask to make a step, here or in another process."""

    def call(self, step: str, *arguments: Any) -> Any:
        """Make a step; messages are bytes."""


class Server:
    """One role with its store: bytes in, bytes out, every step durable.

    Without a folder it is a server that is never interrupted.
    """

    def __init__(
        self, world: World, role: str, folder: Path | None, keep: int | None = None
    ) -> None:
        self.world = world
        self.keep = keep
        self.role = role
        self.folder = folder
        self.store: Store | None = None
        self.start()

    def start(self) -> None:
        """Start from what the disk has."""
        options: dict[str, Any] = {"keep": self.keep}
        if self.folder is not None:
            self.store = Store.open(self.folder, self.world.task, self.role)
            try:
                options["state"] = self.store.load()
            except BaseException:
                self.store.close()
                raise
            options["journal"] = self.store.journal
        made = {"dsp": DataServiceProvider, "kts": KeyTransformServer}[self.role]
        secret = self.world.secrets[self.role]
        self.server = made(self.world.task, secret, Workers(), **options)

    def stop(self) -> None:
        """Stop in good order."""
        if self.store is not None:
            self.store.close()

    def restart(self) -> None:
        """Stop, and start from the disk."""
        self.stop()
        self.start()

    def call(self, step: str, *arguments: Any) -> Any:
        """Make a step; messages are bytes."""
        if step in KINDS:
            cfg = self.world.task.cfg
            message = decode(arguments[0], KINDS[step], cfg=cfg, max_bytes=1 << 30)
            arguments = (message, *arguments[1:])
        made = getattr(self.server, step)
        if self.store is None:
            answer = made(*arguments)
        else:
            with self.store.transaction():
                answer = made(*arguments)
        if isinstance(answer, list):
            return [each.encode() for each in answer]
        return answer.encode() if isinstance(answer, Envelope) else answer


class Pair:
    """Carries messages between a DSP, a KTS and the participants."""

    def __init__(self, dsp: Callee, kts: Callee) -> None:
        self.dsp = dsp
        self.kts = kts

    def submit(self, upload: bytes) -> bytes:
        """Carry an upload all the way; return the acknowledgement."""
        try:
            return self._submit(upload)
        except BehindError:
            # A DSP that was killed may lack the list that was signed last.
            self.compare()
            raise

    def compare(self) -> None:
        """Have both servers take over what the other has signed."""
        said = self.dsp.call("records")
        self.kts.call("compare", said)
        heard = decode(said, Records, max_bytes=0).header
        self.dsp.call("compare", self.kts.call("records", heard))

    def _submit(self, upload: bytes) -> bytes:
        deposit = self.dsp.call("admit", upload)
        self.reconcile()
        ack = self.dsp.call("confirm", self.kts.call("deposit", deposit))
        self.release()
        return ack

    def reconcile(self) -> None:
        """Confirm again what a DSP that was killed has lost the receipts of.

        The KTS refuses what a later upload has voided meanwhile.
        """
        for pending in self.dsp.call("unconfirmed"):
            try:
                receipt = self.kts.call("deposit", pending)
            except AggregatorError:
                raise
            except HREError as error:
                header = decode(pending, Deposit, max_bytes=1 << 30).header
                signed = signed_bytes(header.upload_header, header.upload_proof)
                digest = hashlib.sha256(signed).digest()
                self.dsp.call("withdraw", digest, error)
            else:
                self.dsp.call("confirm", receipt)

    def release(self) -> None:
        """Carry a release, if one is due."""
        order = self.dsp.call("propose")
        if order is not None:
            self.dsp.call("record", self.kts.call("approve", order))

    def declare(self, statement: bytes) -> bytes:
        """Carry a statement; return where the statements stand."""
        verdict = self.kts.call("declare", statement)
        stated = decode(statement, Statement, max_bytes=0)
        return self.dsp.call("pass_on", verdict, stated.digest)

    def fetch(self, name: str, since: int) -> Iterator[bytes]:
        """Yield the downloads that a participant lacks."""
        while wanted := self.dsp.call("next_range", name, since):
            request = self.dsp.call("begin", name, *wanted)
            yield self.dsp.call("finish", self.kts.call("transform", request))
            since = wanted[1]


class Connection(Aggregator):
    """One participant's connection to a pair of servers."""

    def __init__(self, name: str, pair: Pair) -> None:
        self.name = name
        self.pair = pair

    def submit(self, upload: bytes) -> bytes:
        return self.pair.submit(upload)

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        return self.pair.fetch(self.name, since)

    def declare(self, statement: bytes) -> bytes:
        return self.pair.declare(statement)

    def close(self) -> None:
        pass


def join(world: World, pair: Pair) -> list[Session]:
    """Return the sessions of all participants."""
    return [
        Session(world.task, world.secrets[name], Connection(name, pair), world.initial)
        for name in world.task.roster.names
    ]


def update(session: Session, seed: int) -> np.ndarray:
    """Return an update that depends on the weights, as a gradient would."""
    noise = np.random.default_rng(seed).integers(-1000, 1000, session.weights().size)
    return ((session.weights() * 7 + noise) % 4001 - 2000).astype(np.int32)
