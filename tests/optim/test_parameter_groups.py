"""Parameter groups: added in time, in any order, and never lost without a word."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hre_torch.errors import (
    LayoutError,
)
from hre_torch.optim import FlatView, HREOptimizer


def fit(model, optimizer, batches):
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def bits(model):
    return FlatView.of(model).read().tobytes()


def halves(model, **options):
    return torch.optim.SGD(model[0].parameters(), lr=0.1, **options)


def test_a_group_may_be_added_before_the_first_step(network, session, batches):
    model = network()
    optimizer = HREOptimizer(halves(model), session(model))
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
    assert [group["lr"] for group in optimizer.inner.param_groups] == [0.1, 0.5]
    before = bits(model[2])
    fit(model, optimizer, batches[:1])
    assert bits(model[2]) != before


def test_a_group_that_never_comes_is_missed_at_the_first_step(
    network, session, batches
):
    model = network()
    optimizer = HREOptimizer(halves(model), session(model))
    with pytest.raises(LayoutError, match=r"57 trainable values.*36.*module=model"):
        fit(model, optimizer, batches[:1])


def test_a_module_may_be_trained_in_part(network, session, batches):
    model = network()
    optimizer = HREOptimizer(halves(model), session(model), module=model)
    before = bits(model[2])
    fit(model, optimizer, batches[:2])
    assert bits(model[2]) == before
    assert optimizer.session.statistics.pushes == 2


def test_a_group_is_refused_after_the_first_step(network, session, batches):
    model = network()
    optimizer = HREOptimizer(halves(model), session(model), module=model)
    fit(model, optimizer, batches[:1])
    with pytest.raises(LayoutError, match="after the first step"):
        optimizer.add_param_group({"params": model[2].parameters()})
    assert len(optimizer.inner.param_groups) == 1


def test_a_group_that_the_task_lacks_is_refused(wrapped):
    optimizer, _ = wrapped
    with pytest.raises(LayoutError, match="not part of the task"):
        optimizer.add_param_group({"params": nn.Parameter(torch.zeros(2))})
    assert len(optimizer.inner.param_groups) == 1


def test_parameters_in_another_order_need_the_module(network, session):
    model = network()
    joined = session(network())

    def shuffled():
        return torch.optim.SGD(
            [
                {"params": model[2].parameters()},
                {"params": model[0].parameters(), "lr": 0.2},
            ],
            lr=0.1,
        )

    with pytest.raises(LayoutError, match="module=model"):
        HREOptimizer(shuffled(), joined)
    assert HREOptimizer(shuffled(), joined, module=model).param_groups[1]["lr"] == 0.2


def test_a_parameter_that_is_unfrozen_too_late_is_noticed(network, session, batches):
    model = network()
    model[0].requires_grad_(False)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, session(model))
    fit(model, optimizer, batches[:1])
    model[0].requires_grad_(True)
    with pytest.raises(LayoutError, match="frozen when HREOptimizer was made"):
        fit(model, optimizer, batches[:1])


def test_parameters_of_another_module_are_refused(network, session):
    model, other = network(), network()
    inner = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(LayoutError, match="not part of the task"):
        HREOptimizer(inner, session(model), module=model)


def test_named_parameters_are_welcome(network, session, batches):
    model = network()
    inner = torch.optim.SGD(model.named_parameters(), lr=0.1)
    fit(model, HREOptimizer(inner, session(model)), batches[:2])
    assert "param_names" in inner.param_groups[0]
