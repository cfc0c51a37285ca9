"""Small federations for the protocol tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hre_torch.optim.federation import Federation

MakeFederation = Callable[..., Federation]


@pytest.fixture
def make_federation() -> Iterator[MakeFederation]:
    """Return a factory of toy federations over a linear model; all are closed."""
    made: list[Federation] = []

    def make(suite: str = "plain", **options) -> Federation:
        torch.manual_seed(7)
        options.setdefault("participants", 3)
        options.setdefault("min_contributions", 2)
        options.setdefault("profile", "toy-insecure")
        model = torch.nn.Linear(30, 2)
        made.append(Federation.local(model, suite=suite, **options))
        return made[-1]

    yield make
    for federation in made:
        federation.close()


@pytest.fixture
def draw_update() -> Callable[..., np.ndarray]:
    """Return a function that draws seeded quantised updates."""

    def draw(n_values: int, seed: int = 0, limit: int = 32767) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return generator.integers(-limit, limit + 1, n_values).astype(np.int32)

    return draw
