"""`HRECallback`: puts an `HREOptimizer` where Lightning's own optimizer was.

All the work is done by `HREOptimizer`. The callback refuses before the first step what
it cannot federate, and stops training if any other optimizer moves the parameters.

**Checkpoints.** One holds the module's weights, the optimizer's state and what was not
yet pushed. What is released is the federation's, and parameters are made of that. So a
checkpoint that belongs to another task would be loaded without effect; it is refused.

Schedulers that were made for the optimizer that is wrapped now follow it. What a
federated training logs goes through Lightning's own `log_dict`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, NoReturn

import lightning.pytorch as pl
import numpy as np
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hre_torch.encoding.fixed_point import Rounding
from hre_torch.errors import HREWarning, NonFiniteError, UnsupportedError
from hre_torch.integrations.lightning.refusals import (
    Watch,
    only_optimizer,
    refuse_callback,
    refuse_trainer,
)
from hre_torch.observer import Observer, PhaseTimer
from hre_torch.optim import (
    Buffers,
    FlatView,
    GaussianNoise,
    HREOptimizer,
    StalenessWeight,
)
from hre_torch.optim.replicas import Follower
from hre_torch.optim.settings import Every
from hre_torch.participant.session import Session

__all__ = [
    "HRECallback",
    "Scalars",
    "let_schedulers_follow",
    "position",
    "require_fitting",
]


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


def let_schedulers_follow(
    trainer: pl.Trainer, inner: Optimizer, wrapper: Optimizer
) -> None:
    """Make a trainer's schedulers those of the wrapper.

    The parameter groups are shared, so learning rates arrive either way; but what looks
    at `scheduler.optimizer`, such as `LearningRateMonitor`, must find the wrapper.

    Args:
        trainer: its schedulers are set up already.
        inner: the optimizer they were made for.
        wrapper: the optimizer that shares the parameter groups of `inner`.
    """
    followers = [
        config.scheduler
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", None) is inner
    ]
    if followers:
        _count_steps(wrapper)
    for scheduler in followers:
        scheduler.optimizer = wrapper


def _count_steps(optimizer: Optimizer) -> None:
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


class Scalars:
    """Logs where a session stands, and how long its phases take.

    While it is open, a `PhaseTimer` watches the session besides the observer that the
    session has.

    Args:
        session: whose figures are logged.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = session.observe
        self._timer = PhaseTimer()
        session.observe = _both(self._before, self._timer)

    def close(self) -> None:
        """Give the session its observer back."""
        self._session.observe = self._before

    def log(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: HREOptimizer
    ) -> None:
        """Log all scalars; version and pending uploads go to the progress bar too.

        Milliseconds are means of one call of a phase since the fit began.
        """
        if trainer.logger is None and trainer.progress_bar_callback is None:
            return
        session, statistics = self._session, self._session.statistics
        shown = {"hre/version": session.version, "hre/pending": session.pending}
        module.log_dict(
            {name: float(value) for name, value in shown.items()},
            prog_bar=True,
            logger=trainer.logger is not None,
        )
        if trainer.logger is None:
            return
        logged = {
            "hre/staleness": session.staleness,
            "hre/held_back": optimizer.progress.held_back,
            "hre/saturated": optimizer.progress.saturated,
            "hre/push_every": optimizer.push_every,
            "hre/update_norm": optimizer.progress.update_norm,
            "hre/skipped_steps": optimizer.progress.skipped_steps,
            "hre/bytes_up": statistics.bytes_up,
            "hre/bytes_down": statistics.bytes_down,
        }
        phases = self._timer.mean_milliseconds()
        module.log_dict(
            {name: float(value) for name, value in logged.items()}
            | {f"hre/ms_{phase}": spent for phase, spent in phases.items()}
        )


def _both(first: Observer, second: Observer) -> Observer:
    @contextmanager
    def observe(phase: str) -> Iterator[None]:
        with first(phase), second(phase):
            yield

    return observe


_FIT: Final = "fit"


