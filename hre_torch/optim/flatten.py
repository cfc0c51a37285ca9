"""A model as one flat vector of floats, and what that vector looks like.

Everything below this floor knows one thing of a model: a vector of `n_values` numbers.
First come the trainable parameters in the order of the module, then, if buffers are
averaged, its floating-point buffers. `Layout` describes that vector and gives it a
digest which the task binds; `FlatView` reads it from the tensors and writes it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hre_torch.errors import LayoutError, UnsupportedError
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.task_options import Buffers

__all__ = [
    "FlatView",
    "Layout",
    "Piece",
    "mean_buffers",
    "released_names",
    "trainable_parameters",
]

Source: TypeAlias = nn.Module | Iterable[Tensor]

_PIECE_VALUES: Final = 1 << 17
"""One megabyte of float64: temporaries of that size stay in the processor's cache."""
_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def trainable_parameters(source: Source) -> list[Tensor]:
    """Return the parameters that take part, each once, in their own order.

    Frozen parameters (`requires_grad=False`) are left out, and a tied parameter counts
    where it is met first, so that a module and the list of its parameters agree.

    Args:
        source: a module, or tensors in the order of the module's parameters.

    Raises:
        UnsupportedError: a parameter is complex, or has no values yet.
    """
    if isinstance(source, nn.Module):
        named: Iterable[tuple[object, Tensor]] = source.named_parameters()
    else:
        named = enumerate(source)
    chosen: dict[int, Tensor] = {}
    for name, tensor in named:
        if tensor.requires_grad and id(tensor) not in chosen:
            _check_parameter(name, tensor)
            chosen[id(tensor)] = tensor
    return list(chosen.values())


def _check_parameter(name: object, tensor: Tensor) -> None:
    if is_lazy(tensor) or tensor.is_meta:
        raise UnsupportedError(
            f"Parameter {name!r} has no values yet; run one forward pass (lazy module) "
            "or materialise the module (meta device) before the task is made."
        )
    if tensor.dtype not in _DTYPES:
        allowed = ", ".join(map(_name_of, _DTYPES))
        raise UnsupportedError(
            f"Parameter {name!r} has dtype {_name_of(tensor.dtype)}, but only "
            f"{allowed} can be federated; keep the real and the imaginary part of a "
            "complex parameter as two real ones."
        )


def mean_buffers(module: nn.Module) -> list[Tensor]:
    """Return the buffers that `buffers="mean"` averages, each once.

    These are the floating-point buffers that the module saves in its `state_dict`, such
    as the running mean and variance of BatchNorm. Integers (`num_batches_tracked`) and
    buffers that are not saved stay local.
    """
    saved = module.state_dict(keep_vars=True)
    return [
        buffer
        for name, buffer in module.named_buffers()
        if name in saved and buffer.dtype in _DTYPES
    ]


def released_names(module: nn.Module, buffers: Buffers) -> list[str]:
    """Return what the module calls the tensors of the flat vector, in its order.

    Args:
        module: the module that is trained.
        buffers: `"local"` or `"mean"`.
    """
    chosen = [*trainable_parameters(module), *_wanted_buffers(module, buffers)]
    known = {id(tensor) for tensor in chosen}
    named = (*module.named_parameters(), *module.named_buffers())
    return [name for name, tensor in named if id(tensor) in known]


