"""`HREOptimizer` is a true torch optimizer: what worked with the inner one works."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from hre_torch.errors import (
    HREError,
    UnstableTrainingWarning,
    UnsupportedError,
)
from hre_torch.optim import FlatView, HREOptimizer


def fit(model, optimizer, batches):
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def bits(model):
    return FlatView.of(model).read().tobytes()


def test_it_is_a_torch_optimizer(wrapped):
    optimizer, _ = wrapped
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.defaults is optimizer.inner.defaults
    assert repr(optimizer).startswith("HREOptimizer (\nParameter Group 0")


def test_groups_and_state_are_the_inner_optimizers_own(wrapped, batches):
    optimizer, model = wrapped
    fit(model, optimizer, batches[:1])
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.state is optimizer.inner.state
    assert len(optimizer.state) == 4


def test_nothing_else_of_the_inner_optimizer_is_forwarded(network, session):
    model = network()
    inner = torch.optim.Adam(model.parameters(), fused=True)
    optimizer = HREOptimizer(inner, session(model))
    assert inner._step_supports_amp_scaling
    assert not hasattr(optimizer, "_step_supports_amp_scaling")


def test_zero_grad_clears_gradients(wrapped, batches):
    optimizer, model = wrapped
    fit(model, optimizer, batches[:1])
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


# Hooks.


def test_step_hooks_run_around_the_step(wrapped, batches):
    optimizer, model = wrapped
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    fit(model, optimizer, batches[:2])
    assert seen == ["before", "after"] * 2


def test_step_hooks_of_the_inner_optimizer_still_run(wrapped, batches):
    optimizer, model = wrapped
    seen = []
    optimizer.inner.register_step_post_hook(lambda *_: seen.append("inner"))
    fit(model, optimizer, batches[:1])
    assert seen == ["inner"]


def test_state_dict_hooks_run_and_may_change_the_state(wrapped):
    optimizer, _ = wrapped
    seen = []
    optimizer.register_state_dict_pre_hook(seen.append)
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"mine": 1})
    assert optimizer.state_dict()["mine"] == 1
    assert seen == [optimizer]


def test_load_state_dict_hooks_run_and_may_change_the_state(wrapped):
    optimizer, _ = wrapped
    seen = []

    def faster(_, state):
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] = 0.7
        return state

    optimizer.register_load_state_dict_pre_hook(faster)
    optimizer.register_load_state_dict_post_hook(seen.append)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.inner.param_groups[0]["lr"] == 0.7
    assert seen == [optimizer]


# Learning rates.


def test_a_scheduler_reaches_the_inner_optimizer(wrapped, batches):
    optimizer, model = wrapped
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    fit(model, optimizer, batches[:1])
    scheduler.step()
    assert optimizer.inner.param_groups[0]["lr"] == 0.05


def test_a_scheduler_made_before_the_swap_goes_on_working(network, session, batches):
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = StepLR(inner, step_size=1, gamma=0.5)
    optimizer = HREOptimizer(inner, session(model))
    fit(model, optimizer, batches[:1])
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_scheduler_reaches_the_inner_optimizer_after_loading_a_state(wrapped):
    optimizer, _ = wrapped
    scheduler = ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler.step(1.0)
    scheduler.step(2.0)
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(0.01)


def test_one_cycle_moves_momentum_as_well(wrapped, batches):
    optimizer, model = wrapped
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=12)
    fit(model, optimizer, batches[:1])
    scheduler.step()
    assert optimizer.inner.param_groups[0]["momentum"] < 0.95


# Refusals and warnings.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"push_every": 0}, "push_every is 0"),
        ({"pull_every": -1}, "pull_every is -1"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"push_every": 2.5}, "push_every is 2.5"),
        ({"pull_every": True}, "pull_every is True"),
        ({"clip": "1"}, "clip is '1'"),
        ({"clip": True}, "clip is True"),
        ({"clip": 10**400}, "clip is 1000"),
        ({"noise": 4.0}, r"noise is 4.0; give GaussianNoise"),
        ({"rounding": "nearest"}, "rounding is 'nearest'; give a function"),
        ({"staleness_weight": 0.5}, r"staleness_weight is 0\.5; give a function"),
        ({"module": 3}, "module is of type int"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(network, session, options, says):
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedError, match=says):
        HREOptimizer(inner, session(model), **options)


def test_only_a_plain_optimizer_can_be_wrapped(wrapped):
    optimizer, model = wrapped
    with pytest.raises(UnsupportedError, match="not HREOptimizer"):
        HREOptimizer(optimizer, optimizer.session)
    with pytest.raises(UnsupportedError, match="not generator"):
        HREOptimizer(model.parameters(), optimizer.session)


def test_a_federation_is_told_to_be_joined(network, federation):
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedError, match=r"type Federation; give what .*join"):
        HREOptimizer(inner, federation(model))


@pytest.mark.parametrize(
    ("inner", "push_every", "says"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1, "momentum"),
        (lambda p: torch.optim.Adam(p), 1, "momentum"),
        (lambda p: torch.optim.SGD(p, lr=0.1), 5, "push_every=5"),
    ],
    ids=["momentum", "adam", "push_every"],
)
def test_sums_with_momentum_or_long_pushes_are_warned_about(
    network, federation, inner, push_every, says
):
    model = network()
    summed = federation(model, 3, min_contributions=2, combine="sum")
    single = federation(model, 3, min_contributions=1, combine="mean")
    mean = federation(model, 3, min_contributions=2, combine="mean")
    few = federation(model, 6, min_contributions=2, combine="mean")
    for together in (summed, single, few):
        session = together.join()
        with pytest.warns(UnstableTrainingWarning, match=says):
            HREOptimizer(inner(model.parameters()), session, push_every=push_every)
        session.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HREOptimizer(inner(model.parameters()), mean.join(), push_every=push_every)


@pytest.mark.parametrize(("participants", "warned"), [(5, 0), (6, 1), (9, 1)])
def test_a_mean_over_few_of_many_is_warned_about_with_a_better_number(
    network, federation, participants, warned
):
    model = network()
    together = federation(model, participants, min_contributions=2, combine="mean")
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HREOptimizer(inner, together.join(), push_every=2)
    assert len(caught) == warned
    better = {6: "min_contributions near 5", 9: "min_contributions near 8"}
    assert all(better[participants] in str(warning.message) for warning in caught)


def test_every_refusal_is_one_of_ours(network, session):
    model = network()
    with pytest.raises(HREError):
        HREOptimizer(None, session(model))
