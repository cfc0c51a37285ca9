"""Discrete Gaussian numbers, exact to 2^-128 and with constant work.

The distribution on the integers is `P(x) ~ exp(-x^2 / (2 eta^2))`, eta = 6, cut off
beyond +-84, 14 deviations, where 2^-147 of it lies.

Marsaglia's composition. A sign and a magnitude `m` are drawn separately, with
P(m = 0) = P(0) and P(m) = 2 P(m) else. Of the 2^15 possible words of 15 bits,
`floor(2^15 P(m))` in a row stand for the magnitude m; the few words that are left over
(about one in 2200) mean: draw again, from the *remainders* `2^15 P(m) mod 1`, this
time with 128 fresh bits against a cumulative table. No approximation enters before
those 128 bits.

Constant work. A word is turned into a magnitude by comparing it with *every* boundary
between magnitudes (there are 25) and counting how many it reaches: no branch, no
search, no table is addressed by a secret. Processors compare many words of 16 bits at
once, so this is also faster than a table. What varies in time is only how many words
are left over. Python and numpy promise nothing about time, so this is an effort, not a
guarantee.

Statistical distance from the untruncated distribution, per number: 2^-147 beyond the
cut, and below 2^-11 * 85 * 2^-128 from rounding the second table, together less than
2^-132; of an upload of 10^8 numbers less than 2^-105.

References:
    G. Marsaglia, "Generating discrete random variables in a computer", CACM 6(1),
    1963.
    C. Peikert, "An Efficient and Parallel Gaussian Sampler for Lattices", CRYPTO 2010
    (cumulative tables).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from hre_torch.crypto.keystream import Keystream

__all__ = ["ETA", "TAIL_BOUND", "probabilities", "sample_gaussian"]

ETA: Final = 6.0
"""eta: standard deviation of secrets and errors; why 6 says `ring_parameters`."""

TAIL_BOUND: Final = 84
"""Largest magnitude, 14 eta; eight bits with sign hold it."""

_WORD_BITS: Final = 15
_SIGN: Final = np.uint16(1 << _WORD_BITS)
_FINE_BITS: Final = 128
_LIMB_BITS: Final = 64
# Words, flags and results of one piece together stay inside a second-level cache.
_PIECE: Final = 1 << 16


def probabilities(fraction_bits: int) -> list[mpz]:
    """Return `floor(2^fraction_bits P(m))` for the magnitudes 0 <= m <= 84.

    P(0) = 1 / W and P(m) = 2 exp(-m^2 / (2 eta^2)) / W, where W makes the sum 1.

    Args:
        fraction_bits: How fine, at least 1.
    """
    with gmpy2.context(precision=fraction_bits + 64):
        width = gmpy2.mpfr(ETA)
        weights = [
            (1 if m == 0 else 2) * gmpy2.exp(-m * m / (2 * width * width))
            for m in range(TAIL_BOUND + 1)
        ]
        unit = gmpy2.exp2(fraction_bits) / sum(weights)
        return [mpz(gmpy2.floor(weight * unit)) for weight in weights]


@dataclass(frozen=True, slots=True)
class _Tables:
    """Both tables of the composition.

    Attributes:
        boundaries: word m is the first that does not stand for a magnitude <= m; the
            last is the first word that is left over.
        high, low: the cumulative table of the remainders, at 2^128: number m is the
            first that does not stand for a magnitude <= m. Shape (84,) each.
    """

    boundaries: list[np.uint16]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]


@functools.cache
def _tables() -> _Tables:
    # At 2^(15 + 192) the integer part of 2^15 P(m) is above and the remainder below.
    extra = 192
    scaled = probabilities(_WORD_BITS + extra)
    words = [int(p >> extra) for p in scaled]
    boundaries = np.cumsum([count for count in words if count]).astype(np.uint16)
    remainders = [p % (mpz(1) << extra) for p in scaled]
    total, reached, thresholds = sum(remainders), mpz(0), []
    for remainder in remainders[:-1]:
        reached += remainder
        thresholds.append(int((reached << _FINE_BITS) // total))
    return _Tables(
        boundaries=list(boundaries),
        high=np.array([t >> _LIMB_BITS for t in thresholds], dtype=np.uint64),
        low=np.array([t % (1 << _LIMB_BITS) for t in thresholds], dtype=np.uint64),
    )


def sample_gaussian(stream: Keystream, count: int) -> NDArray[np.int8]:
    """Draw independent discrete Gaussian numbers of width eta.

    Args:
        stream: Keyed with fresh bytes of the operating system where the numbers are
            secret; two octets per number are taken, and 16 for each one left over.
        count: How many, at least 0.

    Returns:
        Shape (count,), int8, -84 <= x <= 84.
    """
    numbers = np.empty(count, dtype=np.int8)
    for start in range(0, count, _PIECE):
        _fill(stream, numbers[start : start + _PIECE])
    return numbers


def _fill(stream: Keystream, numbers: NDArray[np.int8]) -> None:
    """Overwrite `numbers` with Gaussian ones."""
    words = np.frombuffer(stream.octets(2 * numbers.size), dtype="<u2")
    magnitudes = words & ~_SIGN
    reached = np.empty(numbers.shape, dtype=np.bool_)
    numbers.fill(0)
    for boundary in _tables().boundaries:
        np.greater_equal(magnitudes, boundary, out=reached)
        numbers += reached.view(np.int8)
    left_over = np.flatnonzero(reached)
    numbers[left_over] = _draw_from_remainders(stream, left_over.size)
    # -x is (x ^ -1) + 1: the sign is applied without looking at it.
    np.greater_equal(words, _SIGN, out=reached)
    negative = np.negative(reached.view(np.int8))
    numbers ^= negative
    numbers -= negative


def _draw_from_remainders(stream: Keystream, count: int) -> NDArray[np.int64]:
    """Draw magnitudes with probabilities in proportion to `2^15 P(m) mod 1`."""
    tables = _tables()
    limbs = np.frombuffer(stream.octets(_FINE_BITS // 8 * count), dtype="<u8")
    high, low = limbs[0::2, None], limbs[1::2, None]
    reached = (high > tables.high) | ((high == tables.high) & (low >= tables.low))
    magnitudes: NDArray[np.int64] = np.count_nonzero(reached, axis=1)
    return magnitudes
