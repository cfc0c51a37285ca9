"""How much memory whole processes take that train under encryption.

    python -m benchmarks.footprint --network resnet18 --participants 3

Every row is a process of its own, and its figure the highest resident size (`VmHWM`)
after the same few rounds of one local step, push and pull:

- `torch`: torch, torchvision and as many models, gradients and steps as there are
  participants, and nothing else;
- `federation`: the same, and DSP, KTS and all participants' sessions in that process;
- `torch, alone` and `participant`: the same with one model, where the servers and the
  other participants are in another process;
- `participant, 8 waiting`: the same, and then eight more pushes that nobody releases.

What is *over torch* is the difference to the row with as many models. Batches are small
on purpose: large ones need memory in the backward pass that is free again when an
update is sealed, and would hide what is measured.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.memory import peak_mib
from hre_torch.app.models import build_model
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import AggregatorError
from hre_torch.optim import HREOptimizer
from hre_torch.optim.federation import Federation
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.session import Session
from hre_torch.protocol.roster import Secret

__all__ = ["main"]

_SHAPE: Final = (2, 3, 32, 32)
_ROUNDS: Final = 3
_WAITING: Final = 8
_NEVER: Final = 10**9
_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class _Work:
    network: str
    participants: int
    profile: str

    def models(self, count: int) -> list[nn.Module]:
        return [build_model(self.network, seed=1) for _ in range(count)]

    def federation(self, model: nn.Module) -> Federation:
        return Federation.local(
            model,
            participants=self.participants,
            profile=self.profile,
            min_contributions=self.participants,
        )


def main(arguments: Sequence[str]) -> int:
    """Measure all rows and print them; return the exit status."""
    parser = argparse.ArgumentParser(description="Memory of whole processes.")
    parser.add_argument("--network", default="resnet18", help="for colour images")
    parser.add_argument("--participants", type=int, default=3, help="all of a release")
    parser.add_argument("--profile", default="demo3072", help="modulus profile")
    options = parser.parse_args(arguments)
    work = _Work(options.network, options.participants, options.profile)
    print("| process | peak MiB | over torch |\n| --- | ---: | ---: |")
    base = 0.0
    for label, measure in _ROWS:
        # Only a process that did nothing before can tell its own peak.
        with ProcessPoolExecutor(1, mp_context=_SPAWN) as executor:
            peak = executor.submit(measure, work).result()
        base = peak if label.startswith("torch") else base
        print(f"| {label} | {peak:,.0f} | {peak - base:,.0f} |", flush=True)
    return 0


def _torch(work: _Work) -> float:
    return _torch_alone(work, work.participants)


def _torch_alone(work: _Work, count: int = 1) -> float:
    models = work.models(count)
    optimizers = [_sgd(model) for model in models]
    for _ in range(_ROUNDS):
        for model, optimizer in zip(models, optimizers, strict=True):
            _step(model, optimizer)
    return peak_mib()


def _federation(work: _Work) -> float:
    models = work.models(work.participants)
    with work.federation(models[0]) as federation:
        return _train(models, [federation.join() for _ in models])


def _participant(work: _Work, waiting: int = 0) -> float:
    models = work.models(1)
    here, there = _SPAWN.Pipe()
    servers = _SPAWN.Process(target=_serve, args=(there, work))
    servers.start()
    task, (role, name, signing, material) = here.recv()
    secret = Secret(role, name, task.config.suite, SigningKey(signing), material)
    initial = np.frombuffer(here.recv_bytes(), dtype=np.int64)
    session = Session(task, secret, _Piped(here), initial)
    del initial
    peak = _train(models, [session], waiting)
    here.send_bytes(b"")
    servers.join()
    return peak


_ROWS: Final = (
    ("torch", _torch),
    ("federation", _federation),
    ("torch, alone", _torch_alone),
    ("participant", _participant),
    (f"participant, {_WAITING} waiting", partial(_participant, waiting=_WAITING)),
)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    labels = torch.zeros(_SHAPE[0], dtype=torch.long)
    functional.cross_entropy(model(torch.randn(_SHAPE)), labels).backward()
    optimizer.step()


def _train(
    models: Sequence[nn.Module], sessions: Sequence[Session], waiting: int = 0
) -> float:
    """Play the rounds: all step and push, then all pull; return the peak in MiB.

    Args:
        models: one per session.
        sessions: the participants.
        waiting: how many more pushes follow, of everybody, without a pull.
    """
    optimizers = [
        HREOptimizer(
            _sgd(model), session, module=model, push_every=_NEVER, pull_every=_NEVER
        )
        for model, session in zip(models, sessions, strict=True)
    ]
    for _ in range(_ROUNDS):
        for model, optimizer in zip(models, optimizers, strict=True):
            _step(model, optimizer)
            optimizer.push()
        for optimizer in optimizers:
            optimizer.pull()
    for _ in range(waiting):
        for model, optimizer in zip(models, optimizers, strict=True):
            _step(model, optimizer)
            optimizer.push()
    return peak_mib()


class _Piped(Aggregator):
    """A connection to servers at the far end of a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def submit(self, upload: bytes) -> bytes:
        """Send an upload; return the answer."""
        self._pipe.send_bytes(upload)
        return self._pipe.recv_bytes()

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        """Ask for what is new, and yield it."""
        self._pipe.send_bytes(since.to_bytes(4, "big"))
        while download := self._pipe.recv_bytes():
            yield download

    def declare(self, statement: bytes) -> bytes:
        """Refuse: nothing is spoiled here.

        Raises:
            AggregatorError: always.
        """
        raise AggregatorError("the pipe of this measurement carries no statements")

    def close(self) -> None:
        """End nothing: whoever made the pipe does."""


def _serve(pipe: Connection, work: _Work) -> None:
    """Be DSP, KTS and all participants but the first, who push zeros."""
    with work.federation(work.models(1)[0]) as federation:
        first, *names = federation.names
        kept = federation.state().secrets[first]
        pipe.send((federation.task, (kept.role, first, kept.signing, kept.material)))
        others = [federation.join(name) for name in names]
        zeros = np.zeros(federation.task.config.n_values, dtype=np.int16)
        pipe.send_bytes(others[0].released().data.cast("B"))
        rounds = _ROUNDS
        while message := pipe.recv_bytes():
            if len(message) == 4:
                for download in federation.servers.fetch(
                    first, int.from_bytes(message, "big"), merge=True
                ):
                    pipe.send_bytes(download)
                pipe.send_bytes(b"")
                continue
            answer = federation.servers.submit(first, message)
            rounds -= 1
            for other in others if rounds >= 0 else ():
                other.pull()
                other.push(zeros)
            pipe.send_bytes(answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
