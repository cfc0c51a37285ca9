"""The weights a participant trains on, in three layers.

    parameters = image(base + local)

`base` is what the session knows: the released weights plus all own updates that are not
yet released, as float64. `local` is what the session does not know yet: the steps since
the last push and what quantisation left over. `image` rounds to each parameter's dtype.

`local` gathers only what training changed. The rounding of `image` is not a change, so
that a bfloat16 model, whose image is coarse, never pushes its own rounding error.

Everything happens piece by piece, so that only `local` itself is as large as the model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from hre_torch.errors import NonFiniteError
from hre_torch.optim.flatten import FlatView

__all__ = ["LocalModel"]

Vector = npt.NDArray[np.float64]


class LocalModel:
    """Keeps the parameters in step with what the session knows and does not know.

    Args:
        view: the parameters, and buffers if they are averaged.
        base: returns a piece of released weights and own pending updates, float64.

    Attributes:
        local: what is not pushed yet, float64, shape `(n_values,)`.
    """

    def __init__(self, view: FlatView, base: Callable[[slice], Vector]) -> None:
        self.view = view
        self.local: Vector = np.zeros(view.n_values)
        self._base = base
        self.show()

    def absorb(self) -> None:
        """Add to `local` what happened to the parameters since the last look.

        To be called before `base` changes.

        Raises:
            NonFiniteError: a parameter is NaN or infinite; the parameters have been put
                back to the last finite model and `local` is as before.
        """
        self._require_finite()
        self._absorb_into(self.local)

    def absorbed(self) -> Vector:
        """Return what `absorb` would make of `local`, and change nothing.

        Looking rounds, so that one look more or less would be another training in its
        last bits. Saving a state must not be one.

        Raises:
            NonFiniteError: as for `absorb`.
        """
        self._require_finite()
        local = np.empty_like(self.local)
        self._absorb_into(local)
        return local

    def show(self) -> None:
        """Put `base + local` into the parameters, after either has changed."""
        for piece in self.view.pieces:
            piece.write(self._base(piece.place) + self.local[piece.place])

    def _absorb_into(self, target: Vector) -> None:
        for piece in self.view.pieces:
            now, base = piece.read(), self._base(piece.place)
            before = self.local[piece.place]
            local = before + (now - piece.image(base + before))
            # Adding may round to a neighbour of the parameter that is there; the
            # parameter wins, so that showing the model again never moves it.
            agrees = piece.image(base + local) == now
            target[piece.place] = np.where(agrees, local, now - base)

    def _require_finite(self) -> None:
        tensors = {id(t): t for piece in self.view.pieces for t, _, _ in piece.parts}
        broken = sum(
            int((~torch.isfinite(tensor)).count_nonzero())
            for tensor in tensors.values()
        )
        if broken:
            self.show()
            raise NonFiniteError(
                f"{broken} of {self.view.n_values} parameters became NaN or infinite; "
                "they were put back to the last finite model. Look at the learning "
                "rate if it happens again."
            )
