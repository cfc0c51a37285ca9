"""Values stand where their names say, in whatever order a script lists its tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hre_torch.errors import LayoutError
from hre_torch.optim import FlatView, HREOptimizer


def tower():
    """Four blocks of one shape: exchanged ones would not be noticed by shapes."""
    torch.manual_seed(3)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))


def values(model):
    return FlatView.of(model).read()


def layer_decay(model):
    """Deeper layers first, as layer-wise learning rates are written in timm."""
    return [
        {"params": list(block.parameters()), "lr": 0.1 * 0.5**depth}
        for depth, block in enumerate(reversed(model))
    ]


def weight_decay(model):
    """Biases in a group without decay, as transformers and timm write it."""
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    rest = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    return [{"params": rest, "weight_decay": 0.1}, {"params": biases}]


def query_key_value(model):
    order = [2, 0, 3, 1]
    return [{"params": list(model[number].parameters())} for number in order]


GROUPS = [layer_decay, weight_decay, query_key_value]


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def one_plain_step(groups):
    model = tower()
    step(model, torch.optim.SGD(groups(model), lr=0.1))
    return values(model)


def moved(model, optimizer):
    """Return what one step, released and shown again, made of the model."""
    step(model, optimizer)
    optimizer.pull()
    optimizer.restore()
    return values(model)


@pytest.mark.parametrize("groups", GROUPS)
def test_the_federations_own_model_needs_no_names(groups, session):
    model = tower()
    before = values(model)
    optimizer = HREOptimizer(torch.optim.SGD(groups(model), lr=0.1), session(model))
    assert abs(values(model) - before).max() < 2.0**-16
    assert abs(moved(model, optimizer) - one_plain_step(groups)).max() < 2.0**-14


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("where", ["optimizer", "join"])
def test_a_model_that_is_given_needs_no_names(groups, where, federation):
    model = tower()
    inner = torch.optim.SGD(groups(model), lr=0.1)
    together = federation(tower())
    if where == "join":
        optimizer = HREOptimizer(inner, together.join(module=model))
    else:
        optimizer = HREOptimizer(inner, together.join(), module=model)
    assert abs(moved(model, optimizer) - one_plain_step(groups)).max() < 2.0**-14


def test_torchs_own_names_are_enough(session):
    model = tower()
    groups = [
        {"params": [(f"{number}.{n}", p) for n, p in model[number].named_parameters()]}
        for number in (3, 1, 0, 2)
    ]
    optimizer = HREOptimizer(torch.optim.SGD(groups, lr=0.1), session(tower()))
    expected = one_plain_step(lambda model: model.parameters())
    assert abs(moved(model, optimizer) - expected).max() < 2.0**-14


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_whose_layers_could_be_exchanged_are_refused_with_the_line(
    groups, session
):
    model = tower()
    before = values(model)
    joined = session(tower())
    with pytest.raises(LayoutError, match="module=model"):
        HREOptimizer(torch.optim.SGD(groups(model), lr=0.1), joined)
    assert (values(model) == before).all()


def test_groups_of_different_shapes_in_the_models_order_need_nothing(session):
    def small():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))

    model = small()
    groups = [{"params": list(each.parameters())} for each in model]
    HREOptimizer(torch.optim.SGD(groups, lr=0.1), session(small()))


def test_names_of_wrappers_are_not_compared(session):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.module = inner

        def forward(self, x):
            return self.module(x)

    class Lit(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.model = inner

        def forward(self, x):
            return self.model(x)

    for wrap in (Wrapped, Lit, lambda m: torch.compile(m, backend="eager")):
        model = wrap(tower())
        inner = torch.optim.SGD(layer_decay(next(iter(model.children()))), lr=0.1)
        HREOptimizer(inner, session(tower()), module=model)


def test_modules_in_another_order_are_put_in_the_tasks(session):
    class Forward(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)

    class Backward(nn.Module):
        def __init__(self):
            super().__init__()
            self.second = nn.Linear(4, 4)
            self.first = nn.Linear(4, 4)

    task, here = Forward(), Backward()
    HREOptimizer(torch.optim.SGD(here.parameters(), lr=1.0), session(task), module=here)
    assert abs(here.first.weight - task.first.weight).max() < 2.0**-16
    assert abs(here.second.weight - task.second.weight).max() < 2.0**-16


def test_a_model_with_other_names_is_refused_and_the_names_are_told(session):
    other = nn.Sequential()
    for number in range(4):
        other.add_module(f"layer{number}", nn.Linear(4, 4))
    inner = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(LayoutError, match=r"it has 0\.weight.*here are layer0\.weight"):
        HREOptimizer(inner, session(tower()), module=other)


def test_a_frozen_base_that_differs_is_refused_unless_it_may(federation):
    base = tower()
    base[0].requires_grad_(False)
    same, other = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        other[0].weight[0, 0] += 1.0

    def wrap(model, session):
        trained = [p for p in model.parameters() if p.requires_grad]
        inner = torch.optim.SGD(trained, lr=0.1)
        return HREOptimizer(inner, session, module=model)

    together = federation(base, 2, min_contributions=1)
    wrap(same, together.join())
    with pytest.raises(LayoutError, match="frozen='any'"):
        wrap(other, together.join())
    wrap(other, federation(base, frozen="any").join())
