"""Inner steps of every kind: closures, gradient scaling, sparse and bad gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from hre_torch.errors import NonFiniteError, NonFiniteGradientWarning
from hre_torch.optim import FlatView, HREOptimizer


def bits(model):
    return FlatView.of(model).read().tobytes()


def loss_of(model, batch):
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels)


def closure_for(model, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    return closure


@pytest.fixture
def pair(network, session):
    """Make a plain model and optimizer, and the same federated."""

    def make(inner, **options):
        plain, federated = network(), network()
        wrapped = HREOptimizer(
            inner(federated.parameters()), session(federated), **options
        )
        return (plain, inner(plain.parameters())), (federated, wrapped)

    return make


# Closures.


def test_step_returns_the_loss_of_the_closure(pair, batches):
    _, (model, optimizer) = pair(lambda p: torch.optim.SGD(p, lr=0.1))
    expected = loss_of(model, batches[0]).item()
    assert optimizer.step(closure_for(model, optimizer, batches[0])).item() == expected
    assert optimizer.step() is None


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_takes_the_same_steps_as_without_a_federation(pair, batches, line_search):
    (plain, lbfgs), (federated, optimizer) = pair(
        lambda p: torch.optim.LBFGS(p, max_iter=5, line_search_fn=line_search)
    )
    for batch in batches[:4]:
        expected = lbfgs.step(closure_for(plain, lbfgs, batch))
        actual = optimizer.step(closure_for(federated, optimizer, batch))
        assert actual.item() == expected.item()
    assert bits(federated) == bits(plain)
    assert optimizer.session.statistics.pushes == 4


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_lbfgs_pulls_only_between_steps(pair, batches):
    _, (model, optimizer) = pair(lambda p: torch.optim.LBFGS(p, max_iter=5))
    pulls = []
    plain = closure_for(model, optimizer, batches[0])

    def closure():
        pulls.append(optimizer.session.statistics.pulls)
        return plain()

    optimizer.step(closure)
    assert len(pulls) > 1
    assert set(pulls) == {0}


# Gradient scaling.


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_unscaled_before_the_inner_step(pair, batches, fused):
    def inner(parameters):
        return torch.optim.Adam(parameters, lr=0.01, fused=fused)

    (plain, adam), (federated, optimizer) = pair(inner)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for batch in batches:
        adam.zero_grad()
        loss_of(plain, batch).backward()
        adam.step()
        optimizer.zero_grad()
        scaler.scale(loss_of(federated, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        # A power of two scales without rounding, so the gradients are the same ones.
        for mine, theirs in zip(
            federated.parameters(), plain.parameters(), strict=True
        ):
            assert torch.equal(mine.grad, theirs.grad)
    assert bits(federated) == bits(plain)


def test_the_scaler_skips_a_step_that_overflows(pair, batches):
    _, (model, optimizer) = pair(lambda p: torch.optim.Adam(p, fused=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = bits(model)
    scaler.scale(loss_of(model, batches[0]) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert bits(model) == before
    assert optimizer.session.statistics.pushes == 0


# Numbers that are not finite.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_step_on_bad_gradients_is_skipped_and_not_pushed(pair, batches, bad):
    _, (model, optimizer) = pair(lambda p: torch.optim.Adam(p))
    loss_of(model, batches[0]).backward()
    model[0].bias.grad[2] = bad
    before = bits(model)
    with pytest.warns(NonFiniteGradientWarning, match="gradient"):
        optimizer.step()
    assert bits(model) == before
    assert optimizer.state == {}
    assert optimizer.progress.skipped_steps == 1
    assert optimizer.progress.local_steps == 0
    assert optimizer.session.statistics.pushes == 0


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_large_gradients_whose_sum_overflows_are_finite(pair):
    _, (model, optimizer) = pair(lambda p: torch.optim.SGD(p, lr=1e-38))
    model[0].bias.grad = torch.full_like(model[0].bias, 3e38)
    assert torch.isinf(model[0].bias.grad.sum())
    optimizer.step()
    assert optimizer.progress.local_steps == 1


def test_only_the_first_skipped_step_is_warned_about(pair, batches):
    _, (model, optimizer) = pair(lambda p: torch.optim.SGD(p, lr=0.1))
    model[0].bias.grad = torch.full_like(model[0].bias, float("nan"))
    with pytest.warns(NonFiniteGradientWarning):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert optimizer.progress.skipped_steps == 2


def test_a_closure_with_bad_gradients_is_skipped_and_its_loss_returned(pair, batches):
    _, (model, optimizer) = pair(lambda p: torch.optim.Adam(p))
    before = bits(model)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batches[0]) * float("nan")
        loss.backward()
        return loss

    with pytest.warns(NonFiniteGradientWarning):
        assert optimizer.step(closure).isnan()
    assert bits(model) == before
    assert optimizer.state == {}


def test_training_goes_on_after_a_skipped_step(pair, batches):
    (plain, sgd), (federated, optimizer) = pair(lambda p: torch.optim.SGD(p, lr=0.1))
    for model, each in ((plain, sgd), (federated, optimizer)):
        for batch in batches[:2]:
            each.step(closure_for(model, each, batch))
    federated[0].bias.grad = torch.full_like(federated[0].bias, float("nan"))
    with pytest.warns(NonFiniteGradientWarning):
        optimizer.step()
    for model, each in ((plain, sgd), (federated, optimizer)):
        each.step(closure_for(model, each, batches[2]))
    assert bits(federated) == bits(plain)


class Exploding(torch.optim.SGD):
    """Leaves infinite parameters behind although every gradient is finite."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("inf"))
        return loss


