"""Several processes that train one participant's model together (`torch.distributed`).

Gradients are averaged over the processes before any optimizer steps, so all of them
make the same step. One rank, the leader, has the session: it pushes once for the group,
by its `HREOptimizer`. Every other rank has a `Follower` in its place. After each call
that may have moved the leader's parameters, the others get them. What one process
raises in such a call, all raise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hre_torch import errors
from hre_torch.errors import HREError, UnsupportedError
from hre_torch.optim.flatten import FlatView
from hre_torch.optim.guards import InnerStep, NonFiniteGradientError, tensors_of
from hre_torch.optim.progress import Progress

__all__ = ["Follower", "Replicas", "copied_state", "kept_alike", "refuse_sharded"]

_ALONE: Final = contextlib.nullcontext()
_LONGEST: Final = 2048
"""Octets of an error's text that reach other ranks."""


def refuse_sharded(inner: Any, module: Any) -> None:
    """Refuse parameters of which each process has a part only.

    Raises:
        UnsupportedError: FSDP, DTensor or DeepSpeed; the message names it.
    """
    if type(inner).__module__.partition(".")[0] == "deepspeed":
        _refuse("DeepSpeed's optimizers")
    if not isinstance(inner, Optimizer):
        return
    for tensor in tensors_of(inner.param_groups):
        if hasattr(tensor, "placements") and hasattr(tensor, "device_mesh"):
            _refuse("DTensor parameters (FSDP2's fully_shard, tensor parallelism)")
        if getattr(tensor, "_fsdp_flattened", False) or _is_flat(tensor):
            _refuse("FullyShardedDataParallel (FSDP)")
    for each in module.modules() if isinstance(module, nn.Module) else ():
        if type(each).__name__ == "FullyShardedDataParallel":
            _refuse("FullyShardedDataParallel (FSDP)")


def _is_flat(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "FlatParameter" or hasattr(tensor, "_is_flat_param")


def _refuse(what: str) -> None:
    raise UnsupportedError(
        f"HREOptimizer does not support {what}: no process has a whole update to "
        "encrypt. Use DistributedDataParallel, where every process has the whole model."
    )


class Replicas:
    """The processes of a group, as one of them sees them.

    Its methods are collective: all processes call them, in the same order.

    Args:
        tensors: returns what is kept alike, in the same order on every process, given
            whether averaged buffers are among it, which the leader says.
        leads: whether this process has the session.
        averaged: the leader's word on averaged buffers.

    Attributes:
        size: how many processes there are.

    Raises:
        UnsupportedError: not exactly one process has a session, or their models differ
            in size.
    """

    def __init__(
        self,
        tensors: Callable[[bool], list[Tensor]],
        *,
        leads: bool,
        averaged: bool = False,
    ) -> None:
        self._tensors: list[Tensor] = []
        self._leader = self._rank = 0
        self._depth = 0
        self._told: HREError | None = None
        self.size = 1
        if distributed.is_available() and distributed.is_initialized():
            self.size = distributed.get_world_size()
            self._rank = distributed.get_rank()
        if self.size == 1:
            if not leads:
                raise UnsupportedError(
                    "The session is None, which followers pass in a group of "
                    "processes, but this process trains alone: call "
                    "torch.distributed.init_process_group first, or pass a session."
                )
            return
        # Averaged buffers or not, the parameters say where messages may be.
        self._tensors = tensors(False)
        everybody = self._gather(int(leads), int(averaged))
        leaders = [rank for rank, each in enumerate(everybody) if each[0]]
        if len(leaders) != 1:
            raise UnsupportedError(
                f"{len(leaders)} of {self.size} processes of this group have a session "
                f"(ranks {leaders}). Together they are one participant: pass the "
                "session on one rank, and HREOptimizer(inner, None) on all others."
            )
        self._leader = leaders[0]
        with self.together():
            self._tensors = tensors(bool(everybody[self._leader][1]))
            sizes = {each[0] for each in self._gather(self._n_values())}
            if len(sizes) != 1:
                raise UnsupportedError(
                    f"the processes of this group train {sorted(sizes)} values; all "
                    "must train the same model."
                )

    def _n_values(self) -> int:
        return sum(tensor.numel() for tensor in self._tensors)

    def _gather(self, *values: int) -> list[list[int]]:
        own = self._numbers(*values)
        everybody = [torch.zeros_like(own) for _ in range(self.size)]
        distributed.all_gather(everybody, own)
        return [each.tolist() for each in everybody]

    def together(
        self, marks: Callable[[], object] | None = None
    ) -> AbstractContextManager[None]:
        """Do something on every process, and have the leader's parameters afterwards.

        Calls inside of one another count as one. What one process raises, all raise.

        Args:
            marks: what differs afterwards if this process moved its parameters
                otherwise than every other; by default the leader's are always sent.

        Raises:
            HREError: another process has failed, by an error of the same type.
        """
        if self.size == 1 or self._depth:
            return _ALONE
        return self._together(marks)

    @contextlib.contextmanager
    def _together(self, marks: Callable[[], object] | None) -> Iterator[None]:
        before = None if marks is None else marks()
        self._depth += 1
        try:
            yield
        except Exception as error:
            if error is not self._told:
                self._agree(error=error)
            raise
        finally:
            self._depth -= 1
        self._agree(moved=marks is None or marks() != before)

    def all_finite(self, finite: bool) -> bool:
        """Whether the gradients of all processes are finite: else all skip the step."""
        return finite if self.size == 1 else not self._agree(spoiled=not finite)

    @torch.no_grad()
    def _agree(
        self,
        *,
        moved: bool = False,
        spoiled: bool = False,
        error: Exception | None = None,
    ) -> bool:
        """Tell the others; return whether anybody's gradients are not finite.

        It is the only message during a training, so that a process that fails early
        meets the others wherever they are.
        """
        failed = 0 if error is None else self._rank + 1
        flags = self._numbers(failed, int(moved), int(spoiled))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        failed, wanted, unfinite = flags.tolist()
        if failed or wanted:
            for tensor in self._tensors:
                distributed.broadcast(tensor.detach(), src=self._leader)
        if failed:
            octets = self._numbers(*_encoded(error))
            distributed.broadcast(octets, src=failed - 1)
            if error is None:
                self._told = _decoded(bytes(octets.tolist()), failed - 1)
                raise self._told
        return bool(unfinite)

    def _numbers(self, *values: int) -> Tensor:
        # Where the parameters are: a group of GPUs cannot send what is on a CPU.
        return torch.tensor(values, dtype=torch.int64, device=self._tensors[0].device)


def _encoded(error: Exception | None) -> bytes:
    """Return an error's text, or room for another's, always as long."""
    text = "" if error is None else f"{type(error).__name__}\n{error}"
    return text.encode()[:_LONGEST].ljust(_LONGEST, b"\0")


def _decoded(octets: bytes, rank: int) -> HREError:
    text = octets.rstrip(b"\0").decode(errors="replace")
    name, _, message = text.partition("\n")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, HREError):
        with contextlib.suppress(TypeError):
            same: HREError = kind(f"rank {rank} of the process group: {message}")
            return same
    return HREError(f"rank {rank} of the process group: {name}: {message}")


