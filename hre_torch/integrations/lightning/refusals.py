"""What `HRECallback` refuses before the first step, by name.

A training whose steps go past the wrapped optimizer is stopped. Two ways are seen:
another optimizer that steps federated parameters (at once, before it moves them), and
an epoch in which Lightning counted steps but the wrapped optimizer made none (at the
end of that epoch).
"""

from __future__ import annotations

from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import (
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hre_torch.errors import UnsupportedError
from hre_torch.optim import Buffers, HREOptimizer
from hre_torch.optim.replicas import Follower

__all__ = ["Watch", "only_optimizer", "refuse_callback", "refuse_trainer"]

_PRECISIONS: Final = (Precision, MixedPrecision, HalfPrecision, DoublePrecision)
_STRATEGIES: Final = (SingleDeviceStrategy, DDPStrategy)

# These move parameters, or make trial steps, beside the optimizer. They are known by
# name because not every version of Lightning has all of them.
_CALLBACKS_THAT_MOVE_PARAMETERS: Final = frozenset(
    {
        "BaseFinetuning",
        "BatchSizeFinder",
        "LearningRateFinder",
        "ModelPruning",
        "StochasticWeightAveraging",
        "WeightAveraging",
    }
)


def refuse_callback(validate_on: str, buffers: Buffers | None) -> None:
    """Refuse settings of the callback that do not exist.

    Raises:
        UnsupportedError: names the setting and what it may be.
    """
    for name, value, allowed in (
        ("validate_on", validate_on, ("local", "released")),
        ("buffers", buffers, ("local", "mean", None)),
    ):
        if value not in allowed:
            raise UnsupportedError(
                f"{name} is {value!r}; it must be {' or '.join(map(repr, allowed))}."
            )


def refuse_trainer(trainer: pl.Trainer) -> None:
    """Refuse a trainer whose settings cannot be federated.

    Args:
        trainer: as `Callback.setup` gets it, before there are optimizers.

    Raises:
        UnsupportedError: names the setting, and what to use instead.
    """
    strategy, precision = trainer.strategy, trainer.precision_plugin
    name = type(strategy).__name__
    moving = [
        type(callback).__name__
        for callback in trainer.callbacks
        if any(
            base.__name__ in _CALLBACKS_THAT_MOVE_PARAMETERS
            for base in type(callback).__mro__
        )
    ]
    start = getattr(strategy, "_start_method", "popen")
    rules: list[tuple[bool, str]] = [
        (
            type(strategy) in _STRATEGIES,
            f"{name}; use Trainer(devices=1, strategy='auto') or strategy='ddp'",
        ),
        (
            start == "popen",
            f"DDP by {start}: rank zero would be a child process, and what its session "
            "learned would end with it; use strategy='ddp'",
        ),
        (
            getattr(strategy, "_model_averaging_period", None) is None,
            "DDPStrategy(model_averaging_period=...), which lets processes drift "
            "apart; leave it out and set push_every instead",
        ),
        (
            type(precision) in _PRECISIONS,
            f"precision plugin {type(precision).__name__}; use precision '32-true', "
            "'16-mixed', 'bf16-mixed', '64-true', '16-true' or 'bf16-true'",
        ),
        (
            not moving,
            f"callback {', '.join(moving)}, which moves parameters beside the "
            "optimizer; leave it out",
        ),
    ]
    for holds, what in rules:
        if not holds:
            raise UnsupportedError(f"HRECallback does not support {what}.")


def only_optimizer(trainer: pl.Trainer) -> Optimizer:
    """Return the one optimizer that there is to wrap.

    Raises:
        UnsupportedError: there is not exactly one that can be wrapped.
    """
    # Lightning stands in for a missing optimizer by one without parameters.
    optimizers = [each for each in trainer.optimizers if each.param_groups]
    if len(optimizers) != 1:
        raise UnsupportedError(
            f"HRECallback does not support {len(optimizers)} optimizers; "
            "configure_optimizers must return one. Several sets of parameters that "
            "learn differently can be parameter groups of one optimizer."
        )
    inner: Optimizer = optimizers[0]
    if isinstance(inner, HREOptimizer):
        raise UnsupportedError(
            "HRECallback does not support a configure_optimizers that returns an "
            "HREOptimizer; return the plain optimizer, or leave the callback out."
        )
    if isinstance(inner, LBFGS) and getattr(trainer.precision_plugin, "scaler", None):
        raise UnsupportedError(
            "HRECallback does not support LBFGS with a gradient scaler, which cannot "
            "evaluate its closure; use precision '32-true' or 'bf16-mixed'."
        )
    return inner


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
