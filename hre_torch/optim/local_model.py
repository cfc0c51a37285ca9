"""The weights a participant trains on, in three layers.

    parameters = image(base + local)

`base` is what the session knows: the released weights plus all own updates that are not
yet released, as float64. `local` is what the session does not know yet: the steps since
the last push and what quantisation left over. `image` rounds to each parameter's dtype.

`local` gathers only what training changed. The rounding of `image` is not a change, so
that a bfloat16 model, whose image is coarse, never pushes its own rounding error. Nor
is what a script does to the parameters between two steps, unless it says so: they are
compared with a copy that was made when this optimizer last moved them.

Everything happens piece by piece, so that only `local` itself and that copy are as
large as the model.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hre_torch.errors import NonFiniteError, OutsideChangeError, UnsupportedError
from hre_torch.optim.flatten import FlatView

__all__ = ["LocalModel"]

Vector = npt.NDArray[np.float64]

_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class LocalModel:
    """Keeps the parameters in step with what the session knows and does not know.

    Args:
        view: the parameters, and buffers if they are averaged.
        base: returns a piece of released weights and own pending updates, float64.
        guarded: the tensors that nothing else may change from step to step: the
            parameters, but no buffers, which every forward pass moves. None by default.

    Attributes:
        local: what is not pushed yet, float64, shape `(n_values,)`.
        steps: how many local steps are in `local`.
    """

    def __init__(
        self,
        view: FlatView,
        base: Callable[[slice], Vector],
        guarded: Sequence[Tensor] = (),
    ) -> None:
        self.view = view
        self.local: Vector = np.zeros(view.n_values)
        self.steps = 0
        self._base = base
        self._stepping = False
        self._elsewhere = False
        self._copies = _Copies(guarded)
        self._own_view = view.replaced(self._copies.by_identity())
        self.show()

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Take what happens to the parameters inside for training.

        Raises:
            OutsideChangeError: they were changed between the last step and this one.
        """
        self.require_untouched()
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
            self._copies.renew()

    def require_untouched(self) -> None:
        """Refuse parameters that something else has changed since the last step.

        Raises:
            OutsideChangeError: names how many, by how much, and what to do.
            UnsupportedError: the model shows other weights for now.
        """
        if self._stepping:
            return
        if self._elsewhere:
            raise UnsupportedError(
                "The model shows released weights for now; leave the block of "
                "`with optimizer.released()` before you train, push or pull."
            )
        changed = self._copies.changed()
        if changed:
            raise OutsideChangeError(
                f"{len(changed)} of {len(self._copies)} parameters were changed "
                "between two steps, and not by this optimizer: by "
                f"{_distance(changed):.3g} in L2 norm. Call "
                "optimizer.adopt_weights() to make the present weights part of the "
                "next update, optimizer.restore() to have the session's weights and "
                "your steps again, or make HREOptimizer with outside_changes='push' "
                "if the script changes weights after each step, by clipping for "
                "instance."
            )

    def absorb(self) -> None:
        """Add to `local` what happened to the parameters since the last look.

        To be called before `base` changes.

        Raises:
            NonFiniteError: a parameter is NaN or infinite; the parameters have been put
                back to the last finite model and `local` is as before.
            OutsideChangeError: as for `require_untouched`.
        """
        self._require_finite(self.view)
        self.require_untouched()
        self._absorb_into(self.local, self.view)

    def absorbed(self) -> Vector:
        """Return what `absorb` would make of `local`, and change nothing.

        Looking rounds, so that one look more or less would be another training in its
        last bits. Saving a state must not be one. Parameters that something else has
        changed for now, as for an evaluation, count as they were after the last step.

        Raises:
            NonFiniteError: as for `absorb`.
        """
        self._require_finite(self._own_view)
        local = np.empty_like(self.local)
        self._absorb_into(local, self._own_view)
        return local

    def adopt(self) -> tuple[float, float]:
        """Take the parameters as they are now for training.

        Returns:
            L2 norm of what changed since the last step, and of the weights before.

        Raises:
            NonFiniteError: as for `absorb`.
        """
        self._require_finite(self.view)
        before = self.local.copy()
        self._absorb_into(self.local, self.view)
        self._copies.renew()
        changed = own = 0.0
        for piece in self.view.pieces:
            change = self.local[piece.place] - before[piece.place]
            changed += float(np.square(change).sum())
            weights = self._base(piece.place) + before[piece.place]
            own += float(np.square(weights).sum())
        return math.sqrt(changed), math.sqrt(own)

    def show(self) -> None:
        """Put `base + local` into the parameters, after either has changed."""
        for piece in self.view.pieces:
            piece.write(self._base(piece.place) + self.local[piece.place])
        if not self._stepping:
            self._copies.renew()

    @contextlib.contextmanager
    def showing(self, values: Callable[[slice], Vector]) -> Iterator[None]:
        """Show other weights inside; what was there comes back bit for bit.

        Args:
            values: returns a piece of them, float64.

        Raises:
            UnsupportedError, OutsideChangeError: as for `require_untouched`.
        """
        self.require_untouched()
        kept = [tensor.detach().clone() for tensor in self.view.tensors]
        self._elsewhere = True
        try:
            for piece in self.view.pieces:
                piece.write(values(piece.place))
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(self.view.tensors, kept, strict=True):
                    tensor.copy_(before)
            self._elsewhere = False

    def take_over(self, earlier: LocalModel) -> None:
        """Go on with what another model of the same session had not pushed."""
        self.local, self.steps = earlier.local, earlier.steps
        self.show()

    def bits(self) -> Iterator[bytes]:
        """Yield the values after the last step, piece by piece, as octets."""
        for piece in self._own_view.pieces:
            yield piece.read().tobytes()

    def _absorb_into(self, target: Vector, view: FlatView) -> None:
        for piece in view.pieces:
            now, base = piece.read(), self._base(piece.place)
            before = self.local[piece.place]
            local = before + (now - piece.image(base + before))
            # Adding may round to a neighbour of the parameter that is there; the
            # parameter wins, so that showing the model again never moves it.
            agrees = piece.image(base + local) == now
            target[piece.place] = np.where(agrees, local, now - base)

    def _require_finite(self, view: FlatView) -> None:
        broken = sum(
            int((~torch.isfinite(tensor)).count_nonzero()) for tensor in view.tensors
        )
        if broken:
            self.show()
            raise NonFiniteError(
                f"{broken} of {self.view.n_values} parameters became NaN or infinite; "
                "they were put back to the last finite model. Look at the learning "
                "rate if it happens again."
            )


