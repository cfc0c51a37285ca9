"""`federate`: a Trainer of `transformers` trains with others, after one call.

    trainer = Trainer(model=model, args=args, train_dataset=dataset)
    federate(trainer, hre_torch.join(model))
    trainer.train()

All the work is done by `HREOptimizer`, which stands where the Trainer's own optimizer
was and is prepared as that one would be, so that schedulers, gradient accumulation,
clipping and checkpoints go on as before. Of a PEFT model only what is trained is in the
task, and is exchanged.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

from hre_torch.errors import (
    CheckpointError,
    HREWarning,
    MissingExtraError,
    OutsideChangeError,
    UnsupportedError,
)
from hre_torch.optim import HREOptimizer
from hre_torch.participant.session import Session

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "transformers is not installed; `pip install 'hre-torch[transformers]'`"
    ) from error

__all__ = ["federate"]

_LOSS: Final = "loss"
"""Among the figures that a Trainer logs of a few steps."""
_SUMMARY: Final = "train_loss"
"""Among those of a whole training, logged after the last step."""

# These step inside of `backward`, or swap weights for an evaluation.
_OPTIMIZERS_THAT_MOVE_PARAMETERS: Final = ("layerwise", "lomo", "schedule_free")


def federate(
    trainer: Trainer, session: Session, *, timeout: float = 60.0, **settings: Any
) -> HREOptimizer:
    """Put an `HREOptimizer` where a Trainer's optimizer is.

    When a training ends, what was not pushed is, and the model has what everybody has.
    That is before `load_best_model_at_end` loads another one. `hre/version`, pushes and
    others go to whatever the Trainer reports to, with its losses.

    Args:
        trainer: before its first `train`, with the optimizer that it was given, or else
            the one that it makes.
        session: what `join`, `Federation.join` or `connect` returned.
        timeout: seconds to wait at the end of a training, as for
            `HREOptimizer.finish`.
        settings: of `HREOptimizer`, by name, such as `push_every`.

    Returns:
        The optimizer, which has `released`, `adopt_weights` and others.

    Raises:
        UnsupportedError: a setting of the trainer cannot be federated, or it is
            federated already.
        LayoutError: the model is not the one that the task was made for.
    """
    _refuse(trainer)
    optimizer = HREOptimizer(
        trainer.create_optimizer(), session, module=trainer.model, **settings
    )
    trainer.optimizer = optimizer
    # Subclasses may make one in every training.
    trainer.create_optimizer = lambda model=None: trainer.optimizer
    trainer.add_callback(_Federated(trainer, optimizer, timeout))
    return optimizer


class _Federated(TrainerCallback):
    """Watches a Trainer's optimizer, ends its trainings, adds to what it logs.

    Args:
        trainer: whose `log` is extended.
        optimizer: what it is to step.
        timeout: seconds to wait at the end.
    """

    def __init__(
        self, trainer: Trainer, optimizer: HREOptimizer, timeout: float
    ) -> None:
        self._optimizer = optimizer
        self._timeout = timeout
        self._finished = False
        self._log_plainly = trainer.log
        trainer.log = self._log

    def on_train_begin(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
        """Check what a training starts with; called once a checkpoint is loaded.

        Raises:
            CheckpointError: it was no checkpoint of a federated training.
            OutsideChangeError: something else has changed the model.
            UnsupportedError: something has exchanged the optimizer.
        """
        prepared = seen["optimizer"]
        if self._optimizer not in (prepared, getattr(prepared, "optimizer", None)):
            raise UnsupportedError(
                f"The trainer's optimizer is now a {type(prepared).__name__}, so that "
                "nothing would be federated: leave the optimizer alone after "
                "federate(trainer, ...)."
            )
        self._finished = False
        try:
            self._optimizer.require_untouched()
        except OutsideChangeError as error:
            if not state.global_step:
                raise
            here = self._optimizer.session.task.cfg.hex()[:16]
            raise CheckpointError(
                "resume_from_checkpoint loaded weights that are not those of this "
                f"session of task {here}, and no state of a federated optimizer: a "
                "plain training wrote the checkpoint, or save_only_model=True. Make "
                "the task from these weights: load them into the model before "
                "join(model) or Federation.local(model, ...), and call train() without "
                "resume_from_checkpoint."
            ) from error

    def on_train_end(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
        """Finish, if that was not done; warn where the model shows other weights."""
        self._finish()
        try:
            self._optimizer.require_untouched()
        except OutsideChangeError as error:
            warnings.warn(
                "The training is finished, and then other weights were loaded into the "
                f"model, by load_best_model_at_end for instance. {error}",
                HREWarning,
                stacklevel=2,
            )

    def _log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        # The summary comes before the best model is loaded, which is not to be pushed.
        if _SUMMARY in logs:
            self._finish()
        if _SUMMARY in logs or _LOSS in logs:
            logs.update(self._figures())
        self._log_plainly(logs, *rest, **named)

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._optimizer.finish(self._timeout)

    def _figures(self) -> dict[str, float]:
        session, progress = self._optimizer.session, self._optimizer.progress
        return {
            "hre/version": session.version,
            "hre/pushes": session.statistics.pushes,
            "hre/pending": session.pending,
            "hre/staleness": session.staleness,
            "hre/held_back": progress.held_back,
            "hre/saturated": progress.saturated,
            "hre/push_every": self._optimizer.push_every,
            "hre/update_norm": progress.update_norm,
            "hre/skipped_steps": progress.skipped_steps,
            "hre/bytes_up": session.statistics.bytes_up,
            "hre/bytes_down": session.statistics.bytes_down,
        }


def _refuse(trainer: Trainer) -> None:
    """Refuse a trainer that cannot be federated.

    Raises:
        UnsupportedError: names the setting, and what to use instead.
    """
    if not isinstance(trainer, Trainer):
        raise UnsupportedError(
            f"federate takes a Trainer of transformers, not a {type(trainer).__name__}."
        )
    name = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    moves = any(part in name for part in _OPTIMIZERS_THAT_MOVE_PARAMETERS)
    rules: list[tuple[bool, str]] = [
        (
            any(isinstance(c, _Federated) for c in trainer.callback_handler.callbacks),
            "a second call for one trainer; make another Trainer, or keep what the "
            "first call returned",
        ),
        (
            # A first training has wrapped it.
            hasattr(trainer.optimizer, "step_was_skipped"),
            "a trainer that has trained already; call it before trainer.train()",
        ),
        (
            trainer.is_fsdp_enabled or trainer.is_fsdp_xla_enabled,
            "FSDP, where no process has all weights; leave fsdp out",
        ),
        (
            trainer.is_deepspeed_enabled,
            "DeepSpeed, which steps an optimizer of its own; leave deepspeed out",
        ),
        (
            trainer.args.world_size > 1,
            "several processes; start one, or train in a loop of your own, where "
            "HREOptimizer(inner, None) follows the process that has the session",
        ),
        (
            trainer.model_init is not None,
            "model_init, which makes another model in every training; pass model=",
        ),
        (
            moves and trainer.optimizer is None,
            f"optim={name!r}, which moves parameters beside its step; use "
            "optim='adamw_torch' for instance",
        ),
    ]
    for holds, what in rules:
        if holds:
            raise UnsupportedError(f"federate does not support {what}.")
