"""What `HREOptimizer` is told, checked before anything begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from torch import nn

from hre_torch.errors import UnsupportedError
from hre_torch.optim.pacing import AUTO, Every
from hre_torch.optim.privacy import GaussianNoise
from hre_torch.participant.session import Session
from hre_torch.protocol.task_options import is_positive

__all__ = ["check_choice", "check_kinds", "check_numbers", "intervals"]


def check_kinds(
    session: Any,
    *,
    module: Any,
    rounding: Any,
    staleness_weight: Any,
    noise: Any,
) -> None:
    """Refuse what is not of the kind that the optimizer works with.

    Raises:
        UnsupportedError: one of them is not; the message says what to give.
    """
    if not isinstance(session, Session):
        raise UnsupportedError(
            f"The session is of type {type(session).__name__}; give what "
            "Federation.join() or hre_torch.connect() returned."
        )
    if not isinstance(module, nn.Module | None):
        raise UnsupportedError(
            f"module is of type {type(module).__name__}; give the model, or None."
        )
    if not isinstance(noise, GaussianNoise | None):
        raise UnsupportedError(
            f"noise is {noise!r}; give GaussianNoise(multiplier), or None."
        )
    for name, rule in (("rounding", rounding), ("staleness_weight", staleness_weight)):
        if rule is not None and not callable(rule):
            raise UnsupportedError(
                f"{name} is {rule!r}; give a function of hre_torch or of your own, "
                "or None."
            )


def intervals(
    push_every: Any, pull_every: Any, defaults: Mapping[str, Any]
) -> tuple[Every, Every]:
    """Return the local steps from push to push and from pull to pull.

    Args:
        push_every: what the script says; None for nothing.
        pull_every: likewise.
        defaults: what holds then, by name; 1 where that says nothing either.

    Raises:
        UnsupportedError: they are no numbers of steps; or one is measured, and the
            other, which comes along, is given.
    """
    push = defaults.get("push_every", 1) if push_every is None else push_every
    if push == AUTO:
        if pull_every is not None:
            raise UnsupportedError(
                f"push_every is 'auto' and pull_every {pull_every!r}; pulls come along "
                "with pushes then, so leave pull_every out."
            )
        return AUTO, AUTO
    pull = defaults.get("pull_every", 1) if pull_every is None else pull_every
    for name, steps in (("push_every", push), ("pull_every", pull)):
        whole = isinstance(steps, Integral) and not isinstance(steps, bool)
        if not whole or steps < 1:
            raise UnsupportedError(
                f"{name} is {steps!r}; it must be a whole number of steps, at least 1"
                f"{', or auto' if name == 'push_every' else ''}."
            )
    return push, pull


def check_numbers(share: Any, clip: Any, most: float | None) -> None:
    """Refuse numbers that cannot work, by name; `most` is the task's own clip.

    Raises:
        UnsupportedError: one of them cannot.
    """
    if not is_positive(share) or share >= 1:
        raise UnsupportedError(
            f"exchange_share is {share!r}; it must lie between 0 and 1, such as 0.2."
        )
    if clip is not None and not is_positive(clip):
        raise UnsupportedError(
            f"clip is {clip!r}; it must be a positive number, or None for the task's."
        )
    if clip is not None and most is not None and clip > most:
        raise UnsupportedError(
            f"clip is {clip}, but the task's is {most}: everybody rejects releases "
            "with longer updates; use the task's or a smaller one."
        )


def check_choice(name: str, given: Any, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of those allowed.

    Raises:
        UnsupportedError: it is not.
    """
    if given not in allowed:
        words = " or ".join(map(repr, allowed))
        raise UnsupportedError(f"{name} is {given!r}; it must be {words}.")
