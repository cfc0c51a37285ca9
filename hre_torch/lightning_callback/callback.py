"""`HRECallback`: puts an `HREOptimizer` where Lightning's own optimizer was.

All the work is done by `HREOptimizer`. The callback refuses before the first step what
it cannot federate, and stops training if any other optimizer moves the parameters.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn

import lightning.pytorch as pl
from torch.optim import Optimizer

from hre_torch.encoding.fixed_point import Rounding
from hre_torch.errors import HREWarning, NonFiniteError, UnsupportedError
from hre_torch.lightning_callback.checkpoints import (
    position,
    require_fitting,
)
from hre_torch.lightning_callback.refusals import (
    only_optimizer,
    refuse_callback,
    refuse_trainer,
)
from hre_torch.lightning_callback.scalars import Scalars
from hre_torch.lightning_callback.schedulers import let_schedulers_follow
from hre_torch.lightning_callback.watch import Watch
from hre_torch.optim import Buffers, GaussianNoise, HREOptimizer, StalenessWeight
from hre_torch.optim.pacing import Every
from hre_torch.optim.replicas import Follower
from hre_torch.protocol.session import Session

__all__ = ["HRECallback"]

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
