"""What crosses between the local model and the session: one push, one pull.

    v       = weight(staleness) * min(1, clip / ||local||_2) * local
    q       = quantise(v / m)          |q| <= the largest value of the upload's weight
    local' = v - m q / 2^f

`v` is the update, `m` the multiple at which its owner applies it until it is released:
1 in a sum, t in a mean, M/w with weights, where `w` goes behind `q` (see `Combination`,
which says how m q is rounded then). Without error feedback local' is zero.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import warnings
import weakref
from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hre_torch.encoding.fixed_point import (
    NearestRounding,
    Rounding,
    StochasticRounding,
)
from hre_torch.errors import (
    CheckpointError,
    HREError,
    HREWarning,
    LayoutError,
    NonFiniteError,
    StaleUploadError,
    UnsupportedError,
)
from hre_torch.optim.flatten import FlatView
from hre_torch.optim.local_model import LocalModel
from hre_torch.optim.privacy import GaussianNoise, discrete_gaussian
from hre_torch.optim.staleness import StalenessWeight
from hre_torch.participant.participant import Opened
from hre_torch.participant.session import Session
from hre_torch.protocol.combination import Combination
from hre_torch.protocol.suite import Integers

__all__ = ["Exchange"]

Vector = npt.NDArray[np.float64]

_OWNERS: Final[MutableMapping[Tensor, weakref.ref[Session]]] = WeakTensorKeyDictionary()
"""Parameter to a weak reference of the session that trains it."""
_HAIR: Final = 1 - 2.0**-30
"""Sums of 10^7 squares and what follows of them are good to 10^-12."""


class Exchange:
    """Pushes from the local model, which follows the session's weights.

    The session's observer is told of one more phase, `quantise`.

    Args:
        session: participant and aggregator.
        view: the parameters, and buffers if they are averaged.
        guard: whether nothing else may change the parameters from step to step.
        clip: L2 bound of an update's parameters, > 0, or None.
        error_feedback: whether what quantisation left over stays in the local model.
        rounding: rule of the quantiser; to the nearest if None.
        staleness_weight: weight of an update of a given staleness, in (0, 1].
        noise: differential privacy of this participant; none if None.
        samples: how many samples an update stands for, where updates have weights.

    Attributes:
        view: as given.
        model: the local model, which has what is not pushed yet.
        saturated: values of the last push that were cut to what one push can carry.
        norm: L2 norm of the newest update's parameters, before clip and weight.
        clipped: whether the clip has shortened that update.

    Steps that an earlier optimizer made on the same session, and did not push, go on
    here.

    Raises:
        UnsupportedError: the noise or the samples do not fit the task, or the
            parameters are trained through another open session. Later on, by any
            method: another optimizer was made on the same session.
        OutsideChangeError: an earlier optimizer's parameters were changed since its
            last step.
    """

    def __init__(
        self,
        session: Session,
        view: FlatView,
        *,
        guard: bool,
        clip: float | None,
        error_feedback: bool,
        rounding: Rounding | None,
        staleness_weight: StalenessWeight,
        noise: GaussianNoise | None = None,
        samples: int | None = None,
    ) -> None:
        _claim(view.tensors, session)
        self.view = view
        self.saturated = 0
        self._session = session
        self._task = session.task
        self._combination = Combination(session.task.config)
        self._weight = self._combination.weight_of(samples)
        self._clip = clip
        self.norm = 0.0
        self.clipped = False
        self._error_feedback = error_feedback
        self._rounding = rounding
        self._staleness_weight = staleness_weight
        # Any other rule than to the nearest may be off by as much as a unit.
        nearest = isinstance(rounding, NearestRounding | None)
        error = 0.5 if nearest else 1.0
        self._noise_width = noise.width(self._task, clip, error) if noise else 0.0
        earlier = session.attached
        if isinstance(earlier, LocalModel):
            earlier.absorb()
        n_guarded = session.task.config.n_params if guard else 0
        guarded = _first(view.tensors, n_guarded)
        self.model = LocalModel(view, self._known_weights, guarded)
        session.attach(self.model)
        if isinstance(earlier, LocalModel):
            self.model.take_over(earlier)

    def push(self) -> int:
        """Hand everything in `local` to the session.

        Returns:
            The sequence number of the upload.

        Raises:
            BackPressure: too much is unreleased already; nothing was sent or changed.
            NonFiniteError: a parameter is NaN or infinite; nothing was sent.
            AggregatorError: no acknowledgement came; the same bytes go first next time.
            HREError: the DSP refused this update or an earlier one; the session has it.
        """
        self._absorb()
        try:
            sequence = self._push_once()
        except StaleUploadError:
            # Too many releases were missed. Once they are pulled, the same update is
            # based on the newest weights.
            self.pull()
            return self._push_once()
        if self._session.staleness > self._task.config.staleness_bound:
            # The DSP says so itself: the session seals the update again after a pull.
            self.pull()
        return sequence

    def pull(self) -> list[Opened]:
        """Open the releases since the last pull and add them to the parameters.

        Returns:
            What the session opened, oldest first.

        Raises:
            NonFiniteError: a parameter is NaN or infinite; nothing was fetched.
        """
        self._require_followed()
        return self._session.pull()

    def catch_up(self) -> list[Opened]:
        """Pull, and wait for everything that there is; else as `pull`."""
        self._require_followed()
        return self._session.catch_up()

    def settle(self) -> None:
        """Send what the DSP has not answered.

        Raises:
            AggregatorError: no answer came.
            HREError: it refuses an update; the session keeps it.
        """
        self._require_followed()
        self._session.resend()

    def showing_released(self) -> AbstractContextManager[None]:
        """Show the released weights inside, without anything of one's own."""
        self._require_followed()
        return self.model.showing(
            lambda place: self._task.fixed_point.to_float(self._session.released(place))
        )

    def adopt(self) -> None:
        """Take the parameters as they are now for training; warn of what changed.

        Raises:
            NonFiniteError: a parameter is NaN or infinite; all were put back.
        """
        self._require_followed()
        changed, own = self.model.adopt()
        share = f", {changed / own:.1%} of the weights' own" if own else ""
        warnings.warn(
            f"The model's present weights become part of the next update, which moves "
            f"them by {changed:.3g} in L2 norm{share}: everybody will get that.",
            HREWarning,
            stacklevel=3,
        )

    def restore(self) -> None:
        """Show the session's weights and what is not yet pushed again."""
        self._require_followed()
        self.model.show()

    def idle(self) -> bool:
        """Whether all that is not yet pushed rounds to zero.

        Raises:
            NonFiniteError: as for `push`.
        """
        self._absorb()
        half = 0.5 / self._task.fixed_point.scale
        return all(
            (np.abs(self.model.local[place]) <= half * self._own_multiple(place)).all()
            for place in self._places()
        )

    def recover(self) -> None:
        """Go back to the last finite model, if the present one is not finite."""
        with contextlib.suppress(NonFiniteError):
            self._absorb()

    def state_dict(self) -> dict[str, Any]:
        """Return what is not yet pushed, and where a stochastic rounding stands.

        `local_before` is `local` as of the last look at the parameters. It makes a
        resumed training the same bit for bit where session and parameters are as they
        were, which the digest tells. Task and pushes tell what `local` lies on top of.
        """
        try:
            local = self.model.absorbed()
        except NonFiniteError:
            # The parameters were put back to the last finite model.
            local = self.model.local.copy()
        return {
            "local": torch.from_numpy(local),
            "local_before": torch.from_numpy(self.model.local.copy()),
            "parameters_sha256": self._parameters_digest(),
            "rounding_calls": getattr(self._rounding, "calls", 0),
            "task": self._task.cfg.hex(),
            "pushes": self._session.pushed,
        }

    def is_current(self, state: dict[str, Any]) -> bool:
        """Whether what a saved state had not pushed is still unknown to the session.

        Loading shows the session's weights. Those of another task would take the place
        of a checkpoint's, and those of today the place of an older one's. A task that
        was made from the checkpoint's weights has all of it.

        Raises:
            CheckpointError: it is of another task, whose weights are not those of the
                model, or the session has pushed since it was written.
        """
        here = self._task.cfg.hex()
        if state["task"] != here:
            if self._shows_session():
                return False
            raise CheckpointError(
                f"The checkpoint is of task {state['task'][:16]}, this session of task "
                f"{here[:16]}, whose weights would take the place of the checkpoint's. "
                "Go on with the federation that was saved beside the checkpoint "
                "(Federation.load(path)), or load the model's checkpoint before "
                "Federation.local(model, ...)."
            )
        if "pushes" in state and (now := self._session.pushed) != state["pushes"]:
            raise CheckpointError(
                f"The checkpoint was written after {state['pushes']} pushes, but this "
                f"session stands at {now}: what was released since cannot be taken "
                "back. Go on with the federation that was saved beside the checkpoint "
                "(Federation.load(path)), or keep the present weights and load "
                "everything but state['hre_torch'] of the optimizer's."
            )
        return True

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start again from the session's weights and a saved state.

        A state that this training is in already moves nothing: `accelerate` saves and
        loads one to move it to a device, perhaps after a script has loaded a model.

        Raises:
            LayoutError: the state belongs to a model of another size.
        """
        local, before = (
            state[name].cpu().numpy().astype(np.float64)
            for name in ("local", "local_before")
        )
        if local.shape != self.model.local.shape:
            raise LayoutError(
                f"The saved state holds {local.size} values, but the task has "
                f"{self.model.local.size}; load the state of the same model."
            )
        digest = state["parameters_sha256"]
        unmoved = digest == self._parameters_digest()
        if not unmoved or not np.array_equal(before, self.model.local):
            self.model.local = local
            self.model.show()
            if digest == self._parameters_digest():
                self.model.local = before
        if isinstance(self._rounding, StochasticRounding):
            self._rounding.calls = state["rounding_calls"]

    def _absorb(self) -> None:
        self._require_followed()
        self.model.absorb()

    def _require_followed(self) -> None:
        if not self._session.follows(self.model):
            raise UnsupportedError(
                "Another HREOptimizer was made on this session, and the session's "
                "weights follow that one's model; a session serves one at a time, so "
                "go on with the newer one."
            )

    def _push_once(self) -> int:
        with self._session.observe("quantise"):
            factor = self._factor()
            values = self._quantised(factor)
        number = self._session.sequence
        try:
            sequence = self._session.push(self._noisy(values))
        except HREError:
            # It may be an earlier upload that did not get through; then this one was
            # not sealed, and nothing of it may leave `local`. What was sealed is the
            # session's.
            if self._session.sequence != number:
                self._leave_over(values, factor)
            raise
        self._leave_over(values, factor)
        return sequence

    def _factor(self) -> float:
        """Return what clipping and staleness multiply the parameters' update by."""
        factor = self._staleness_weight(self._session.staleness)
        self.norm = math.sqrt(
            sum(
                float(np.square(self._parameters(place)).sum())
                for place in self._places()
            )
        )
        if self._clip is not None:
            # A hair below the bound, which float arithmetic then never passes.
            bound = self._clip * _HAIR
            self.clipped = self.norm > bound
            factor *= bound / max(self.norm, bound)
        return factor

    def _update(self, place: slice, factor: float) -> Vector:
        # Buffers are statistics, not steps: neither the norm nor age applies to them.
        update = self.model.local[place].copy()
        update[: self._parameters(place).size] *= factor
        return update

    def _quantised(self, factor: float) -> Integers:
        config, dtype = self._task.config, self._task.fixed_point.dtype
        values = np.empty(config.n_sealed, dtype=dtype)
        values[config.n_values :] = self._weight
        largest = self._combination.largest(self._weight)
        self.saturated = 0
        for place in self._places():
            update = self._update(place, factor) / self._own_multiple(place)
            quantised = self._task.fixed_point.quantise(update, self._rounding)
            if largest < self._task.fixed_point.limit:
                np.clip(quantised, -largest, largest, out=quantised)
            self.saturated += int(np.count_nonzero(np.abs(quantised) == largest))
            values[place] = quantised
        # The session keeps it for as long as it is not released.
        values.flags.writeable = False
        return values

    def _noisy(self, values: Integers) -> Integers:
        # What is left over is reckoned without the noise: error feedback would take
        # the noise back with the next push.
        if not self._noise_width:
            return values
        noise = discrete_gaussian(self._noise_width, values.size)
        limit = self._task.fixed_point.limit
        noisy: Integers = np.clip(values + noise, -limit, limit).astype(values.dtype)
        noisy.flags.writeable = False
        return noisy

    def _leave_over(self, values: Integers, factor: float) -> None:
        """Replace `local` by what quantisation left of it, and show that."""
        if self._error_feedback:
            for place in self._places():
                sent = self._combination.own(values, place)
                update = self._update(place, factor)
                update -= self._task.fixed_point.to_float(sent)
                self.model.local[place] = update
        else:
            self.model.local.fill(0.0)
        with self._session.observe("load"):
            self.model.show()

    def _parameters(self, place: slice) -> Vector:
        end = min(place.stop, self._task.config.n_params)
        return self.model.local[place.start : max(place.start, end)]

    def _own_multiple(self, place: slice) -> Vector:
        return self._combination.multiple(self._weight, place)

    def _parameters_digest(self) -> str:
        digest = hashlib.sha256()
        for octets in self.model.bits():
            digest.update(octets)
        return digest.hexdigest()

    def _shows_session(self) -> bool:
        """Whether the parameters are the session's weights, up to the task's rounding.

        Whoever quantised them moved each by half a unit at most.
        """
        unit = 1.0 / self._task.fixed_point.scale
        return all(
            (
                np.abs(piece.read() - piece.image(self._known_weights(piece.place)))
                <= unit
            ).all()
            for piece in self.view.pieces
        )

    def _known_weights(self, place: slice) -> Vector:
        return self._task.fixed_point.to_float(self._session.weights(place))

    def _places(self) -> list[slice]:
        return [piece.place for piece in self.view.pieces]


def _first(tensors: Sequence[Tensor], n_values: int) -> list[Tensor]:
    """Return the tensors that hold the first values of a flat vector."""
    ends = itertools.accumulate(tensor.numel() for tensor in tensors)
    return [
        tensor for tensor, end in zip(tensors, ends, strict=True) if end <= n_values
    ]


def _claim(tensors: Sequence[Tensor], session: Session) -> None:
    """Note that these tensors are trained through a session.

    Raises:
        UnsupportedError: they are trained through another one that is open.
    """
    for tensor in tensors:
        known = _OWNERS.get(tensor)
        owner = None if known is None else known()
        if owner is not None and owner is not session and not owner.closed:
            raise UnsupportedError(
                f"This model is trained through the open session of {owner.name!r} "
                f"already; that of {session.name!r} would undo its steps. Give each "
                "participant a model of its own, copy.deepcopy(model), or close the "
                "other session first."
            )
    for tensor in tensors:
        _OWNERS[tensor] = weakref.ref(session)
