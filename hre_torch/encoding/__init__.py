"""From float updates to plaintext integers and back: fixed point and packing."""

from __future__ import annotations

from hre_torch.encoding.fixed_point import (
    FixedPoint,
    NearestRounding,
    Rounding,
    StochasticRounding,
    make_rounding,
)
from hre_torch.encoding.packing import Packing

__all__ = [
    "FixedPoint",
    "NearestRounding",
    "Packing",
    "Rounding",
    "StochasticRounding",
    "make_rounding",
]
