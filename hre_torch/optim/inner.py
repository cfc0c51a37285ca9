"""One step of the wrapped optimizer: guarded, and seen to be made or left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from hre_torch.optim.flatten import FlatView
from hre_torch.optim.guards import (
    NonFiniteGradientError,
    gradients_are_finite,
    guarded,
)

__all__ = ["InnerStep"]


class InnerStep:
    """Steps an optimizer, unless a gradient is NaN or infinite.

    Some optimizers wrap another one and do not step it at every call: Opacus's
    `DPOptimizer` leaves it out while it gathers a batch in pieces. Such a call is no
    local step. What is wrapped is known by the attribute `original_optimizer`, and
    whether it stepped by a hook on it.

    Args:
        inner: the optimizer.
        agree: given whether the gradients here are finite, says whether those of all
            processes are that train the model.

    Attributes:
        running: whether the optimizer is stepping right now.
        made: whether the last call made a step.
    """

    def __init__(self, inner: Optimizer, agree: Callable[[bool], bool]) -> None:
        self.running = False
        self.made = False
        self._inner = inner
        self._agree = agree
        core: Optimizer = inner
        while isinstance(
            wrapped := getattr(core, "original_optimizer", None), Optimizer
        ):
            core = wrapped
        self._is_told = core is not inner
        if self._is_told:
            core.register_step_post_hook(self._note)

    def __call__(
        self, closure: Callable[[], float] | None, view: FlatView
    ) -> float | None:
        """Make the step; return what the optimizer returns.

        Args:
            closure: evaluates the loss and its gradients, if the caller has one.
            view: the parameters that may have gradients.

        Raises:
            NonFiniteGradientError: a gradient is NaN or infinite; nothing has moved.
            LayoutError: a parameter outside the view has a gradient.
        """

        def check(loss: float | None = None) -> None:
            finite = gradients_are_finite(self._inner.param_groups, view)
            if not self._agree(finite):
                raise NonFiniteGradientError(loss)

        self.running, self.made = True, not self._is_told
        try:
            if closure is not None:
                return self._inner.step(guarded(closure, check))
            check()
            return self._inner.step()
        finally:
            self.running = False

    def _note(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.made = True