class _Copies:
    """What tensors held when this optimizer last moved them.

    Versions that torch counts do not tell: writing to `tensor.data` counts as none.

    Args:
        tensors: those to watch; the copies are made at once.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._copies = [tensor.detach().clone() for tensor in tensors]

    def __len__(self) -> int:
        return len(self._tensors)

    def by_identity(self) -> dict[int, Tensor]:
        """Return the copies by the identity of what they are copies of."""
        return {
            id(tensor): copy
            for tensor, copy in zip(self._tensors, self._copies, strict=True)
        }

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the tensors as they are now."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            if (tensor.device, tensor.dtype) != (copy.device, copy.dtype):
                copy.data = torch.empty_like(tensor)
            copy.copy_(tensor)

    @torch.no_grad()
    def changed(self) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors that differ from their copies, each with its copy."""
        return [
            (tensor.detach(), copy)
            for tensor, copy in zip(self._tensors, self._copies, strict=True)
            if not _same(tensor.detach(), copy)
        ]


def _same(tensor: Tensor, copy: Tensor) -> bool:
    if (tensor.device, tensor.dtype) != (copy.device, copy.dtype):
        # Moving a model to another device or dtype is no change of what it learned.
        copy = copy.to(tensor.device, tensor.dtype)
    # Bits, since NaN is no number that equals itself.
    bits = _BITS[tensor.element_size()]
    return torch.equal(tensor.view(bits), copy.view(bits))


def _distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    squares = (
        float((tensor.double() - copy.to(tensor.device).double()).square().sum())
        for tensor, copy in pairs
    )
    return math.sqrt(sum(squares))
