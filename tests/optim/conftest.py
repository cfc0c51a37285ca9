"""Federations small enough to be made for every test, and a task to train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hre_torch.optim import HREOptimizer
from hre_torch.optim.federation import Federation
from hre_torch.participant.session import Session

FederationFactory = Callable[..., Federation]


@pytest.fixture
def session(federation: FederationFactory) -> Callable[..., Session]:
    """Make the session of a lone participant, whose every push is released at once."""

    def make(model: nn.Module, **options: Any) -> Session:
        return federation(model, **options).join()

    return make


@pytest.fixture
def network() -> Callable[[], nn.Module]:
    """Make the same small network every time, with weights on the grid of 2^-16.

    A task starts from quantised weights; a network that is on their grid already can be
    compared bit for bit with one that no federation has touched.
    """

    def make() -> nn.Module:
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.round(parameter * 2**16) / 2**16)
        return model

    return make


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Twelve small batches of one classification task."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(12, 8, 5, generator=generator)
    labels = (inputs.sum(dim=2) > 0).long() + (inputs[..., 0] > 1).long()
    return list(zip(inputs, labels, strict=True))


@pytest.fixture
def wrapped(
    network: Callable[[], nn.Module], session: Callable[..., Session]
) -> tuple[HREOptimizer, nn.Module]:
    """An `HREOptimizer` around SGD with momentum, and its model."""
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return HREOptimizer(inner, session(model)), model
