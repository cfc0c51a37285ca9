"""A model of 11.2 million values goes through in pieces, at whoever holds it."""

from __future__ import annotations

import collections
import tracemalloc
from collections.abc import Iterator

import pytest
import torch

from hre_torch.crypto.rlwe.parameters import RingParameters
from hre_torch.crypto.rlwe.sampling import shared_expansion
from hre_torch.optim import HREOptimizer
from hre_torch.optim.federation import Federation
from hre_torch.participant.aggregator import AGGREGATORS
from hre_torch.servers.local import LocalAggregator, LocalServers

pytestmark = pytest.mark.slow

N_VALUES = 11_173_962
"""Parameters of ResNet-18."""
MESSAGE = 4 * N_VALUES
PENDING = 25_000_000
"""Octets that one own upload may take until it is released."""
TEMPORARY = 64_000_000
"""Octets that anybody may take besides what is kept and the message in hand."""


class Ruler:
    """The most memory that was taken from one mark to the next, and what stayed."""

    def __init__(self) -> None:
        self.readings: dict[str, list[tuple[int, int]]] = {}
        self._before = 0

    def mark(self, done: str) -> None:
        """End a stretch, name what was done in it, and begin the next one."""
        now, peak = tracemalloc.get_traced_memory()
        if done:
            reading = peak - self._before, now - self._before
            self.readings.setdefault(done, []).append(reading)
        tracemalloc.reset_peak()
        self._before = now


class MeasuredAggregator(LocalAggregator):
    """Marks where work passes from a participant to the servers and back."""

    def __init__(self, name: str, *, ruler: Ruler, servers: LocalServers) -> None:
        super().__init__(name, servers=servers)
        self._ruler = ruler

    def submit(self, upload: bytes) -> bytes:
        self._ruler.mark("push")
        reply = super().submit(upload)
        self._ruler.mark("serve upload")
        return reply

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        for download in super().fetch(since, merge=merge):
            self._ruler.mark("serve download")
            yield download
            self._ruler.mark("pull")


@pytest.fixture(scope="module")
def readings():
    """Push and pull of three participants: what was done to (peak, kept) in octets."""
    AGGREGATORS.register("measured")(MeasuredAggregator)
    ruler, stream = Ruler(), torch.Generator().manual_seed(1)
    models = [torch.nn.ParameterList([torch.zeros(N_VALUES)]) for _ in range(3)]
    with Federation.local(
        models[0], participants=3, profile="toy-insecure", min_contributions=3
    ) as federation:
        optimizers = [
            HREOptimizer(
                torch.optim.SGD(model.parameters(), lr=0.1),
                federation.join(aggregator="measured", ruler=ruler),
                module=model,
            )
            for model in models
        ]
        # The transforms of the public elements are made once and then kept.
        blocks = RingParameters().blocks(N_VALUES)
        collections.deque(shared_expansion(federation.task.cfg).transforms(blocks), 0)
        tracemalloc.start()
        try:
            for model, optimizer in zip(models, optimizers, strict=True):
                with torch.no_grad():
                    model[0].add_(torch.randn(N_VALUES, generator=stream), alpha=0.01)
                ruler.mark("")
                optimizer.push()
            for optimizer in optimizers:
                ruler.mark("")
                optimizer.pull()
        finally:
            tracemalloc.stop()
        first, *others = (s.model_digest for s in federation.sessions.values())
        assert others == [first, first]
        assert federation.sessions["p0"].released().any()
    return ruler.readings


def test_a_push_takes_little_besides_its_message_and_what_it_keeps(readings):
    for peak, kept in readings["push"]:
        assert kept <= MESSAGE + PENDING
        assert peak - kept <= TEMPORARY


def test_the_servers_keep_no_upload_in_memory(readings):
    for peak, kept in readings["serve upload"]:
        assert kept <= 1_000_000
        assert peak <= TEMPORARY


def test_a_download_takes_little_besides_its_message(readings):
    for peak, kept in readings["serve download"]:
        assert kept <= MESSAGE + 1_000_000
        assert peak - kept <= TEMPORARY


def test_a_pull_takes_little_besides_its_message(readings):
    assert len(readings["pull"]) == 3
    assert all(peak <= TEMPORARY for peak, _ in readings["pull"])
