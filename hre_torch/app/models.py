"""The networks that recipes name, small enough to be trained under encryption.

Each builder takes keyword options with defaults; `build_model` checks the options and
seeds the initial weights, so that every participant starts from the same ones.

References:
    L. T. Phong, Y. Aono, T. Hayashi, L. Wang, S. Moriai, "Privacy-Preserving Deep
    Learning via Additively Homomorphic Encryption", IEEE TIFS 13(5), 2018, section V
    (the 784-128-64-10 network).
    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
    CVPR 2016, table 1 (18 layers) and section 4.2 (residual networks for CIFAR-10,
    shortcut option A).
    Y. Wu, K. He, "Group Normalization", ECCV 2018 (32 groups).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from hre_torch.errors import HREError, RecipeError
from hre_torch.registry import Registry, nearest

__all__ = [
    "MODELS",
    "ResNet20",
    "build_model",
    "cifar_cnn",
    "digits_mlp",
    "mnist_cnn",
    "mnist_mlp",
    "resnet18",
]

Norm: TypeAlias = Literal["group", "batch"]

_MOST_GROUPS: Final = 32

MODELS: Final[Registry[Callable[..., nn.Module]]] = Registry(
    kind="model",
    group="hre_torch.models",
    builtin={
        "digits_mlp": "hre_torch.app.models:digits_mlp",
        "mnist_mlp": "hre_torch.app.models:mnist_mlp",
        "mnist_cnn": "hre_torch.app.models:mnist_cnn",
        "cifar_cnn": "hre_torch.app.models:cifar_cnn",
        "resnet18": "hre_torch.app.models:resnet18",
        "resnet20": "hre_torch.app.models:ResNet20",
    },
)


def build_model(name: str, seed: int, **options: Any) -> nn.Module:
    """Build a model by name with seeded initial weights.

    Torch's global random state is left as it was.

    Args:
        name: a name in `MODELS`.
        seed: seed of the initial weights; the same seed gives the same weights.
        **options: keyword arguments of the model's builder.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        UnknownPluginError: no model has that name.
        RecipeError: the builder has no such option, or cannot work with its value.

    >>> model = build_model("mnist_mlp", seed=0)
    >>> sum(p.numel() for p in model.parameters())
    109386
    """
    builder = MODELS.get(name)
    allowed = list(inspect.signature(builder).parameters)
    for option in options:
        if option not in allowed:
            raise RecipeError(
                f"model.options.{option}: the model {name!r} has no such option; "
                f"{nearest(option, allowed)}."
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return builder(**options)
        except HREError:
            raise
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as e:
            raise RecipeError(
                f"model.options is {options}, but {name!r} cannot be built so "
                f"({type(e).__name__}: {e}); give values of the kind that its defaults "
                f"are: {_defaults(builder)}"
            ) from e


def _defaults(builder: Callable[..., nn.Module]) -> str:
    parameters = inspect.signature(builder).parameters.values()
    return ", ".join(f"{each.name}={each.default!r}" for each in parameters)


def digits_mlp(hidden: Sequence[int] = (32,), classes: int = 10) -> nn.Module:
    """Perceptron for 8 x 8 grey images: 64-32-10, 2,410 parameters."""
    return _perceptron([64, *hidden, classes])


def mnist_mlp(hidden: Sequence[int] = (128, 64), classes: int = 10) -> nn.Module:
    """Perceptron for 28 x 28 grey images: 784-128-64-10, 109,386 parameters."""
    return _perceptron([784, *hidden, classes])


def mnist_cnn(width: int = 16, classes: int = 10) -> nn.Module:
    """Two 5 x 5 convolutions for 28 x 28 grey images: 28,938 parameters.

    Args:
        width: channels of the first convolution; the second has twice as many.
        classes: number of classes.
    """
    return nn.Sequential(
        *_convolution(1, width, kernel=5),
        nn.MaxPool2d(2),
        *_convolution(width, 2 * width, kernel=5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, classes),
    )


def cifar_cnn(width: int = 32, classes: int = 10) -> nn.Module:
    """Three 3 x 3 convolutions for 32 x 32 colour images: 122,570 parameters.

    It has no normalisation layers and hence no buffers, whose running averages would
    otherwise differ from participant to participant.

    Args:
        width: channels of the first convolution; the others have twice as many.
        classes: number of classes.
    """
    return nn.Sequential(
        *_convolution(3, width, kernel=3),
        nn.MaxPool2d(2),
        *_convolution(width, 2 * width, kernel=3),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 2 * width, kernel=3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    # The last layer's outputs are the logits.
    return nn.Sequential(*layers[:-1])


def _convolution(fan_in: int, fan_out: int, kernel: int) -> list[nn.Module]:
    layer = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2)
    # Without normalisation layers, torch's default gain lets signals fade with depth.
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return [layer, nn.ReLU()]


def _normalisation(norm: str) -> Callable[[int], nn.Module]:
    """Return what makes a normalisation layer for so many channels.

    Raises:
        RecipeError: there is no such normalisation.
    """
    if norm == "batch":
        return nn.BatchNorm2d
    if norm != "group":
        raise RecipeError(
            f"model.options.norm is {norm!r}, but must be 'group', which has no "
            "running averages, or 'batch', whose averages stay local or are federated "
            "by buffers='mean'"
        )
    # A group of a single channel would forget how strong that channel is.
    return lambda channels: nn.GroupNorm(min(_MOST_GROUPS, channels // 2), channels)


def resnet18(norm: Norm = "group", classes: int = 10) -> nn.Module:
    """Torchvision's ResNet-18 for 32 x 32 colour images: 11,173,962 parameters.

    The first convolution is 3 x 3 with stride 1 and no pooling follows it: what was
    made for 224 x 224 images would leave one point of a small one.

    Args:
        norm: `"group"` has no buffers; `"batch"` keeps running averages, which stay
            with their participant unless the task averages buffers.
        classes: number of classes.
    """
    # Importing it takes about a second, which other models need not wait for.
    from torchvision.models import resnet18 as made_for_large_images

    network: nn.Module = made_for_large_images(
        weights=None, num_classes=classes, norm_layer=_normalisation(norm)
    )
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


class _ResidualBlock(nn.Module):
    """Two normalised 3 x 3 convolutions and a shortcut around them."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        stride: int,
        normalised: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = fan_out - fan_in
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.norm1 = normalised(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = normalised(fan_out)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        # Option A: a shortcut without parameters; new channels start as zeros.
        shortcut = x[:, :, :: self.stride, :: self.stride]
        pad = self.new_channels // 2
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, pad, self.new_channels - pad))
        return functional.relu(y + shortcut)


class ResNet20(nn.Module):
    """Residual network of 20 layers for 32 x 32 colour images: 269,722 parameters.

    Args:
        norm: as for `resnet18`.
        classes: number of classes.
    """

    def __init__(self, norm: Norm = "group", classes: int = 10) -> None:
        super().__init__()
        normalised = _normalisation(norm)
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = normalised(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(
            *(
                _ResidualBlock(
                    fan_in, fan_out, 2 if fan_out > fan_in else 1, normalised
                )
                for fan_in, fan_out in pairwise(widths)
            )
        )
        self.linear = nn.Linear(64, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (batch, classes), of images (batch, 3, 32, 32)."""
        y = functional.relu(self.norm(self.conv(x)))
        y = self.blocks(y).mean(dim=(2, 3))
        logits: Tensor = self.linear(y)
        return logits
