"""The task's clip binds every optimizer, and what honest ones push never exceeds it."""

from __future__ import annotations

import pytest
import torch

from hre_torch.encoding.fixed_point import StochasticRounding
from hre_torch.errors import UnsupportedError
from hre_torch.optim import GaussianNoise, HREOptimizer, Polynomial

COMBINE = {
    "sum": {},
    "mean": {},
    "weighted": {"max_samples": 100},
}


# `sum` with momentum diverges: here it may.
@pytest.mark.filterwarnings("ignore::hre_torch.errors.UnstableTrainingWarning")
@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("combine", sorted(COMBINE))
def test_no_release_of_honest_updates_is_rejected_however_long_they_were(
    combine, feedback, federation, network, batches
):
    """With momentum, staleness weights, stochastic rounding and long steps."""
    together = federation(
        network(),
        participants=4,
        min_contributions=2,
        clip=0.01,
        combine=combine,
        **COMBINE[combine],
    )
    models = [network() for _ in together.names]
    optimizers = [
        HREOptimizer(
            torch.optim.SGD(model.parameters(), lr=5.0, momentum=0.9),
            together.join(),
            pull_every=1 + index,
            error_feedback=feedback,
            staleness_weight=Polynomial(),
            rounding=StochasticRounding(index),
            samples=10 * index + 1 if combine == "weighted" else None,
        )
        for index, model in enumerate(models)
    ]
    for inputs, labels in batches:
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    for optimizer in optimizers:
        optimizer.pull()
        assert optimizer.session.statistics.rejected == 0
        assert optimizer.session.version > 5
        assert optimizer.progress.clipped > 8


@pytest.mark.filterwarnings("ignore")
def test_no_release_with_noise_is_rejected(federation, network):
    together = federation(
        network(),
        participants=3,
        min_contributions=3,
        assumed_colluders=1,
        clip=0.01,
        noise_width=700.0,
        combine="mean",
    )
    optimizers = [
        HREOptimizer(
            torch.optim.SGD(network().parameters(), lr=0.0),
            together.join(),
            noise=GaussianNoise(4.0),
        )
        for _ in together.names
    ]
    for _ in range(10):
        for optimizer in optimizers:
            optimizer.push()
        for optimizer in optimizers:
            optimizer.pull()
    assert [each.session.statistics.rejected for each in optimizers] == [0, 0, 0]
    assert optimizers[0].session.version == 10


def test_pushes_that_were_shortened_are_counted(session, network):
    model = network()
    optimizer = HREOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0),
        session(model, clip=0.25),
        outside_changes="push",
    )
    before = optimizer.session.released()
    for step, moved, clipped in ((1.25, 0.25, 1), (0.125, 0.375, 1), (9.0, 0.625, 2)):
        with torch.no_grad():
            model[0].bias[0] += step
        optimizer.push()
        optimizer.pull()
        change = optimizer.session.released() - before
        assert change.sum() / 2**16 == pytest.approx(moved, abs=1e-4)
        assert optimizer.progress.clipped == clipped
        assert optimizer.progress.update_norm == pytest.approx(step, abs=1e-4)


def test_a_larger_clip_than_the_tasks_is_refused_and_a_smaller_one_is_not(
    federation, network
):
    together = federation(network(), participants=3, clip=0.5)

    def inner():
        return torch.optim.SGD(network().parameters(), lr=0.1)

    with pytest.raises(UnsupportedError, match=r"but the task's is 0\.5"):
        HREOptimizer(inner(), together.join("p0"), clip=0.6)
    assert HREOptimizer(inner(), together.join("p1"), clip=0.4)
    assert HREOptimizer(inner(), together.join("p2"))._exchange._clip == 0.5
