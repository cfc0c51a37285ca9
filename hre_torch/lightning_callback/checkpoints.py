"""A checkpoint of Lightning against the session that goes on with it.

A checkpoint holds the module's weights, the optimizer's state and what was not yet
pushed. What is released is the federation's, and parameters are made of that. So a
checkpoint that belongs to another task would be loaded without effect; it is refused.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np

from hre_torch.errors import UnsupportedError
from hre_torch.optim import FlatView
from hre_torch.protocol.session import Session

__all__ = ["position", "require_fitting"]


def position(session: Session) -> dict[str, Any]:
    """Return where a session stands, as a checkpoint keeps it; no secret is in it."""
    return {"task": session.task.cfg.hex(), "version": session.version}


def require_fitting(
    found: dict[str, Any] | None,
    session: Session,
    module: pl.LightningModule,
) -> None:
    """Refuse a checkpoint of another task.

    Args:
        found: what `position` gave when it was written; None if it was written without
            the callback.
        session: the session that goes on.
        module: holds the weights of the checkpoint already.

    Raises:
        UnsupportedError: the checkpoint is of another task, and its weights are not
            those of the session.
    """
    same = found is not None and found["task"] == session.task.cfg.hex()
    if not same and not _agree(session, module):
        raise UnsupportedError(
            "ckpt_path is a checkpoint of another task, and its weights are not those "
            "of this session, which would replace them. Go on with the saved "
            "federation (Federation.resume), or make a new one from the checkpoint: "
            "Federation.local(Module.load_from_checkpoint(path), ...)."
        )


def _agree(session: Session, module: pl.LightningModule) -> bool:
    """Whether a module's weights are those of a session, up to the task's rounding."""
    weights = session.fixed_point.to_float(session.weights())
    averaged = session.task.config.n_buffers > 0
    here = FlatView.of(module, "mean" if averaged else "local").read()
    if here.shape != weights.shape:
        return False
    close = np.abs(here - weights) <= 1.0 / session.fixed_point.scale
    return bool(close.all())