class Follower(Optimizer):
    """Stands where the leader has its `HREOptimizer`, and gets what that one exchanges.

    It has the same methods. They are called where the leader calls them, and return
    nothing of what the leader's return.

    Args:
        inner: the optimizer that computes the steps; containers are shared with it.
        module: as for `HREOptimizer`.

    Attributes:
        inner: as given.
        progress: what was counted so far.
    """

    def __init__(self, inner: Optimizer, module: nn.Module | None) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.progress = Progress()
        self._view = FlatView(kept_alike(inner, module, averaged=False))
        self._replicas = Replicas(
            lambda averaged: kept_alike(inner, module, averaged=averaged), leads=False
        )
        self._inner_step = InnerStep(inner, self._replicas.all_finite)
        self._share_containers()
        self._follow()

    def _follow(self) -> None:
        with self._replicas.together(_nothing):
            pass

    @property
    def stepping(self) -> bool:
        """Whether the inner optimizer is stepping right now."""
        return self._inner_step.running

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and whatever else the inner optimizer gathers."""
        self.inner.zero_grad(set_to_none)

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Make one local step, unless a gradient of any process is NaN or infinite.

        Raises:
            HREError: what another process's step has raised.
        """
        undisturbed: Callable[..., float | None]
        undisturbed = torch.compiler.disable(self._step)  # type: ignore[no-untyped-call]
        return undisturbed(closure)

    def _step(self, closure: Callable[[], float] | None) -> float | None:
        with self._replicas.together(_nothing):
            try:
                loss = self._inner_step(closure, self._view)
            except NonFiniteGradientError as stopped:
                self.progress.skipped_steps += 1
                return stopped.loss
            if self._inner_step.made:
                self.progress.count()
        return loss

    def push(self) -> None:
        """Get what the leader's call of that name does, or its error."""
        self._follow()

    pull = catch_up = flush = adopt_weights = restore = push

    def finish(self, timeout: float = 60.0) -> None:
        """Wait while the leader finishes; `timeout` is its own."""
        self._follow()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Show the released weights in the model inside the block."""
        self._follow()
        yield
        self._follow()

    def released_state_dict(self, module: nn.Module) -> dict[str, Any]:
        """Return a copy of the model's `state_dict` with the released weights."""
        with self.released():
            return copied_state(module)

    def register_release_hook(self, hook: Callable[[Any], None]) -> RemovableHandle:
        """Take a hook that is never called: the leader alone opens releases."""
        return RemovableHandle({})

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state; the leader's is the one to be saved."""
        state: dict[str, Any] = self.inner.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the inner optimizer's part of what the leader saved."""
        kept = {key: value for key, value in state_dict.items() if key != "hre_torch"}
        with self._replicas.together(_nothing):
            self.inner.load_state_dict(kept)
            self._share_containers()

    def _share_containers(self) -> None:
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state


def _nothing() -> None:
    """Mark nothing: a follower's own parameters are never sent."""


def kept_alike(
    inner: Optimizer, module: nn.Module | None, *, averaged: bool
) -> list[Tensor]:
    """Return what all processes of a group have alike, in the same order on each.

    Raises:
        LayoutError: averaged buffers are wanted, and no module has them.
    """
    source = tensors_of(inner.param_groups) if module is None else module
    return list(FlatView.of(source, "mean" if averaged else "local").tensors)


def copied_state(module: nn.Module) -> dict[str, Any]:
    """Return a copy of a module's `state_dict`."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in module.state_dict().items()
    }
