"""Whole training steps: what a user waits for, all roles in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer

from benchmarks.meter import Meter
from benchmarks.system import System
from benchmarks.workload import Workload
from hre_torch.app.models import build_model
from hre_torch.errors import ConfigurationError, EncodingError
from hre_torch.optim import HREOptimizer
from hre_torch.optim.federation import Federation
from hre_torch.participant.session import Session
from hre_torch.registry import nearest

__all__ = ["UNPROTECTED", "Course", "TrainingSystem", "parse_course"]

UNPROTECTED: Final = "torch"
"""The system that trains alone: no federation, no roles."""

_BATCHES: Final = {
    "digits_mlp": (32, 1, 8, 8),
    "mnist_mlp": (64, 1, 28, 28),
    "mnist_cnn": (64, 1, 28, 28),
    "cifar_cnn": (64, 3, 32, 32),
    "resnet20": (128, 3, 32, 32),
    "resnet18": (128, 3, 32, 32),
}
"""Shape of a batch for each network; what is in it costs nothing."""
_CLASSES: Final = 10
_LEARNING_RATE: Final = 0.01
_SEED: Final = 1


@dataclass(frozen=True)
class Course:
    """What is trained, and how often it is exchanged.

    Attributes:
        network: name in the registry of models.
        every: local steps from one push, and one pull, to the next.
    """

    network: str
    every: int

    @property
    def phase(self) -> str:
        """`train_step`, with the interval behind it if that is not 1."""
        return "train_step" if self.every == 1 else f"train_step_{self.every}"

    @property
    def values(self) -> int:
        """Number of trainable parameters."""
        model = build_model(self.network, seed=_SEED)
        return sum(parameter.numel() for parameter in model.parameters())


def parse_course(text: str) -> Course:
    """Read `NETWORK` or `NETWORK:EVERY`.

    Raises:
        ConfigurationError: no such network can be trained here, or no such interval.
    """
    network, _, every = text.partition(":")
    if network not in _BATCHES:
        raise ConfigurationError(
            f"network {network!r}: {nearest(network, list(_BATCHES))}"
        )
    if every and (not every.isdecimal() or int(every) < 1):
        raise ConfigurationError(
            f"{text!r}: behind the colon stands how many local steps lie between two "
            "pushes, at least 1"
        )
    return Course(network, int(every or 1))


class TrainingSystem(System):
    """A few participants that train in turn, through `HREOptimizer` and its session.

    A round is as many local steps of every participant as lie between two pushes; each
    then pushes, the last of these pushes is released, and every push is followed by a
    pull that opens one release. The single phase is one local step with its share of
    all of that, whoever does it: participants, DSP, KTS. Its bytes are a participant's.

    Args:
        suite: name in the registry of suites, or `UNPROTECTED`.
        course: what to train.
        workload: profile, cores and participants; its values are not used.
    """

    def __init__(self, suite: str, course: Course, workload: Workload) -> None:
        super().__init__(suite, workload, modulus_bits=None, lanes=None)
        self._course = course
        stream = torch.Generator().manual_seed(_SEED)
        shape = _BATCHES[course.network]
        self._inputs = torch.randn(shape, generator=stream)
        self._labels = torch.randint(_CLASSES, shape[:1], generator=stream)
        self._models = [
            build_model(course.network, seed=_SEED) for _ in range(self.uploads)
        ]
        self._optimizers: list[Optimizer] = [
            SGD(model.parameters(), lr=_LEARNING_RATE) for model in self._models
        ]
        self._sessions: list[Session] = []
        self._federation: Federation | None = None
        if suite != UNPROTECTED:
            self._federate(workload)

    def round(
        self, updates: Sequence[npt.NDArray[np.float64]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Train; the updates are those of the training, the ones given are not used."""
        every, before = self._course.every, self._moved()
        steps = every * self.uploads
        with meter(self._course.phase, times=steps) as reading:
            for model, optimizer in zip(self._models, self._optimizers, strict=True):
                for _ in range(every):
                    self._step(model, optimizer)
        reading.bytes = (self._moved() - before) // steps
        if any(session.statistics.rejected for session in self._sessions):
            raise EncodingError(
                f"suite {self.name!r} rejected a release that should be sound; its "
                "times mean nothing"
            )
        return []

    def close(self) -> None:
        """End the federation."""
        if self._federation is not None:
            self._federation.close()

    def _federate(self, workload: Workload) -> None:
        self._federation = Federation.local(
            self._models[0],
            participants=self.uploads,
            suite=self.name,
            profile=workload.profile,
            min_contributions=self.uploads,
            workers=workload.threads,
        )
        self._sessions = [self._federation.join() for _ in self._models]
        every = self._course.every
        self._optimizers = [
            HREOptimizer(
                inner, session, module=model, push_every=every, pull_every=every
            )
            for model, inner, session in zip(
                self._models, self._optimizers, self._sessions, strict=True
            )
        ]

    def _step(self, model: nn.Module, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        loss: Tensor = functional.cross_entropy(model(self._inputs), self._labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _moved(self) -> int:
        counters = [session.statistics for session in self._sessions]
        return sum(each.bytes_up + each.bytes_down for each in counters)
