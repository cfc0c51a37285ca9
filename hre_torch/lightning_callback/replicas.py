"""Several processes that train one participant's model together (DDP).

Gradients are averaged over the processes before any optimizer steps, so all of them
make the same step. Rank zero alone has the session: it pushes once for the group. What
a push or a pull makes of its parameters is then sent to the others, which have a
`Follower` where rank zero has its `HREOptimizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from hre_torch.errors import UnsupportedError
from hre_torch.optim import Buffers, HREOptimizer
from hre_torch.optim.flatten import FlatView, mean_buffers, trainable_parameters
from hre_torch.optim.guards import NonFiniteGradientError
from hre_torch.optim.inner import InnerStep
from hre_torch.optim.progress import Progress

__all__ = ["Follower", "Mirror"]


class Follower(Optimizer):
    """Stands where rank zero has its `HREOptimizer`, and skips the steps it skips.

    Args:
        inner: the optimizer that computes the steps; containers are shared with it.
        module: the model, for its parameters.
        buffers: as for `HREOptimizer`.

    Attributes:
        progress: what was counted so far.
    """

    def __init__(self, inner: Optimizer, module: nn.Module, buffers: Buffers) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.progress = Progress()
        self._inner_step = InnerStep(inner)
        self._view = FlatView.of(module, buffers)
        self._share_containers()

    @property
    def stepping(self) -> bool:
        """Whether the inner optimizer is stepping right now."""
        return self._inner_step.running

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Make one local step, unless a gradient is NaN or infinite."""
        try:
            loss = self._inner_step(closure, self._view)
        except NonFiniteGradientError as stopped:
            self.progress.skipped_steps += 1
            return stopped.loss
        self.progress.count()
        return loss

    def push(self) -> NoReturn:
        """Refuse, as a call between steps would happen on one process only."""
        raise UnsupportedError(
            "Under DDP HREOptimizer pushes and pulls inside step(), where all "
            "processes wait for it; set push_every and pull_every instead."
        )

    pull = flush = push

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state; rank zero's is the one that is saved."""
        state: dict[str, Any] = self.inner.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the inner optimizer's part of what rank zero saved."""
        kept = {key: value for key, value in state_dict.items() if key != "hre_torch"}
        self.inner.load_state_dict(kept)
        self._share_containers()

    def _share_containers(self) -> None:
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state


class Mirror:
    """Makes every process's parameters those of rank zero.

    Every method is collective: all processes call it, in the same order.

    Args:
        module: the model, the same on every process.
        buffers: `"mean"` mirrors the buffers too that are averaged.
        ours: this process's optimizer; after each of its steps the others learn whether
            rank zero exchanged anything.
    """

    def __init__(
        self, module: nn.Module, buffers: Buffers, ours: HREOptimizer | Follower
    ) -> None:
        averaged = mean_buffers(module) if buffers == "mean" else []
        self._tensors: list[Tensor] = [*trainable_parameters(module), *averaged]
        self._ours = ours
        self._seen = self._exchanges()
        ours.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def send(self) -> None:
        """Overwrite the parameters of all processes with those of rank zero."""
        for tensor in self._tensors:
            distributed.broadcast(tensor.detach(), src=0)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        now = self._exchanges()
        changed = torch.tensor([now != self._seen], device=self._tensors[0].device)
        self._seen = now
        distributed.broadcast(changed, src=0)
        if changed.item():
            self.send()

    def _exchanges(self) -> tuple[int, ...]:
        # Each of these writes parameters: a push its rounding, a pull what was
        # released, a skipped step the last finite model.
        ours = self._ours
        if isinstance(ours, Follower):
            return ()
        session = ours.session
        pulls = session.statistics.pulls
        return session.pushed, pulls, ours.progress.skipped_steps
