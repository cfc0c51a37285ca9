"""Federated averaging by numbers of samples, as an optimizer's user meets it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hre_torch.errors import UnsupportedError
from hre_torch.optim import FlatView, GaussianNoise, HREOptimizer

SCALE = 2.0**16
WEIGHTED = {"combine": "weighted", "max_samples": 300, "min_contributions": 3}


def wrap(model, session, samples, *, lr=0.5, momentum=0.0, **options):
    inner = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return HREOptimizer(inner, session, module=model, samples=samples, **options)


def train(model, optimizer, batches):
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def values(model):
    return FlatView.of(model).read()


def test_a_release_is_the_average_of_local_models_by_samples(
    network, batches, federation
):
    """McMahan et al. (2017), algorithm 1: w <- sum n_k / n w_k after local steps."""
    together = federation(network(), 3, **WEIGHTED)
    samples, models = [300, 120, 7], [network() for _ in range(3)]
    alone = [network() for _ in range(3)]
    optimizers = [
        wrap(model, together.join(), count, lr=0.2, push_every=4, pull_every=100)
        for model, count in zip(models, samples, strict=True)
    ]
    for number in range(3):
        share = batches[4 * number : 4 * number + 4]
        train(models[number], optimizers[number], share)
        inner = torch.optim.SGD(alone[number].parameters(), lr=0.2)
        train(alone[number], inner, share)
    expected = np.average([values(m) for m in alone], axis=0, weights=samples)
    released = []
    for optimizer in optimizers:
        optimizer.pull()
        released.append(optimizer.session.released() / SCALE)
    # Each upload is rounded by half a unit of M / w, and so is the quotient.
    step = (3 * 0.5 * 300 / sum(samples) + 0.5) / SCALE
    assert np.abs(released[0] - expected).max() <= step
    assert all((each == released[0]).all() for each in released)


def test_a_push_moves_no_parameter_and_leaves_the_rest_for_the_next(session, network):
    model = network()
    joined = session(model, combine="weighted", max_samples=300)
    optimizer = wrap(model, joined, 7, push_every=100, outside_changes="push")
    before = values(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1234567
    moved = values(model)
    for _ in range(4):
        optimizer.push()
        assert np.abs(values(model) - moved).max() < 1e-7
    optimizer.pull()
    sent = joined.released() / SCALE - before
    # One unit of an upload is 300 / 7 units of its owner's.
    assert np.abs(sent - 0.1234567).max() <= (300 / 7 / 2 + 4) / SCALE


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_what_exceeds_the_range_of_a_weight_arrives_with_later_pushes(session):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(1))
    joined = session(model, combine="weighted", max_samples=300)
    optimizer = wrap(model, joined, 100, push_every=100, outside_changes="push")
    with torch.no_grad():
        model.weight += 1.25
    moved = []
    for _ in range(3):
        optimizer.push()
        optimizer.pull()
        assert model.weight.item() == pytest.approx(1.25)
        moved.append(joined.released().item() / SCALE)
    assert moved == pytest.approx([0.5, 1.0, 1.25], abs=5 / SCALE)


def test_a_lone_participant_trains_as_without_a_federation(network, batches, session):
    """The average of one is itself, whatever its weight is; here it is M."""
    plain, federated = network(), network()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9), batches)
    joined = session(federated, combine="weighted", max_samples=40)
    optimizer = wrap(federated, joined, 40, lr=0.1, momentum=0.9)
    train(federated, optimizer, batches)
    assert values(federated).tobytes() == values(plain).tobytes()


def test_buffers_are_averaged_with_the_same_weights(federation):
    def normalised():
        return nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 1))

    torch.manual_seed(0)
    options = WEIGHTED | {"min_contributions": 2, "buffers": "mean"}
    together = federation(normalised(), 2, **options)
    models = [normalised(), normalised()]
    for model, count, mean in zip(models, (100, 300), (0.2, 0.4), strict=True):
        optimizer = wrap(model, together.join(), count, buffers="mean", push_every=9)
        model[0].running_mean.fill_(mean)
        optimizer.push()
    optimizer.pull()
    shared = (100 * 0.2 + 300 * 0.4) / 400
    assert models[1][0].running_mean.numpy() == pytest.approx(shared, abs=2 / SCALE)


def test_saved_and_loaded_training_goes_on_with_its_weight(network, batches, session):
    model = network()
    joined = session(model, combine="weighted", max_samples=300)
    optimizer = wrap(model, joined, 7, push_every=3)
    train(model, optimizer, batches[:4])
    state, expected = optimizer.state_dict(), values(model)
    again = network()
    resumed = wrap(again, joined, 7, push_every=3)
    resumed.load_state_dict(state)
    assert np.abs(values(again) - expected).max() < 1e-7


def test_samples_are_asked_for_by_a_weighted_task_only(network, federation):
    weighted = federation(network(), 3, **WEIGHTED).join()
    mean = federation(network(), 3, combine="mean").join()
    with pytest.raises(UnsupportedError, match=r"samples=len\(dataset\)"):
        wrap(network(), weighted, None)
    with pytest.raises(UnsupportedError, match="leave samples out"):
        wrap(network(), mean, 20)


def test_noise_is_refused_as_it_would_not_cover_the_weights(network, federation):
    session = federation(network(), 3, clip=1.0, **WEIGHTED).join()
    with pytest.raises(UnsupportedError, match="cover the weights"):
        wrap(network(), session, 20, noise=GaussianNoise(1.0))
