"""Forward passes on the device, in the precision and the layout that a recipe asks for.

All three are about speed. Images wait in main memory and go to the device batch by
batch. With `precision: bfloat16` torch's autocast computes convolutions and matrix
products from operands of 8 significant bits, while parameters, gradients and all that
is exchanged stay float32. With `memory_format: channels_last` the channels of a pixel
are neighbours in memory, which some kernels read faster; values and their order in the
exchanged vector are the same.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hre_torch.errors import RecipeError
from hre_torch.models import build_model
from hre_torch.recipes import Recipe, TrainSection

__all__ = ["classify", "recipe_model", "restore_layout"]


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
