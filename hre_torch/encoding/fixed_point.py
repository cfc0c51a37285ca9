"""Fixed-point numbers: the integers that stand for the floats of an update.

A float `x` becomes the integer

    q = clip(round(x * 2^f), -limit, +limit),   limit = 2^(b-1) - 1,

with `f` fraction bits and `b` value bits, sign included. The range is symmetric because
a sum of K values at -2^(b-1) would leave its slot by exactly one (see `packing`). What
rounding and clipping take away is not lost: the optimizer keeps it as the
error-feedback residual and sends it later.

References:
    S. Gupta, A. Agrawal, K. Gopalakrishnan, P. Narayanan, "Deep Learning with Limited
    Numerical Precision", ICML 2015, section 3 (stochastic rounding).
    F. Seide, H. Fu, J. Droppo, G. Li, D. Yu, "1-Bit Stochastic Gradient Descent",
    Interspeech 2014, section 3 (error feedback).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hre_torch.errors import NonFiniteError, TaskError

__all__ = [
    "MOST_VALUE_BITS",
    "ROUNDINGS",
    "FixedPoint",
    "NearestRounding",
    "Rounding",
    "StochasticRounding",
    "make_rounding",
]

ROUNDINGS: Final = ("nearest", "stochastic")

# Quantised values travel as int32.
MOST_VALUE_BITS: Final = 32
# Parameters of ordinary size (around 1) have no finer bits than this in a float64.
_MOST_FRACTION_BITS: Final = 52


class Rounding(Protocol):
    """A rule that turns scaled floats into whole ones."""

    def __call__(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return whole numbers, each within 1 of its input; whole inputs unchanged."""
        ...


class NearestRounding:
    """Round to the nearest whole number, ties to even.

    >>> NearestRounding()(np.array([0.5, 1.5, -2.6])).tolist()
    [0.0, 2.0, -3.0]
    """

    def __call__(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the nearest whole numbers, shape as given."""
        return np.rint(scaled)


class StochasticRounding:
    """Round up with a probability equal to the fraction: right on average.

    E[round(x)] = floor(x) + (x - floor(x)) = x.

    The stream is seeded, so that a run can be repeated bit for bit. It is not secret:
    it decides only which of two neighbours a value becomes before it is encrypted.
    Call number `c` draws from the stream (seed, c); a resumed run therefore needs no
    more than the two whole numbers `seed` and `calls`.

    Args:
        seed: a whole number >= 0.
        calls: how many vectors were rounded before, >= 0.
    """

    def __init__(self, seed: int, calls: int = 0) -> None:
        self.seed = seed
        self.calls = calls

    def __repr__(self) -> str:
        return f"StochasticRounding(seed={self.seed}, calls={self.calls})"

    def __call__(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a random neighbour of each number, shape as given."""
        stream = np.random.default_rng([self.seed, self.calls])
        self.calls += 1
        below = np.floor(scaled)
        # A comparison, not floor(x + u): for large x that sum would round up to x + 1.
        raised = stream.random(scaled.shape) < scaled - below
        return np.add(below, raised, dtype=np.float64)


def make_rounding(name: str, seed: int = 0) -> Rounding:
    """Build the rounding rule of that name.

    Args:
        name: "nearest" or "stochastic".
        seed: seed of the stochastic stream; ignored by "nearest".

    Returns:
        A fresh rule.

    Raises:
        TaskError: no rounding has that name.
    """
    if name == "nearest":
        return NearestRounding()
    if name == "stochastic":
        return StochasticRounding(seed)
    raise TaskError(
        f"There is no rounding called {name!r}; choose one of {', '.join(ROUNDINGS)}."
    )


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The scale and the range of quantised values.

    Args:
        fraction_bits: f, 0 <= f <= 52; one unit stands for 2^-f.
        value_bits: b, sign included, 2 <= b <= 32.

    Raises:
        TaskError: a number of bits is out of range.

    >>> FixedPoint().quantise(np.array([0.5, -0.25, 3.0])).tolist()
    [32767, -16384, 32767]
    """

    fraction_bits: int = 16
    value_bits: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_bits <= _MOST_FRACTION_BITS:
            raise TaskError(
                f"fraction_bits is {self.fraction_bits}, but must lie between 0 and "
                f"{_MOST_FRACTION_BITS}; 16 suits most models."
            )
        if not 2 <= self.value_bits <= MOST_VALUE_BITS:
            raise TaskError(
                f"value_bits is {self.value_bits}, but must lie between 2 and "
                f"{MOST_VALUE_BITS}; 16 suits most models."
            )

    @property
    def scale(self) -> float:
        """2^f, the number of units in 1.0."""
        return float(2**self.fraction_bits)

    @property
    def limit(self) -> int:
        """The largest magnitude of a quantised value, 2^(b-1) - 1."""
        return int(2 ** (self.value_bits - 1) - 1)

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        """The narrowest type that holds quantised values: int16, or int32 if b > 16."""
        return np.dtype(np.int16 if self.value_bits <= 16 else np.int32)

    def quantise(
        self,
        values: NDArray[np.float64],
        rounding: Rounding | None = None,
    ) -> NDArray[np.int32]:
        """Turn floats into integers: clip(round(x * 2^f), -limit, +limit).

        Args:
            values: shape (n,), float64, finite.
            rounding: how to round; nearest (ties to even) if left out.

        Returns:
            Shape (n,), int32, -limit <= q <= limit.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """
        finite = np.isfinite(values)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            raise NonFiniteError(
                f"{bad.size} of {finite.size} values are NaN or infinite, the first at "
                f"index {bad[0]}; every value must be finite. Skip this update, and "
                "look at the learning rate if it happens again."
            )
        rule = NearestRounding() if rounding is None else rounding
        # Clipping comes first: it gives the same integers as clipping last, and the
        # largest floats would overflow when scaled.
        bound = self.limit / self.scale
        scaled = np.clip(np.asarray(values, dtype=np.float64), -bound, bound)
        return rule(scaled * self.scale).astype(np.int32)

    def to_float(self, integers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the floats that integers at scale 2^f stand for.

        Exact while |integer| <= 2^53.

        Args:
            integers: shape (n,), any integer type; sums may exceed `limit`.

        Returns:
            Shape (n,), float64.
        """
        return integers.astype(np.float64) / self.scale