class HRECallback(pl.Callback):
    """Makes `trainer.fit` federated; the module stays as it is.

        trainer = Trainer(callbacks=[HRECallback(federation.join("a"), push_every=4)])

    Works with automatic and manual optimization, one optimizer, one device or DDP by
    processes (`strategy="ddp"`): schedulers, gradient accumulation, the Trainer's
    clipping, its precisions and its checkpoints go on as before. Anything else is
    refused by name before the first step. Under DDP rank zero alone uses the session,
    and pushes once for all processes.

    Args:
        session: what `Federation.join` or `connect` returned; or a function that is
            given the module and returns such a session. It is called on rank zero, when
            the fit begins.
        push_every, pull_every, exchange_share: see `HREOptimizer`; counted in optimizer
            steps.
        clip: L2 bound of an update's parameters, at most the task's, which holds if it
            is left out.
        error_feedback: keep what quantisation left over; if not, it is dropped.
        buffers: `"mean"` averages the module's floating-point buffers, `"local"` not;
            what the task says if it is left out.
        rounding: rule of the quantiser; to the nearest if left out.
        staleness_weight: weight of an update of a given staleness, in (0, 1].
        noise: differential privacy of this participant; none if left out.
        samples: see `HREOptimizer`; under DDP, of all processes together.
        outside_changes: see `HREOptimizer`.
        validate_on: the weights that validation during the fit sees: `"local"`, those
            that are trained, or `"released"`, those that everybody has.
        timeout: seconds to wait for others at the end of a fit, as for
            `HREOptimizer.finish`.

    Attributes:
        optimizer: the `HREOptimizer` that steps, from the start of the fit on; None on
            other ranks than zero.

    Raises:
        UnsupportedError: a setting that does not exist.
    """

    def __init__(
        self,
        session: Callable[[pl.LightningModule], Session] | Session,
        *,
        push_every: Every | None = None,
        pull_every: int | None = None,
        exchange_share: float = 0.2,
        clip: float | None = None,
        error_feedback: bool = True,
        buffers: Buffers | None = None,
        rounding: Rounding | None = None,
        staleness_weight: StalenessWeight | None = None,
        noise: GaussianNoise | None = None,
        samples: int | None = None,
        outside_changes: Literal["refuse", "push"] = "refuse",
        validate_on: Literal["local", "released"] = "local",
        timeout: float = 60.0,
    ) -> None:
        refuse_callback(validate_on, buffers)
        self._given = session
        self._session = session if isinstance(session, Session) else None
        self.optimizer: HREOptimizer | None = None
        self._timeout = timeout
        self._settings: dict[str, Any] = {
            "push_every": push_every,
            "pull_every": pull_every,
            "exchange_share": exchange_share,
            "clip": clip,
            "error_feedback": error_feedback,
            "buffers": buffers,
            "rounding": rounding,
            "staleness_weight": staleness_weight,
            "noise": noise,
            "samples": samples,
            "outside_changes": outside_changes,
        }
        self._validate_released = validate_on == "released"
        self._checkpoint: dict[str, Any] | None = None
        self._watch: Watch | None = None
        self._scalars: Scalars | None = None
        self._shown = contextlib.ExitStack()
        self._ours: HREOptimizer | Follower | None = None

    @property
    def session(self) -> Session:
        """The session that pushes and pulls.

        Raises:
            UnsupportedError: it is made when the fit begins, which was not yet.
        """
        if self._session is None:
            raise UnsupportedError(
                "HRECallback was given a function that makes the session; there is "
                "none before trainer.fit, and none on other ranks than zero."
            )
        return self._session

    def setup(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str
    ) -> None:
        """Refuse what cannot be federated; called before there is an optimizer.

        Raises:
            UnsupportedError: names the setting, and what to use instead.
        """
        if stage == _FIT:
            refuse_trainer(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return where the session stands; Lightning keeps it in checkpoints."""
        return {} if self._session is None else position(self._session)

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep the checkpoint until there is a session to compare it with."""
        self._checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wrap the optimizer; called once it exists, before its state is restored.

        Raises:
            UnsupportedError: there is not exactly one optimizer that can be wrapped, or
                the checkpoint is of another task.
            LayoutError: the module is not the one the task was made for.
        """
        inner = only_optimizer(trainer)
        ours: HREOptimizer | Follower
        if trainer.is_global_zero:
            ours = self.optimizer = self._wrap(inner, pl_module)
        else:
            # What is made of a missing session is a follower.
            ours = HREOptimizer(inner, None, module=pl_module)
        trainer.optimizers = [ours]
        let_schedulers_follow(trainer, inner, ours)
        self._close()
        self._watch = Watch(pl_module, ours)
        self._ours = ours
        if self.optimizer is not None:
            self._scalars = Scalars(self.session)

    def on_train_epoch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Note how many steps were made."""
        if self._watch is not None:
            self._watch.begin_epoch(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Check that the trainer still has our optimizer.

        Raises:
            UnsupportedError: somebody has exchanged it.
        """
        if self._watch is not None:
            self._watch.require_in_place(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Log where the session stands."""
        if self._scalars is not None and self.optimizer is not None:
            self._scalars.log(trainer, pl_module, self.optimizer)

    def on_train_epoch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Check that the epoch's steps went through our optimizer.

        Raises:
            UnsupportedError: they did not.
        """
        if self._watch is not None:
            self._watch.end_epoch(trainer)

    def on_validation_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Show validation the released weights, if that was chosen."""
        if self._validate_released and self._watch is not None and self._ours:
            self._shown.enter_context(self._ours.released())

    def on_validation_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Put the trained weights back, before checkpoints are written."""
        self._shown.close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Push what is left, and end on the newest weights."""
        if self._ours is not None:
            self._finish(self._ours)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: Any
    ) -> None:
        """Leave session, weights and other optimizers as they were."""
        # Other processes may not come along any more: told, the block does not wait.
        self._shown.__exit__(type(exception), exception, exception.__traceback__)
        self._close()

    def teardown(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str
    ) -> None:
        """Leave session and other optimizers as they were."""
        self._close()

    def __getstate__(self) -> NoReturn:
        # Strategies that spawn processes pickle the trainer before any hook is called.
        raise UnsupportedError(
            "HRECallback does not support several processes by spawning, nor being "
            "pickled: its session holds keys; use strategy='ddp' or devices=1."
        )

    def _wrap(self, inner: Optimizer, module: pl.LightningModule) -> HREOptimizer:
        if self._session is None and not isinstance(self._given, Session):
            self._session = self._given(module)
        if self._checkpoint is not None:
            found = self._checkpoint["callbacks"].get(self.state_key)
            require_fitting(found, self.session, module)
            self._checkpoint = None
        return HREOptimizer(inner, self.session, module=module, **self._settings)

    def _finish(self, optimizer: HREOptimizer | Follower) -> None:
        try:
            optimizer.finish(self._timeout)
        except NonFiniteError as error:
            warnings.warn(
                f"The last local steps were not pushed: {error}",
                HREWarning,
                stacklevel=2,
            )

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._scalars is not None:
            self._scalars.close()
            self._scalars = None
