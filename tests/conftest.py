"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from torch import nn

    from hre_torch import Federation

# Generators of known-answer vectors are programs, not modules to import.
collect_ignore = ["vectors"]

# Workers share the cores already: threads of torch in each would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Background jobs of a shell ignore interrupts, and so would all that tests start there.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two busy cores make any deadline a coin toss. `--hypothesis-profile=thorough` looks
# longer.
settings.register_profile("hre_torch", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=400)
settings.load_profile("hre_torch")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share what the gate runs among the cores, at most four of them.

    A part of it stays in one process, where a debugger works and workers need not
    start; so do slow tests, some of which measure.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    cores = os.cpu_count() or 1
    shared = config.option.markexpr in ("not slow and not gate", "gate")
    return min(cores, 4) if whole and shared else 0


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real MNIST and CIFAR-10; tests that need it are marked `data`."""
    folder = os.environ.get("HRE_TORCH_DATA")
    if not folder:
        pytest.skip("HRE_TORCH_DATA is not set")
    return Path(folder)


@pytest.fixture
def federation() -> Iterator[Callable[..., Federation]]:
    """Make federations of suite `plain`; options go to `Federation.local`."""
    from hre_torch.optim.federation import Federation

    made: list[Federation] = []

    def make(model: nn.Module, participants: int = 1, **options: Any) -> Federation:
        options = {"suite": "plain", "profile": "toy-insecure"} | options
        made.append(Federation.local(model, participants=participants, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


TOY_RECIPE = """
suite: paper
profile: toy-insecure
participants: 3
min_contributions: 2
combine: mean
workers: 1
model:
  name: digits_mlp
  options: {hidden: [8]}
data:
  name: digits
  train_size: 200
train:
  epochs: 2
  batch_size: 16
  lr: 0.2
  push_every: 2
  pull_every: 3
  speeds: [1.0, 1.3, 0.8]
"""


@pytest.fixture
def toy_recipe(tmp_path) -> Callable[..., Path]:
    """Write a recipe that runs for a second, changed by texts such as "train.lr=1"."""

    def write(*changes: str, name: str = "toy") -> Path:
        from omegaconf import OmegaConf

        content = OmegaConf.create(TOY_RECIPE)
        content.merge_with(OmegaConf.from_dotlist(list(changes)))
        path = tmp_path / f"{name}.yaml"
        path.write_text(OmegaConf.to_yaml(content))
        return path

    return write