@dataclass(frozen=True, slots=True)
class Layout:
    """Shapes and dtypes of the flat vector, in order.

    Two participants whose layouts have the same digest put every value in a place of
    the same shape. Names are not part of it (`arrangement` compares them): a script
    that only has a list of parameters gets the digest that the module gives.

    Args:
        parameters: one entry per trainable tensor, such as `"float32 10x64"`.
        buffers: one entry per averaged buffer.
        n_params: number of trainable values, >= 1.
        n_buffers: number of averaged buffer values, >= 0.

    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> layout.parameters, layout.n_params
    (('float32 2x3', 'float32 2'), 8)
    """

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    n_params: int
    n_buffers: int

    @classmethod
    def of(cls, source: Source, buffers: Buffers = "local") -> Layout:
        """Describe a module, or a list of parameters in the module's order.

        Args:
            source: a module, or its parameters as tensors.
            buffers: `"local"` leaves buffers out, `"mean"` takes the module's in.

        Raises:
            LayoutError: nothing is trainable, or buffers are wanted without a module.
            UnsupportedError: a parameter is complex, or has no values yet.
        """
        parameters = trainable_parameters(source)
        if not parameters:
            raise LayoutError(
                "No parameter is trainable: all are frozen, or there are none. Set "
                "requires_grad on those that shall be federated."
            )
        return cls.of_tensors(parameters, _wanted_buffers(source, buffers))

    @classmethod
    def of_tensors(
        cls, parameters: Sequence[Tensor], averaged: Sequence[Tensor] = ()
    ) -> Layout:
        """Describe trainable tensors and averaged buffers, each in their order."""
        return cls(
            parameters=tuple(map(_describe, parameters)),
            buffers=tuple(map(_describe, averaged)),
            n_params=sum(tensor.numel() for tensor in parameters),
            n_buffers=sum(tensor.numel() for tensor in averaged),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over the shapes and dtypes, 32 octets."""
        lines = [
            "hre_torch layout 1",
            *(f"parameter {entry}" for entry in self.parameters),
            *(f"buffer {entry}" for entry in self.buffers),
        ]
        return hashlib.sha256("\n".join(lines).encode()).digest()

    def require(self, config: TaskConfig) -> None:
        """Check that this is the layout of the task.

        Raises:
            LayoutError: it is not; the message says what differs and what to do.
        """
        if self.n_buffers != config.n_buffers:
            raise LayoutError(
                f"The task averages {config.n_buffers} buffer values, but this "
                f"optimizer brings {self.n_buffers}; use the same buffers='local' or "
                "buffers='mean' for the federation and for every HREOptimizer."
            )
        if self.n_params != config.n_params:
            raise LayoutError(
                f"The task was made for {config.n_params} trainable values, but here "
                f"are {self.n_params}; pass module=model to HREOptimizer, and freeze "
                "the same parameters as in the model that the task was made with."
            )
        if self.digest != config.layout_digest:
            raise LayoutError(
                "The parameters have the task's number of values, but other shapes, "
                "dtypes or order; pass module=model to HREOptimizer so that the order "
                "is the module's own, and use the dtypes the task was made with."
            )


def _wanted_buffers(source: Source, buffers: Buffers) -> list[Tensor]:
    if buffers == "local":
        return []
    if buffers != "mean":
        raise LayoutError(f"buffers is {buffers!r}; it must be 'local' or 'mean'.")
    if not isinstance(source, nn.Module):
        raise LayoutError(
            "buffers='mean' needs the module that owns the buffers; pass module=model."
        )
    return mean_buffers(source)


def _describe(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{_name_of(tensor.dtype)} {shape}"


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive values of a flat vector, and the parts of tensors they live in.

    Args:
        place: where the values stand in the vector.
        parts: tensor, first and last-but-one value of each part; a tensor that is not
            contiguous in memory is never split.
    """

    place: slice
    parts: tuple[tuple[Tensor, int, int], ...]

    @torch.no_grad()
    def read(self) -> npt.NDArray[np.float64]:
        """Return the values, float64, shape `(size,)`; exact for every dtype."""
        values = np.empty(self.place.stop - self.place.start, dtype=np.float64)
        for target, source in self._pairs(values):
            target.copy_(source)
        return values

    @torch.no_grad()
    def write(self, values: npt.NDArray[np.float64]) -> None:
        """Put values into the tensors, in place, rounded to each tensor's own dtype.

        Args:
            values: float64, shape `(size,)`.
        """
        for source, target in self._pairs(values):
            target.copy_(source)

    def image(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return what `read` gives after `write(values)`, without touching a tensor.

        Args:
            values: float64, shape `(size,)`.
        """
        rounded = np.empty_like(values)
        for (source, tensor), (target, _) in zip(
            self._pairs(values), self._pairs(rounded), strict=True
        ):
            target.copy_(source.to(tensor.dtype))
        return rounded

    def _pairs(
        self, values: npt.NDArray[np.float64]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        vector, start = torch.from_numpy(values), 0
        for tensor, first, last in self.parts:
            piece = vector[start : start + last - first]
            start += last - first
            if tensor.is_contiguous():
                yield piece, tensor.detach().view(-1)[first:last]
            else:
                yield piece.view(tensor.shape), tensor.detach()


class FlatView:
    """Tensors of any shape, dtype and device, seen as one float64 vector.

    Args:
        tensors: in the order of the layout; the view keeps them, not copies.
        piece_values: most values of a piece, which bounds what work on a large model
            takes besides the model.

    Attributes:
        tensors: as given.
        pieces: the vector, cut into pieces in order.
        n_values: length of the vector.
    """

    def __init__(
        self, tensors: Sequence[Tensor], piece_values: int = _PIECE_VALUES
    ) -> None:
        self.tensors = tuple(tensors)
        self._piece_values = piece_values
        self._identities = frozenset(map(id, tensors))
        self.pieces = tuple(_pieces(tensors, piece_values))
        self.n_values = self.pieces[-1].place.stop if self.pieces else 0

    @classmethod
    def of(cls, source: Source, buffers: Buffers = "local") -> FlatView:
        """View the values that `Layout.of(source, buffers)` describes.

        Raises:
            LayoutError: buffers are wanted without a module.
            UnsupportedError: a parameter is complex, or has no values yet.
        """
        parameters = source if isinstance(source, nn.Module) else list(source)
        averaged = _wanted_buffers(parameters, buffers)
        return cls([*trainable_parameters(parameters), *averaged])

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._identities

    def replaced(self, others: Mapping[int, Tensor]) -> FlatView:
        """Return a view of other tensors in the same places.

        Args:
            others: `id` of a tensor to what stands in its place, of the same shape; a
                tensor that is not named stays.
        """
        if not others:
            return self
        tensors = [others.get(id(tensor), tensor) for tensor in self.tensors]
        return FlatView(tensors, self._piece_values)

    def read(self) -> npt.NDArray[np.float64]:
        """Return all values, float64, shape `(n_values,)`; exact for every dtype."""
        values = np.empty(self.n_values, dtype=np.float64)
        for piece in self.pieces:
            values[piece.place] = piece.read()
        return values

    def write(self, values: npt.NDArray[np.float64]) -> None:
        """Put all values into the tensors, in place.

        Args:
            values: float64, shape `(n_values,)`.
        """
        for piece in self.pieces:
            piece.write(values[piece.place])


def _pieces(tensors: Sequence[Tensor], most: int) -> Iterator[Piece]:
    start = size = 0
    parts: list[tuple[Tensor, int, int]] = []
    for tensor in tensors:
        step = most if tensor.is_contiguous() else max(1, tensor.numel())
        for first in range(0, tensor.numel(), step):
            last = min(first + step, tensor.numel())
            if parts and size + last - first > most:
                yield Piece(slice(start, start + size), tuple(parts))
                start, size, parts = start + size, 0, []
            parts.append((tensor, first, last))
            size += last - first
    if parts:
        yield Piece(slice(start, start + size), tuple(parts))
