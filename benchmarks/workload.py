"""The work that every system is given: the same updates, the same cores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.encoding.packing import Packing

__all__ = ["Workload"]

# A typical size of a value in an update; no system's cost depends on it.
_DEVIATION: Final = 0.01
_SEED: Final = 1


@dataclass(frozen=True)
class Workload:
    """Updates of one length, and what the systems may use to protect them.

    The numbers are those of the reference workload: 16-bit values at scale 2^16.

    Attributes:
        values: length of one update, at least 1.
        profile: modulus profile; peers with a modulus take one of the same length.
        threads: cores that a system is allowed to use.
        sample: most values that a peer really treats; time and bytes of a longer
            update are scaled up. None measures all of them.
        participants: how many updates a round adds; suites that hide each update
            among others take no fewer than three.
        fraction_bits: `f`.
        value_bits: `b`.
        max_additions: `K` of peers that need one; a suite takes its own default.
    """

    values: int
    profile: str = "demo3072"
    threads: int = 1
    sample: int | None = None
    participants: int = 3
    fraction_bits: int = 16
    value_bits: int = 16
    max_additions: int = 256

    @cached_property
    def parameters(self) -> Parameters:
        """The group that the profile names."""
        return load_profile(self.profile)

    @property
    def fixed_point(self) -> FixedPoint:
        """The quantiser of the updates."""
        return FixedPoint(self.fraction_bits, self.value_bits)

    def packing(self, modulus: int) -> Packing:
        """Return how values share a plaintext below `modulus`."""
        return Packing(modulus, self.value_bits, self.max_additions)

    def updates(self, count: int) -> list[npt.NDArray[np.float64]]:
        """Return `count` updates, float64, each of shape `(values,)`.

        All values lie on the grid of the fixed point already. So systems that round in
        another way, or not at all, owe the same exact sum.
        """
        stream, fixed_point = np.random.default_rng(_SEED), self.fixed_point
        drawn = (stream.normal(0.0, _DEVIATION, self.values) for _ in range(count))
        return [
            fixed_point.to_float(fixed_point.quantise(update).astype(np.int64))
            for update in drawn
        ]