@pytest.mark.parametrize("push_every", [1, 3])
def test_parameters_that_explode_are_put_back_and_not_pushed(pair, push_every):
    _, (model, optimizer) = pair(
        lambda p: Exploding(p, lr=0.1), push_every=push_every, pull_every=push_every
    )
    before = bits(model)
    model[2].bias.grad = torch.zeros_like(model[2].bias)
    for _ in range(push_every - 1):
        optimizer.step()
    with pytest.warns(NonFiniteGradientWarning, match="last finite model"):
        optimizer.step()
    assert bits(model) == before
    assert optimizer.progress.skipped_steps == 1
    assert optimizer.session.statistics.pushes == 0


def test_an_exploded_model_recovers_although_no_push_is_due(pair, batches):
    _, (model, optimizer) = pair(
        lambda p: Exploding(p, lr=0.1), push_every=100, pull_every=100
    )
    before = bits(model)
    optimizer.step(closure_for(model, optimizer, batches[0]))
    assert not torch.isfinite(model[0].weight).any()
    with pytest.warns(NonFiniteGradientWarning, match="gradient"):
        optimizer.step(closure_for(model, optimizer, batches[1]))
    assert bits(model) == before


def test_push_and_flush_say_that_the_model_is_not_finite(pair):
    _, (model, optimizer) = pair(lambda p: torch.optim.SGD(p, lr=0.1))
    for exchange in (optimizer.push, optimizer.flush, optimizer.pull):
        with torch.no_grad():
            model[0].bias.fill_(float("nan"))
        with pytest.raises(NonFiniteError, match="6 of 57"):
            exchange()
        assert torch.isfinite(model[0].bias).all()


# Sparse gradients.


def test_sparse_gradients_train_and_are_checked(session):
    torch.manual_seed(0)
    model = nn.Embedding(5, 3, sparse=True)
    inner = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, session(model))
    before = model.weight.detach().clone()
    model(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    changed = (model.weight != before).any(dim=1)
    assert changed.tolist() == [False, True, False, True, False]
    optimizer.zero_grad()
    (model(torch.tensor([2])) * float("inf")).sum().backward()
    with pytest.warns(NonFiniteGradientWarning):
        optimizer.step()
