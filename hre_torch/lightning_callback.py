"""`HRECallback`: federates a Lightning module that does not know of it.

All the work is done by `HREOptimizer`. The callback puts it where Lightning's own
optimizer was, refuses before the first step what it cannot federate, and stops training
if any other optimizer moves the parameters.
"""

from __future__ import annotations

import warnings
from typing import Any, Final, NoReturn

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import (
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
)
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from hre_torch.encoding.fixed_point import Rounding
from hre_torch.errors import BackPressure, HREWarning, NonFiniteError, UnsupportedError
from hre_torch.optim import Buffers, HREOptimizer, StalenessWeight
from hre_torch.protocol.session import Session

__all__ = ["HRECallback"]

_PRECISIONS: Final = (Precision, MixedPrecision, HalfPrecision, DoublePrecision)

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


class HRECallback(pl.Callback):
    """Makes `trainer.fit` federated; the module stays as it is.

        trainer = Trainer(callbacks=[HRECallback(federation.join("a"), push_every=4)])

    Works with automatic optimization, one optimizer and one device: schedulers,
    gradient accumulation, the Trainer's clipping and its precisions go on as before.
    Anything else is refused by name before the first step.

    Args:
        session: what `Federation.join` or `connect` returned.
        push_every: optimizer steps from push to push, >= 1.
        pull_every: optimizer steps from pull to pull, >= 1.
        clip: L2 bound of an update's parameters; the task's bound if left out.
        error_feedback: keep what quantisation left over; if not, it is dropped.
        buffers: `"mean"` averages the module's floating-point buffers, `"local"` not.
        rounding: rule of the quantiser; to the nearest if left out.
        staleness_weight: weight of an update of a given staleness, in (0, 1].

    Attributes:
        optimizer: the `HREOptimizer` that steps, from the start of the fit on.
    """

    def __init__(
        self,
        session: Session,
        *,
        push_every: int = 1,
        pull_every: int = 1,
        clip: float | None = None,
        error_feedback: bool = True,
        buffers: Buffers = "local",
        rounding: Rounding | None = None,
        staleness_weight: StalenessWeight | None = None,
    ) -> None:
        self.session = session
        self.optimizer: HREOptimizer | None = None
        self._settings: dict[str, Any] = {
            "push_every": push_every,
            "pull_every": pull_every,
            "clip": clip,
            "error_feedback": error_feedback,
            "buffers": buffers,
            "rounding": rounding,
            "staleness_weight": staleness_weight,
        }
        self._watch: RemovableHandle | None = None

    def setup(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str
    ) -> None:
        """Refuse what cannot be federated; called before there is an optimizer.

        Raises:
            UnsupportedError: names the setting, and what to use instead.
        """
        if stage == "fit":
            _refuse_trainer(trainer, pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wrap the optimizer; called once it exists, before a checkpoint is restored.

        Raises:
            UnsupportedError: there is not exactly one optimizer that can be wrapped.
            LayoutError: the module is not the one the task was made for.
        """
        inner = _only_optimizer(trainer)
        self.optimizer = HREOptimizer(
            inner, self.session, module=pl_module, **self._settings
        )
        trainer.optimizers = [self.optimizer]
        _let_schedulers_follow(trainer, self.optimizer)
        self._watch_for_strangers(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Log where the session stands, if the trainer has a logger."""
        if trainer.logger is None or self.optimizer is None:
            return
        scalars = {
            "hre/version": self.session.version,
            "hre/staleness": self.session.staleness,
            "hre/pending": self.session.pending,
            "hre/skipped_steps": self.optimizer.progress.skipped_steps,
            "hre/bytes_up": self.session.statistics.bytes_up,
            "hre/bytes_down": self.session.statistics.bytes_down,
        }
        pl_module.log_dict({name: float(value) for name, value in scalars.items()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Push what is left, and end on the newest weights."""
        if self.optimizer is None:
            return
        try:
            # The first pull may make room for the push.
            self.optimizer.pull()
            self.optimizer.flush()
            self.optimizer.pull()
        except (BackPressure, NonFiniteError) as error:
            warnings.warn(
                f"The last local steps were not pushed: {error} Call "
                "callback.optimizer.flush() once other participants have pushed.",
                HREWarning,
                stacklevel=2,
            )

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: Any
    ) -> None:
        """Stop watching other optimizers."""
        self._stop_watching()

    def teardown(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str
    ) -> None:
        """Stop watching other optimizers."""
        self._stop_watching()

    def __getstate__(self) -> NoReturn:
        # Strategies that spawn processes pickle the trainer before any hook is called.
        raise UnsupportedError(
            "HRECallback does not support several processes, nor being pickled: its "
            "session holds keys; use Trainer(devices=1, strategy='auto')."
        )

    def _watch_for_strangers(self, module: nn.Module) -> None:
        federated = frozenset(map(id, module.parameters()))

        def refuse(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            ours = self.optimizer
            if ours is None or optimizer is ours or ours.stepping:
                return
            groups = optimizer.param_groups
            if any(id(p) in federated for group in groups for p in group["params"]):
                raise UnsupportedError(
                    f"A {type(optimizer).__name__} steps the federated parameters past "
                    "HREOptimizer, so its updates would reach nobody; step only what "
                    "self.optimizers() returns."
                )

        self._stop_watching()
        self._watch = register_optimizer_step_pre_hook(refuse)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None


def _refuse_trainer(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    strategy, precision = trainer.strategy, trainer.precision_plugin
    moving = [
        type(callback).__name__
        for callback in trainer.callbacks
        if any(
            base.__name__ in _CALLBACKS_THAT_MOVE_PARAMETERS
            for base in type(callback).__mro__
        )
    ]
    federating = sum(isinstance(each, HRECallback) for each in trainer.callbacks)
    rules: list[tuple[bool, str]] = [
        (
            bool(module.automatic_optimization),
            "manual optimization; leave automatic_optimization on, or wrap the "
            "optimizer in HREOptimizer yourself",
        ),
        (
            type(strategy) is SingleDeviceStrategy,
            f"{type(strategy).__name__}; use Trainer(devices=1, strategy='auto')",
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
        (federating == 1, f"{federating} HRECallbacks in one Trainer; use one"),
    ]
    for holds, what in rules:
        if not holds:
            raise UnsupportedError(f"HRECallback does not support {what}.")


def _only_optimizer(trainer: pl.Trainer) -> Optimizer:
    # Lightning stands in for a missing optimizer by one without parameters.
    optimizers = [each for each in trainer.optimizers if each.param_groups]
    if len(optimizers) != 1:
        raise UnsupportedError(
            f"HRECallback does not support {len(optimizers)} optimizers; "
            "configure_optimizers must return one."
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


def _let_schedulers_follow(trainer: pl.Trainer, optimizer: HREOptimizer) -> None:
    # The parameter groups are shared, so learning rates arrive either way; but what
    # looks at `scheduler.optimizer`, such as LearningRateMonitor, must find our own.
    followers = [
        config.scheduler
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", None) is optimizer.inner
    ]
    if followers:
        _count_steps_for_schedulers(optimizer)
    for scheduler in followers:
        scheduler.optimizer = optimizer


def _count_steps_for_schedulers(optimizer: HREOptimizer) -> None:
    # A scheduler warns of a wrong order of calls unless its optimizer notes each step,
    # which the constructor of any scheduler arranges. It also sets learning rates, so
    # those are put back.
    rates = [
        rate.clone() if isinstance(rate := group["lr"], Tensor) else rate
        for group in optimizer.param_groups
    ]
    LambdaLR(optimizer, lr_lambda=lambda _: 1.0)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate
