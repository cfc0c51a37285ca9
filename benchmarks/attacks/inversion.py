"""From an update back to the picture it was computed on.

For one input `x`, a first linear layer `y = W x + c` has the gradients
`dW_i = d_i x` and `dc_i = d_i`, where `d = dLoss/dy`. Every row of the weight gradient,
over its bias gradient, *is* the input (L. T. Phong et al., IEEE TIFS 13(5), 2018). The
best use of all rows at once is least squares, `x = sum_i dc_i dW_i / sum_i dc_i^2`.
Deeper networks and larger batches take an optimiser in place of a division (L. Zhu,
Z. Liu, S. Han, "Deep Leakage from Gradients", NeurIPS 2019).

A sum of several such updates is a mixture, but no noise: a ReLU neuron that fires for
one picture only still has that picture in its row (F. Boenisch et al., "When the
Curious Abandon Honesty: Federated Learning Is Not Private", EuroS&P 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from benchmarks.attacks.scene import seeded
from hre_torch.app.data.load import ImageSet
from hre_torch.app.models import build_model
from hre_torch.encoding.fixed_point import FixedPoint, NearestRounding
from hre_torch.optim.flatten import FlatView

__all__ = ["Victim", "invert", "rows"]

_LEARNING_RATE: Final = 0.1
_MODELS: Final = {64: "digits_mlp", 784: "mnist_mlp"}


def invert(
    update: npt.NDArray[np.int64], inputs: int, outputs: int
) -> npt.NDArray[np.float64]:
    """Return the one input that explains an update of the first layer best.

    Args:
        update: flat, weights `(outputs, inputs)` first, then biases `(outputs,)`.
        inputs: size of an input.
        outputs: neurons of the first layer.

    Returns:
        The input, shape `(inputs,)`; zeros where no bias has changed.
    """
    weights, biases = _first_layer(update, inputs, outputs)
    energy = float(biases @ biases)
    picture: npt.NDArray[np.float64] = biases @ weights / (energy or 1.0)
    return picture


def rows(
    update: npt.NDArray[np.int64], inputs: int, outputs: int
) -> npt.NDArray[np.float64]:
    """Return what every single neuron shows, shape `(live neurons, inputs)`."""
    weights, biases = _first_layer(update, inputs, outputs)
    live = biases != 0
    shown: npt.NDArray[np.float64] = weights[live] / biases[live, None]
    return shown


def _first_layer(
    update: npt.NDArray[np.int64], inputs: int, outputs: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    size = inputs * outputs
    weights = update[:size].reshape(outputs, inputs).astype(np.float64)
    return weights, update[size : size + outputs].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Victim:
    """A network in training, with pictures to train it on.

    Attributes:
        images: the pictures.
        model: a perceptron.
    """

    images: ImageSet
    model: nn.Module

    @classmethod
    def of(cls, images: ImageSet, seed: int) -> Victim:
        """Return the perceptron of a data set, with seeded initial weights."""
        size = images.pixels[0].numel()
        return cls(images, build_model(_MODELS[size], seed))

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs of the first layer."""
        first = next(m for m in self.model.modules() if isinstance(m, nn.Linear))
        return first.in_features, first.out_features

    def draw(self, count: int, seed: int) -> list[int]:
        """Return the indices of some different pictures."""
        chosen = seeded(seed).choice(len(self.images), count, replace=False)
        return [int(index) for index in chosen]

    def initial(self) -> npt.NDArray[np.int64]:
        """Return the weights as a task starts from them, scaled by 2^16."""
        weights = FlatView.of(self.model, "local").read()
        return np.rint(weights * 2.0**16).astype(np.int64)

    def update(self, index: int) -> npt.NDArray[np.int32]:
        """Return one step of SGD on one picture, as it is uploaded."""
        picture, label = self.images.batch(torch.tensor([index]))
        loss = functional.cross_entropy(self.model(picture), label)
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        step = -_LEARNING_RATE * flat.double().numpy()
        return FixedPoint().quantise(step, NearestRounding())

    def pixels(self, normalised: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return a recovered input as pixels, undoing the normalisation."""
        ends = torch.tensor([0, 1], dtype=torch.uint8).reshape(2, 1, 1)
        black, one = self.images.normalise(ends).double().flatten().tolist()
        levels: npt.NDArray[np.float64] = (normalised - black) / (one - black)
        return np.rint(levels).astype(np.int64)

    def true_pixels(self, index: int) -> npt.NDArray[np.int64]:
        """Return the pixels of a picture, flat."""
        pixels: npt.NDArray[np.uint8] = self.images.pixels[index].flatten().numpy()
        return pixels.astype(np.int64)
