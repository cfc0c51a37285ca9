"""Learning-rate schedulers that were made for the optimizer that is wrapped now."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["let_schedulers_follow"]


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
