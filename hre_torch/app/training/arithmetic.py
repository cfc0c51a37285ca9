"""Forward passes on the device, in the precision and the layout that a recipe asks for.

All three are about speed. Images wait in main memory and go to the device batch by
batch. With `precision: bfloat16` torch's autocast computes convolutions and matrix
products from operands of 8 significant bits, while parameters, gradients and all that
is exchanged stay float32. With `memory_format: channels_last` the channels of a pixel
are neighbours in memory, which some kernels read faster; values and their order in the
exchanged vector are the same.

**Generators.** Dropout draws from the generator of the device that the model is on, so
a run that goes on after an interruption needs that one's state besides the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hre_torch.app.models import build_model
from hre_torch.app.recipes import Recipe, TrainSection
from hre_torch.errors import RecipeError

__all__ = [
    "classify",
    "random_state",
    "recipe_model",
    "restore_layout",
    "restore_random_state",
    "torch_settings",
]


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


def recipe_model(recipe: Recipe) -> nn.Module:
    """Return a recipe's network with its initial weights, where and as it is trained.

    Only weights of four dimensions have channels to be put last; others stay.

    Raises:
        UnknownPluginError: no model has that name.
        RecipeError: the model has no such option, or torch sees no such device.
    """
    train = recipe.train
    model = build_model(recipe.model.name, train.seed, **recipe.model.options)
    if train.device != "cpu":
        _require_cuda(torch.device(train.device))
    return model.to(train.device).to(memory_format=train.layout)


def _require_cuda(device: torch.device) -> None:
    seen = torch.cuda.device_count()
    if (device.index or 0) >= seen:
        raise RecipeError(
            f"train.device is {str(device)!r}, but torch {torch.__version__} sees "
            f"{seen} CUDA devices here; set train.device to cpu, or to one that "
            "`torch.cuda.device_count()` counts, from cuda:0"
        )


def classify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    train: TrainSection,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, Tensor]:
    """Return logits and cross entropy, computed as a recipe asks.

    Args:
        model: the network, as `recipe_model` laid it out.
        images: float32, shape (n, channels, height, width), on any device.
        labels: int64, shape (n,), on any device.
        train: names device, precision and memory format.
        reduction: of the n losses to one.

    Returns:
        Logits, float32, shape (n, classes), and the loss, a float32 scalar; both on
        the device.
    """
    images = images.to(device=train.device, memory_format=train.layout)
    labels = labels.to(train.device)
    with torch.autocast(
        images.device.type, torch.bfloat16, enabled=train.precision == "bfloat16"
    ):
        # Logarithms and sums of 8 significant bits would lose what tells logits apart.
        logits = model(images).float()
        return logits, functional.cross_entropy(logits, labels, reduction=reduction)


@torch.no_grad()
def restore_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the tensors of a restored optimizer out in memory as their parameters are.

    An optimizer makes them so, but files keep values only; over two layouts a step may
    take another kernel and round otherwise.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                like = torch.empty_like(parameter, dtype=value.dtype)
                state[name] = like.copy_(value)
