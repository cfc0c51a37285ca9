"""States are saved and loaded; copies that would take keys along are refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from hre_torch.errors import (
    LayoutError,
    OutsideChangeError,
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


def test_a_state_dict_round_trip_keeps_the_containers_shared(wrapped, batches):
    optimizer, model = wrapped
    fit(model, optimizer, batches[:1])
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.state is optimizer.inner.state


def test_training_resumed_from_states_is_the_same_training(
    network, federation, batches
):
    def begin(together):
        model = network()
        inner = torch.optim.Adam(model.parameters(), lr=0.05)
        session = together.join()
        return model, HREOptimizer(inner, session, push_every=3, pull_every=2)

    model, optimizer = begin(federation(network()))
    fit(model, optimizer, batches)

    together = federation(network())
    first, stopped = begin(together)
    fit(first, stopped, batches[:5])
    saved = (first.state_dict(), stopped.state_dict(), together.state())

    second, resumed = begin(type(together).resume(saved[2]))
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    fit(second, resumed, batches[5:])
    assert bits(second) == bits(model)
    assert resumed.progress == optimizer.progress


def test_a_state_goes_through_torch_save_without_pickled_classes(
    wrapped, batches, tmp_path
):
    optimizer, model = wrapped
    fit(model, optimizer, batches[:1])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer.load_state_dict(loaded)


def test_a_state_can_be_loaded_into_the_inner_optimizer_and_back(wrapped, batches):
    optimizer, model = wrapped
    fit(model, optimizer, batches[:2])
    plain = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.1)
    plain.load_state_dict(optimizer.state_dict())
    assert plain.param_groups[0]["momentum"] == 0.9
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.progress.local_steps == 2


def test_the_state_of_another_model_is_refused(wrapped):
    optimizer, _ = wrapped
    state = optimizer.state_dict()
    state["hre_torch"]["local"] = torch.zeros(3)
    with pytest.raises(LayoutError, match="3 values"):
        optimizer.load_state_dict(state)


def test_weights_loaded_into_the_module_before_the_state_are_not_pushed(
    network, session, batches
):
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, session(model), push_every=100)
    fit(model, optimizer, batches[:1])
    expected, state = bits(model), copy.deepcopy(optimizer.state_dict())
    fit(model, optimizer, batches[1:2])
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    optimizer.load_state_dict(state)
    assert bits(model) == expected


def test_a_state_that_is_loaded_where_it_was_saved_hides_no_change(wrapped, batches):
    """What `accelerate` does to every optimizer, to move its state to a device."""
    optimizer, model = wrapped
    fit(model, optimizer, batches[:1])
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(OutsideChangeError):
        fit(model, optimizer, batches[1:2])


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_refused_and_state_dict_is_named(wrapped, copying):
    optimizer, _ = wrapped
    with pytest.raises(UnsupportedError, match=r"state_dict\(\)"):
        copying(optimizer)


def test_neither_repr_nor_state_shows_a_key(network, federation):
    model = network()
    together = federation(model, suite="paper")
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, together.join())
    secret = together._secrets["p0"]
    for shown in (repr(optimizer).encode(), pickle.dumps(optimizer.state_dict())):
        assert secret.signing.secret_bytes() not in shown
        assert secret.material not in shown
