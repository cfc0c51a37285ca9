"""Torch while a run goes on: its threads, its kernels, its random generators.

Dropout draws from the generator of the device that the model is on, so a run that goes
on after an interruption needs that one's state besides the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from hre_torch.recipes import TrainSection

__all__ = ["random_state", "restore_random_state", "torch_settings"]


@contextmanager
def torch_settings(
    train: TrainSection, state: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Give torch a recipe's threads, seed and repeatable kernels; then put all back.

    Args:
        train: names threads, seed and device.
        state: of the generators, where a run stopped; seeded anew if left out.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn.deterministic
    with torch.random.fork_rng(devices=_cuda(train)):
        torch.manual_seed(train.seed)
        if state is not None:
            restore_random_state(train, state)
        torch.set_num_threads(train.threads)
        torch.backends.cudnn.deterministic = True
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.deterministic = cudnn


def random_state(train: TrainSection) -> dict[str, Tensor]:
    """Return the states of the generators that training draws from, uint8 each."""
    states = {"cpu": torch.get_rng_state()}
    for device in _cuda(train):
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(train: TrainSection, state: Mapping[str, Tensor]) -> None:
    """Put the generators back to what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    for device in _cuda(train):
        torch.cuda.set_rng_state(state["cuda"], device)


def _cuda(train: TrainSection) -> list[torch.device]:
    return [torch.device(train.device)] if train.device != "cpu" else []
