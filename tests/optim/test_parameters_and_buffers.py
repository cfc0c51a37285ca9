"""Parameters of any dtype and device, tied or frozen; buffers, local or averaged."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from hre_torch.errors import LayoutError, UnstableTrainingWarning
from hre_torch.optim import FlatView, HREOptimizer


def sgd(model, session, *, lr=1.0, **options):
    return HREOptimizer(
        torch.optim.SGD(model.parameters(), lr=lr), session, module=model, **options
    )


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_keep_their_own_dtype(session, dtype):
    model = nn.Linear(3, 2).to(dtype)
    optimizer = sgd(model, session(model), lr=0.5)
    before = model.weight.clone()
    nn.functional.mse_loss(
        model(torch.ones(4, 3, dtype=dtype)), torch.ones(4, 2, dtype=dtype)
    ).backward()
    optimizer.step()
    assert model.weight.dtype is dtype
    assert not torch.equal(model.weight, before)


def test_one_model_may_mix_dtypes(federation):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).to(torch.bfloat16))

    together = federation(make(), 2)
    models = [make(), make()]
    optimizers = [sgd(model, together.join(), lr=0.25) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        hidden = model[0](torch.ones(4, 3))
        model[1](hidden.to(torch.bfloat16)).pow(2).mean().backward()
        optimizer.step()
    optimizers[0].pull()
    assert models[0][1].weight.dtype is torch.bfloat16
    assert np.allclose(
        FlatView.of(models[0]).read(), FlatView.of(models[1]).read(), atol=2.0**-7
    )


def test_small_steps_of_a_bfloat16_model_reach_the_others(federation):
    def make():
        model = nn.Module()
        model.weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        return model

    together = federation(make(), 2, min_contributions=1)
    models = [make(), make()]
    optimizers = [sgd(model, together.join()) for model in models]
    for _ in range(4):
        models[0].weight.grad = torch.tensor([-(2.0**-7)], dtype=torch.bfloat16)
        optimizers[0].step()
    optimizers[1].pull()
    assert models[1].weight.item() == 1.0 + 2.0**-5


def test_tied_parameters_move_together(session):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    joined = session(model)
    optimizer = sgd(model, joined, lr=0.1)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert joined.released().shape == (9,)
    assert model[1].weight is model[0].weight


def test_frozen_parameters_stay_as_they_are(session):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = sgd(model, session(model), lr=0.1)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def normalised(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_local_buffers_are_nobody_elses_business(federation):
    together = federation(normalised(), 2)
    models = [normalised(), normalised()]
    optimizers = [sgd(model, together.join(), lr=0.1) for model in models]
    models[0](torch.randn(8, 3)).sum().backward()
    optimizers[0].step()
    optimizers[1].pull()
    assert models[1][1].running_mean.tolist() == [0.0, 0.0]


def test_mean_buffers_are_averaged_even_where_parameters_are_summed(federation):
    together = federation(
        normalised(), 2, min_contributions=2, combine="sum", buffers="mean"
    )
    models = [normalised(), normalised()]
    optimizers = [sgd(model, together.join(), lr=0.1) for model in models]
    for value, model, optimizer in zip((0.25, 0.75), models, optimizers, strict=True):
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked += 1
        model[1].bias.grad = torch.full((2,), -1.0)
        optimizer.step()
    optimizers[0].pull()
    for model in models:
        assert torch.allclose(model[1].running_mean, torch.full((2,), 0.5), atol=1e-4)
        assert torch.allclose(model[1].bias, torch.full((2,), 0.2), atol=1e-4)
        assert model[1].num_batches_tracked.item() == 1


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_a_release_of_many_uploads_moves_buffers_by_their_mean(federation, combine):
    """As after an outage, when one release holds all that has gathered."""
    together = federation(
        normalised(),
        2,
        min_contributions=2,
        max_per_identity=3,
        combine=combine,
        buffers="mean",
    )
    models = [normalised(), normalised()]
    (ahead, late), names = models, together.names
    first, second = (
        sgd(model, together.join(name), lr=0.1, buffers="mean", pull_every=1000)
        for model, name in zip(models, names, strict=True)
    )
    for value in (0.125, 0.25, 0.375):
        ahead[1].running_mean.fill_(value)
        first.push()
    late[1].running_mean.fill_(0.25)
    second.push()
    for optimizer in (first, second):
        (release,) = optimizer.pull()
        assert len(release.uploads) == 4
    expected = (3 * 0.125 + 0.25) / 4
    for model in models:
        assert (model[1].running_mean - expected).abs().max() < 1e-4


def test_clip_does_not_shrink_buffers(federation):
    model = normalised()
    optimizer = sgd(
        model, federation(model, buffers="mean").join(), clip=1e-3, buffers="mean"
    )
    model[1].running_mean.fill_(0.25)
    optimizer.push()
    assert model[1].running_mean.tolist() == [0.25, 0.25]


@pytest.mark.parametrize(("made", "used"), [("local", "mean"), ("mean", "local")])
def test_federation_and_optimizer_agree_about_buffers(federation, made, used):
    model = normalised()
    with pytest.raises(LayoutError, match="buffers="):
        sgd(model, federation(model, buffers=made).join(), buffers=used)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_model_on_cuda_trains_and_stays_there(network, batches, federation):
    model = network().cuda()
    optimizer = sgd(model, federation(model).join(), lr=0.5)
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs.cuda()), labels.cuda()).backward()
        optimizer.step()
    assert all(parameter.is_cuda for parameter in model.parameters())
    assert optimizer.session.statistics.releases == len(batches)


@pytest.mark.parametrize(("push_every", "warns"), [(2, False), (20, True)])
def test_averaged_buffers_that_would_overshoot_are_warned_of(
    federation, push_every, warns
):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    together = federation(
        model, participants=10, min_contributions=5, combine="mean", buffers="mean"
    )
    seen = (
        pytest.warns(UnstableTrainingWarning, match="running variances")
        if warns
        else nullcontext()
    )
    with seen:
        sgd(model, together.join(), buffers="mean", push_every=push_every)
