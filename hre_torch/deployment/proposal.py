"""What a task would be for a model and a roster, before anybody has signed it."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from hre_torch.crypto.modulus import Parameters
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import TaskError
from hre_torch.optim.flatten import Buffers, FlatView, Layout
from hre_torch.optim.guards import is_positive
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.vectors import state_digest

__all__ = ["Combine", "propose_task"]

Combine = Literal["sum", "mean", "weighted"]

_TOO_LARGE: Final = 2.0**53
"""Integers from here on are not all floats."""


def propose_task(
    model: nn.Module,
    roster: Roster,
    parameters: Parameters,
    *,
    suite: str,
    profile: str,
    min_contributions: int | None = None,
    assumed_colluders: int | None = None,
    combine: Combine | None = None,
    max_samples: int | None = None,
    max_additions: int | None = None,
    value_bits: int = 16,
    fraction_bits: int = 16,
    staleness_bound: int = 50,
    buffers: Buffers = "local",
    clip: float | None = None,
) -> tuple[TaskConfig, npt.NDArray[np.int64]]:
    """Return the task's numbers, with all defaults filled in, and its first weights.

    Args:
        model: its trainable parameters are what the task trains, from the values they
            have now.
        roster: who takes part.
        parameters: the modulus profile that `profile` names.
        suite: the protocol.
        profile: name or path of the profile.
        min_contributions: t; by default what the suite recommends.
        assumed_colluders: c; by default t - 2.
        combine: mean by default.
        max_samples: most samples that an update may stand for, if it is weighted.
        max_additions: K; by default the suite's.
        value_bits: b.
        fraction_bits: f.
        staleness_bound: S.
        buffers: `"local"`, or `"mean"`.
        clip: L2 bound of an update that the task announces.

    Raises:
        TaskError: the weights are not finite or too large, or a number is none.
        LayoutError, UnsupportedError: the model cannot be federated.
    """
    chosen = SUITES.get(suite)
    count = len(roster.participants)
    _require_numbers(
        min_contributions=min_contributions,
        assumed_colluders=assumed_colluders,
        max_samples=max_samples,
        max_additions=max_additions,
        value_bits=value_bits,
        fraction_bits=fraction_bits,
        staleness_bound=staleness_bound,
    )
    if clip is not None and not is_positive(clip):
        raise TaskError(f"clip is {clip!r}; it must be a positive number or None")
    layout = Layout.of(model, buffers)
    scale = FixedPoint(fraction_bits, value_bits).scale
    initial = _quantised(FlatView.of(model, buffers).read(), scale)
    if min_contributions is None:
        min_contributions = chosen.default_contributions(count)
    if max_additions is None:
        max_additions = chosen.default_max_additions
    if assumed_colluders is None:
        assumed_colluders = max(0, min_contributions - 2)
    config = TaskConfig(
        suite=suite,
        profile=profile,
        parameters_digest=parameters.digest,
        fraction_bits=fraction_bits,
        value_bits=value_bits,
        max_additions=max_additions,
        clip=None if clip is None else float(clip),
        min_contributions=min_contributions,
        assumed_colluders=assumed_colluders,
        staleness_bound=staleness_bound,
        pending_limit=max(1, max_additions // max(1, count)),
        combine=combine or "mean",
        max_samples=max_samples,
        n_params=layout.n_params,
        n_buffers=layout.n_buffers,
        layout_digest=layout.digest,
        initial_digest=state_digest(initial),
        roster_digest=roster.digest(),
    )
    return config, initial


def _require_numbers(**numbers: Any) -> None:
    """Refuse what is no int; None stands for a default.

    Raises:
        TaskError: one of them is not.
    """
    for name, value in numbers.items():
        if type(value) not in (int, type(None)):
            raise TaskError(f"{name} is {value!r}; it must be an int")


def _quantised(values: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.int64]:
    scaled = np.rint(values * scale)
    if not (np.abs(scaled) < _TOO_LARGE).all():
        raise TaskError(
            "the model's initial weights hold NaN or infinity, or numbers that are too "
            "large for fraction_bits; initialise it again"
        )
    return scaled.astype(np.int64)
