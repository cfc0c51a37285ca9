"""What a task would be for a model and a roster, before anybody has signed it."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from torch import nn

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.encoding.fixed_point import MOST_VALUE_BITS, FixedPoint
from hre_torch.errors import LayoutError, RoundingWarning, TaskError
from hre_torch.optim.arrangement import frozen_digest, plain_names
from hre_torch.optim.flatten import FlatView, Layout
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.task_options import ModelFacts, TaskOptions
from hre_torch.protocol.vectors import state_digest

__all__ = ["describe_model", "model_of", "propose_task"]

_TOO_LARGE: Final = 2.0**53
"""Integers from here on are not all floats."""

_LOST: Final = 0.5
"""Share of a tensor's values above which their rounding to zero is worth a word. Random
first weights always have a few that are as small."""

_NOISE: Final = 2.0**-20
"""Smaller values are what training leaves where zero is meant. First weights that are
meant to be small are larger: LayerScale begins at 1e-6 (Touvron et al., "Going deeper
with Image Transformers", ICCV 2021). What timm draws with a deviation of 1e-6, a
transformer's class token, is noise: a third of it is larger."""

_SHOWN: Final = 3


def describe_model(
    model: nn.Module, options: TaskOptions
) -> tuple[ModelFacts, npt.NDArray[np.int64]]:
    """Return what a task says of a model, and its first weights.

    Args:
        model: its trainable parameters are what the task trains, from the values they
            have now.
        options: what was chosen.

    Raises:
        TaskError: the weights are not finite or too large.
        LayoutError, UnsupportedError: the model cannot be federated.
    """
    layout = Layout.of(model, options.buffers)
    scale = FixedPoint(options.fraction_bits, options.value_bits).scale
    view = FlatView.of(model, options.buffers)
    initial = _quantised(view.read(), scale)
    names = plain_names(model, options.buffers)
    _warn_of_lost(view, initial, names, options)
    facts = ModelFacts(
        n_params=layout.n_params,
        n_buffers=layout.n_buffers,
        layout_digest=layout.digest,
        names=names,
        frozen_digest=frozen_digest(model) if options.frozen == "same" else b"",
        initial_digest=state_digest(initial),
    )
    return facts, initial


def model_of(spec: str) -> nn.Module:
    """Return the model that a function makes, which is named as entry points are.

    Args:
        spec: `"package.module:function"`. The function takes no arguments; the class of
            a model that can be made without any is such a function, too.

    Raises:
        TaskError: there is no such function, it fails, or it makes no model.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise TaskError(
            f"{spec!r} names no model; write package.module:function, where the "
            "function takes no arguments and returns a torch.nn.Module"
        )
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise TaskError(
            f"cannot import {module!r} ({type(error).__name__}: {error}); it must be "
            "installed, or lie in this folder or below PYTHONPATH"
        ) from error
    make = getattr(found, name, None)
    if not callable(make):
        raise TaskError(f"{module!r} has no function {name!r}")
    try:
        model = make()
    except Exception as error:
        raise TaskError(f"{spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"{spec} returned {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def propose_task(
    model: nn.Module,
    roster: Roster,
    parameters: Parameters,
    options: TaskOptions,
    *,
    start: npt.NDArray[np.int64] | None = None,
) -> tuple[TaskConfig, npt.NDArray[np.int64]]:
    """Return the task's numbers, with all defaults filled in, and its first weights.

    Args:
        model: see `describe_model`.
        roster: who takes part.
        parameters: the modulus profile that the options name.
        options: what was chosen.
        start: weights to start from, released by an earlier task with the same model;
            by default the model's own.

    Raises:
        TaskError, LayoutError, UnsupportedError: as for `describe_model`.
        LayoutError: `start` is of a model of another size.
        UnknownPluginError: no such suite.
    """
    facts, initial = describe_model(model, options)
    if start is not None:
        if start.shape != initial.shape:
            raise LayoutError(
                f"the weights to start from have shape {start.shape}, the model's "
                f"{initial.shape}; use weights that were trained with the same model"
            )
        initial = start
        facts = msgspec.structs.replace(facts, initial_digest=state_digest(start))
    numbers = msgspec.structs.asdict(facts)
    return options.config(roster, parameters, **numbers), initial


def _quantised(values: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.int64]:
    scaled = np.rint(values * scale)
    if not (np.abs(scaled) < _TOO_LARGE).all():
        raise TaskError(
            "the model's initial weights hold NaN or infinity, or numbers that are too "
            "large for fraction_bits; initialise it again"
        )
    return scaled.astype(np.int64)


def _warn_of_lost(
    view: FlatView,
    initial: npt.NDArray[np.int64],
    names: Sequence[str],
    options: TaskOptions,
) -> None:
    """Warn of tensors most of whose values are not zero and round to zero."""
    values = view.read()
    lost = (np.abs(values) >= _NOISE) & (initial == 0)
    if not lost.any():
        return
    ends = np.cumsum([tensor.numel() for tensor in view.tensors])[:-1]
    pieces = zip(names, np.split(lost, ends), strict=True)
    worst = [name for name, gone in pieces if gone.sum() > _LOST * gone.size]
    if not worst:
        return
    smallest = float(np.abs(values[lost]).min())
    # Half of a unit rounds to zero, what is larger does not.
    needed = math.floor(-math.log2(smallest))
    bits = options.value_bits + needed - options.fraction_bits
    advice = f"value_bits={bits} the range of an update"
    if bits > MOST_VALUE_BITS:
        most = 2.0 ** (MOST_VALUE_BITS - 1 - needed)
        advice = (
            f"value_bits={MOST_VALUE_BITS}, the most there is, lets an update move a "
            f"value by {most:g}"
        )
    warnings.warn(
        f"{lost.sum()} weights that are not zero round to zero at fraction_bits="
        f"{options.fraction_bits}, most of those in {', '.join(worst[:_SHOWN])}; the "
        f"smallest is {smallest:.3g}. fraction_bits={needed} keeps them, and {advice}.",
        RoundingWarning,
        stacklevel=4,
    )
