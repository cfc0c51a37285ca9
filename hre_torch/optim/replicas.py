"""Several processes that train one participant's model together (`torch.distributed`).

Gradients are averaged over the processes before any optimizer steps, so all of them
make the same step. One rank, the leader, has the session: it pushes once for the group,
by its `HREOptimizer`. Every other rank has a `Follower` in its place. After each call
that may have moved the leader's parameters, the others get them, or its error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hre_torch import errors
from hre_torch.errors import HREError, UnsupportedError
from hre_torch.optim.flatten import FlatView
from hre_torch.optim.guards import NonFiniteGradientError, tensors_of
from hre_torch.optim.inner import InnerStep
from hre_torch.optim.progress import Progress
from hre_torch.protocol.task_options import Buffers

__all__ = ["Follower", "Replicas", "copied_state", "kept_alike", "refuse_sharded"]

_LONGEST: Final = 4096
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

    Every method but `size` is collective: all processes call it, in the same order.

    Args:
        tensors: returns what is kept alike, in the same order on every process.
        leads: whether this process has the session.

    Raises:
        UnsupportedError: not exactly one process has a session, or their models differ
            in size.
    """

    def __init__(self, tensors: Callable[[], list[Tensor]], *, leads: bool) -> None:
        self._tensors: list[Tensor] = []
        self._leads = leads
        self._leader = 0
        self._depth = 0
        self.size = 1
        if distributed.is_available() and distributed.is_initialized():
            self.size = distributed.get_world_size()
        if self.size == 1:
            if not leads:
                raise UnsupportedError(
                    "The session is None, which followers pass in a group of "
                    "processes, but this process trains alone: call "
                    "torch.distributed.init_process_group first, or pass a session."
                )
            return
        self._tensors = tensors()
        self._leader = self._agree()

    def _agree(self) -> int:
        own = self._numbers(int(self._leads), sum(t.numel() for t in self._tensors))
        everybody = [torch.zeros_like(own) for _ in range(self.size)]
        distributed.all_gather(everybody, own)
        leaders = [rank for rank, each in enumerate(everybody) if each[0]]
        if len(leaders) != 1:
            raise UnsupportedError(
                f"{len(leaders)} of {self.size} processes of this group have a session "
                f"(ranks {leaders}). Together they are one participant: pass the "
                "session on one rank, and HREOptimizer(inner, None) on all others."
            )
        sizes = {int(each[1]) for each in everybody}
        if len(sizes) != 1:
            raise UnsupportedError(
                f"the processes of this group train {sorted(sizes)} values; all must "
                "train the same model, with the same `buffers` named on each."
            )
        return leaders[0]

    @contextlib.contextmanager
    def leading(self, marks: Callable[[], object] | None = None) -> Iterator[None]:
        """Let the others have what the leader's block does to the parameters.

        Calls inside of one another count as one.

        Args:
            marks: what differs afterwards if the parameters were moved otherwise than
                on every process alike; by default they always are sent.
        """
        if self.size == 1 or self._depth:
            yield
            return
        before = None if marks is None else marks()
        self._depth += 1
        try:
            yield
        except Exception as error:
            self._exchange(moved=True, error=error)
            raise
        finally:
            self._depth -= 1
        self._exchange(moved=marks is None or marks() != before)

    def follow(self) -> None:
        """Take what the leader has done.

        Raises:
            HREError: the leader's error, of the same type.
        """
        self._exchange(moved=False)

    def agree_on_finite(self, finite: bool) -> bool:
        """Whether the gradients of all processes are finite: else all skip the step."""
        if self.size == 1:
            return finite
        flag = self._numbers(int(finite))
        distributed.all_reduce(flag, distributed.ReduceOp.MIN)
        return bool(flag.item())

    @torch.no_grad()
    def _exchange(self, *, moved: bool, error: Exception | None = None) -> None:
        text = b"" if error is None else _encoded(error)
        flags = self._numbers(int(moved), len(text))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        wanted, length = (int(number) for number in flags)
        if wanted:
            for tensor in self._tensors:
                distributed.broadcast(tensor.detach(), src=self._leader)
        if length:
            octets = self._numbers(*(text or bytes(length)))
            distributed.broadcast(octets, src=self._leader)
            if not self._leads:
                raise _decoded(bytes(octets.tolist()), self._leader)

    def _numbers(self, *values: int) -> Tensor:
        # Where the parameters are: a group of GPUs cannot send what is on a CPU.
        return torch.tensor(values, dtype=torch.int64, device=self._tensors[0].device)


def _encoded(error: Exception) -> bytes:
    return f"{type(error).__name__}\n{error}".encode()[:_LONGEST]


def _decoded(octets: bytes, leader: int) -> HREError:
    name, _, message = octets.decode(errors="replace").partition("\n")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, HREError):
        with contextlib.suppress(TypeError):
            same: HREError = kind(f"rank {leader}, which has the session: {message}")
            return same
    return HREError(f"rank {leader}, which has the session: {name}: {message}")


class Follower(Optimizer):
    """Stands where the leader has its `HREOptimizer`, and gets what that one exchanges.

    It has the same methods. They are called where the leader calls them, and return
    nothing of what the leader's return.

    Args:
        inner: the optimizer that computes the steps; containers are shared with it.
        module: as for `HREOptimizer`.
        buffers: as for `HREOptimizer`.

    Attributes:
        inner: as given.
        progress: what was counted so far.
    """

    def __init__(
        self, inner: Optimizer, module: nn.Module | None, buffers: Buffers
    ) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.progress = Progress()
        alike = kept_alike(inner, module, buffers)
        self._view = FlatView(alike)
        self._replicas = Replicas(lambda: alike, leads=False)
        self._inner_step = InnerStep(inner, self._replicas.agree_on_finite)
        self._share_containers()
        self._replicas.follow()

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
        """Make one local step, unless a gradient is NaN or infinite.

        Raises:
            HREError: what the leader's step has raised.
        """
        try:
            loss = self._inner_step(closure, self._view)
            if self._inner_step.made:
                self.progress.count()
        except NonFiniteGradientError as stopped:
            self.progress.skipped_steps += 1
            loss = stopped.loss
        self._replicas.follow()
        return loss

    def push(self) -> None:
        """Get what the leader's call of that name does, or its error."""
        self._replicas.follow()

    pull = catch_up = flush = adopt_weights = restore = push

    def finish(self, timeout: float = 60.0) -> None:
        """Wait while the leader finishes; `timeout` is its own."""
        self._replicas.follow()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Show the released weights in the model inside the block."""
        self._replicas.follow()
        yield
        self._replicas.follow()

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
        self.inner.load_state_dict(kept)
        self._share_containers()
        self._replicas.follow()

    def _share_containers(self) -> None:
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state


def kept_alike(
    inner: Optimizer, module: nn.Module | None, buffers: Buffers
) -> list[Tensor]:
    """Return what all processes of a group have alike, in the same order on each."""
    source = tensors_of(inner.param_groups) if module is None else module
    return list(FlatView.of(source, buffers).tensors)


def copied_state(module: nn.Module) -> dict[str, Any]:
    """Return a copy of a module's `state_dict`."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in module.state_dict().items()
    }
