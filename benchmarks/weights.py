"""Both ends of every exchange: a model's floats, and integers at the task's scale.

Conversions go piece by piece, as `HREOptimizer` does them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.optim.flatten import FlatView
from hre_torch.optim.local_model import LocalModel

__all__ = ["Weights"]


class Weights:
    """Released integers, and the float32 parameters that show them.

    Args:
        n_values: length of both.
        fixed_point: scale of the integers.

    Attributes:
        released: int64 at scale 2^f, shape `(n_values,)`.
    """

    def __init__(self, n_values: int, fixed_point: FixedPoint) -> None:
        self.released: npt.NDArray[np.int64] = np.zeros(n_values, dtype=np.int64)
        self._fixed_point = fixed_point
        self._view = FlatView([torch.zeros(n_values)])
        self._model = LocalModel(self._view, self._base)

    def quantise(
        self, update: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.signedinteger]:
        """Return an update as a suite takes it.

        Args:
            update: float64, shape `(n_values,)`.
        """
        values = np.empty(update.size, dtype=self._fixed_point.dtype)
        for piece in self._view.pieces:
            values[piece.place] = self._fixed_point.quantise(update[piece.place])
        return values

    def apply(self, opened: npt.NDArray[np.signedinteger]) -> None:
        """Add an opened sum and load the result into the parameters.

        Args:
            opened: integers at scale 2^f, shape `(n_values,)`.
        """
        self.released += opened
        self._model.show()

    def _base(self, place: slice) -> npt.NDArray[np.float64]:
        return self._fixed_point.to_float(self.released[place])
