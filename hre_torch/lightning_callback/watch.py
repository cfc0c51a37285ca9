"""Stops a training whose steps go past the wrapped optimizer.

Two ways are seen: another optimizer that steps federated parameters (at once, before it
moves them), and an epoch in which Lightning counted steps but the wrapped optimizer
made none (at the end of that epoch).
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hre_torch.errors import UnsupportedError
from hre_torch.optim import HREOptimizer
from hre_torch.optim.replicas import Follower

__all__ = ["Watch"]


class Watch:
    """Watches every optimizer of the process, until it is closed.

    Args:
        module: whose parameters are federated.
        ours: the optimizer that may step them.
    """

    def __init__(self, module: nn.Module, ours: HREOptimizer | Follower) -> None:
        self._federated = frozenset(map(id, module.parameters()))
        self._ours = ours
        self._trainer_steps = 0
        self._own_steps = 0
        self._handle = register_optimizer_step_pre_hook(self._refuse_stranger)

    def close(self) -> None:
        """Let other optimizers step again."""
        self._handle.remove()

    def require_in_place(self, trainer: pl.Trainer) -> None:
        """Check that the trainer still steps our optimizer.

        Raises:
            UnsupportedError: somebody has exchanged it.
        """
        if not any(each is self._ours for each in trainer.optimizers):
            names = [type(each).__name__ for each in trainer.optimizers]
            raise UnsupportedError(
                f"The trainer's optimizers are now {names}, so nothing would be "
                "federated: a callback or strategy has exchanged the one that "
                "HRECallback wrapped; leave it out."
            )

    def begin_epoch(self, trainer: pl.Trainer) -> None:
        """Note where trainer and optimizer stand."""
        self._trainer_steps = trainer.global_step
        self._own_steps = self._calls()

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Check that the steps of the epoch were ours.

        Raises:
            UnsupportedError: Lightning counted steps, but our optimizer made none.
        """
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        steps = trainer.global_step - self._trainer_steps
        # A gradient scaler may leave out every step of a short epoch.
        if scaler is None and steps > 0 and self._calls() == self._own_steps:
            raise UnsupportedError(
                f"Lightning counted {steps} steps in this epoch, but none of them "
                "went through HREOptimizer, so nothing was federated; call "
                "optimizer.step(closure) in the module's optimizer_step."
            )

    def _calls(self) -> int:
        return self._ours.progress.local_steps + self._ours.progress.skipped_steps

    def _refuse_stranger(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer is self._ours or self._ours.stepping:
            return
        groups = optimizer.param_groups
        if any(id(p) in self._federated for group in groups for p in group["params"]):
            raise UnsupportedError(
                f"A {type(optimizer).__name__} steps the federated parameters past "
                "HREOptimizer, so its updates would reach nobody; step only what "
                "self.optimizers() returns."
            )
