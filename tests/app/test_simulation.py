"""One function, a thread and a session for each participant, one released model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import hre_torch
from hre_torch.errors import TaskError, UnsupportedError
from hre_torch.optim import HREOptimizer

OPTIONS = {"suite": "plain", "profile": "toy-insecure", "min_contributions": 3}
pytestmark = pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")


def data(size=240):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, 5, generator=generator)
    return TensorDataset(inputs, (inputs.sum(dim=1) > 0).long())


def learn(model, optimizer, dataset):
    for _ in range(3):
        for start in range(0, len(dataset), 10):
            items = [dataset[i] for i in range(start, min(start + 10, len(dataset)))]
            inputs = torch.stack([item[0] for item in items])
            labels = torch.stack([item[1] for item in items])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def test_a_simulated_federation_learns_what_all_participants_know():
    shares = []

    def train():
        model, own = nn.Linear(5, 2), hre_torch.share(data())
        shares.append(set(own.indices))
        inner = torch.optim.SGD(model.parameters(), lr=0.5)
        learn(model, HREOptimizer(inner, hre_torch.join(model)), own)

    state = hre_torch.simulate(train, participants=4, **OPTIONS)
    assert set.union(*shares) == set(range(240))
    assert sum(map(len, shares)) == 240
    model = nn.Linear(5, 2)
    model.load_state_dict(state)
    inputs, labels = data().tensors
    assert (model(inputs).argmax(dim=1) == labels).float().mean() > 0.9


def test_every_participant_starts_from_the_weights_of_the_first():
    starts = {}

    def train(number):
        torch.manual_seed(number)
        model = nn.Linear(5, 2)
        inner = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer = HREOptimizer(inner, hre_torch.join(model))
        with optimizer.released():
            starts[number] = model.weight.detach().clone()

    hre_torch.simulate(train, participants=3, **OPTIONS)
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


def test_a_script_may_take_part_in_two_tasks():
    def train():
        generator, critic = nn.Linear(5, 5), nn.Linear(5, 2)
        for model, task in ((generator, "generator"), (critic, "critic")):
            inner = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = HREOptimizer(inner, hre_torch.join(model, task))
            optimizer.zero_grad()
            model(torch.ones(1, 5)).sum().backward()
            optimizer.step()

    states = hre_torch.simulate(train, participants=3, **OPTIONS)
    assert states["generator"]["weight"].shape == (5, 5)
    assert states["critic"]["weight"].shape == (2, 5)


def test_what_a_participant_raises_is_raised_and_the_others_go_on():
    ended = []

    def train(number):
        model = nn.Linear(5, 2)
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        learn(
            model, HREOptimizer(inner, hre_torch.join(model)), hre_torch.share(data())
        )
        if number == 1:
            raise ZeroDivisionError("a bug in somebody's script")
        ended.append(number)

    with pytest.raises(ZeroDivisionError, match="somebody's script"):
        hre_torch.simulate(train, participants=4, timeout=5, **OPTIONS)
    assert sorted(ended) == [0, 2, 3]


def test_if_the_first_ends_without_joining_the_others_are_told():
    def train(number):
        if number:
            hre_torch.join(nn.Linear(5, 2))

    with pytest.raises(TaskError, match=r"participant 0.*ended"):
        hre_torch.simulate(train, participants=3, **OPTIONS)


def test_a_function_that_never_joins_is_told_the_line():
    with pytest.raises(UnsupportedError, match=r"hre_torch\.join\(model\)"):
        hre_torch.simulate(lambda: None, participants=3, **OPTIONS)


def test_outside_of_any_surroundings_join_and_share_say_what_there_is(monkeypatch):
    monkeypatch.delenv("HRE_TORCH_PARTICIPANT", raising=False)
    with pytest.raises(UnsupportedError, match="simulate"):
        hre_torch.join(nn.Linear(1, 1))
    with pytest.raises(UnsupportedError, match="HRE_TORCH_PARTICIPANT"):
        hre_torch.share(data())


def test_environment_variables_say_which_part_is_whose(monkeypatch):
    monkeypatch.setenv("HRE_TORCH_PARTICIPANT", "1")
    monkeypatch.setenv("HRE_TORCH_PARTICIPANTS", "3")
    assert list(hre_torch.share(data(7)).indices) == [1, 4]
    monkeypatch.setenv("HRE_TORCH_PARTICIPANT", "3")
    with pytest.raises(UnsupportedError, match="from 0 to 2"):
        hre_torch.share(data(7))


def test_a_stream_has_no_every_third_item(monkeypatch):
    monkeypatch.setenv("HRE_TORCH_PARTICIPANT", "1")
    monkeypatch.setenv("HRE_TORCH_PARTICIPANTS", "3")

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(UnsupportedError, match="map-style"):
        hre_torch.share(Stream())
