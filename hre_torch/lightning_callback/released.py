"""Validation on released weights: what everybody has, not what one's own steps add."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt

from hre_torch.optim import Buffers, FlatView
from hre_torch.protocol.session import Session

__all__ = ["ReleasedWeights"]


class ReleasedWeights:
    """Exchanges a module's parameters for the released ones, and puts them back.

    Buffers that are not averaged stay this participant's own.

    Args:
        module: the module that is trained.
        buffers: as for `HREOptimizer`.
    """

    def __init__(self, module: pl.LightningModule, buffers: Buffers) -> None:
        self._view = FlatView.of(module, buffers)
        self._kept: npt.NDArray[np.float64] | None = None

    def show(self, session: Session | None) -> None:
        """Put the released weights in; without a session only keep what is there."""
        self._kept = self._view.read()
        if session is not None:
            released = session.released()
            self._view.write(session.fixed_point.to_float(released))

    def put_back(self) -> None:
        """Put back what was there, bit for bit, if anything was exchanged."""
        if self._kept is not None:
            self._view.write(self._kept)
            self._kept = None
