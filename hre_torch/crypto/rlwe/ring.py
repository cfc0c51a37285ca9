"""Exact products in Z_{2^32}[X] / (X^N + 1), one factor uniform and one small.

The ring, seen differently. Let M = N/2 and write i for X^M: then i^2 = X^N = -1, so

    Z[X] / (X^N + 1)  =  Z[i][X] / (X^M - i),

and an element is M Gaussian integers `z_k = x_k + i x_{k+M}`. An array of N words
holds them one after another, (x_0, x_M, x_1, x_{M+1}, ...): read as complex numbers it
needs no rearranging. Every ring element in this package lies in memory, and travels,
in this order.

The product. With w = exp(i pi / N), so that w^M = i, the points w exp(-2 pi i j / M),
0 <= j < M, are the roots of X^M - i. Evaluating at all of them is an ordinary FFT of
length M of the numbers `z_k w^k`. So: multiply by w^k, transform, multiply pointwise,
transform back, multiply by w^-k, round to integers.

Why rounding gives the exact integers. Let u = 2^-53, n = log2 M = 10. One complex
product has a relative error below sqrt(5) u (Brent, Percival, Zimmermann); a rounded
root of unity is off by less than u. Percival bounds the error of every coefficient of
a convolution by FFT from these two; ours has three more products, by w^k, w^k and
w^-k, than his, and therefore

    error <= |a| |s| ((1+u)^(3n) (1 + sqrt(5) u)^(3n+4) (1+u)^(3n+3) - 1)
          <  140 u |a| |s|,

in Euclidean norms. The uniform factor, centred, has |a| <= 2^31 sqrt(N) = 2^36.5,
whatever it is. So the error stays below 1/2, and the rounded product is the true one,
as long as |s| <= 330. A Gaussian secret of width 6 has |s| = 272 +- 4. Sums of
secrets are longer: a factor that is too long is split into limbs of three bits,
`s = s_0 + 8 s_1 + 64 s_2 ...` with digits between -4 and 3, and the exact products of
the limbs are added up. Two limbs carry every sum of honest secrets that a task may
have. The short factor is split and not the uniform one because each block then needs
a single transform of `a_k`, and that one can be kept.

The customary estimate, 2^-53 log2(N) |a| |s| < 1/4, holds with a factor 6 to spare.
Products lie below 2^36.5 * 330 < 2^51, as `_ROUNDER` requires.

References:
    C. Percival, "Rapid multiplication modulo the sum and difference of highly
    composite numbers", Math. Comp. 72 (2003) (error of a convolution).
    R. Brent, C. Percival, P. Zimmermann, "Error bounds on complex floating-point
    multiplication", Math. Comp. 76 (2007).
    R. Crandall, B. Fagin, "Discrete weighted transforms and large-integer
    arithmetic", Math. Comp. 62 (1994) (right-angle convolution).
"""

from __future__ import annotations

import functools
from typing import Final

import gmpy2
import numpy as np
from numpy.typing import NDArray

from hre_torch.errors import InvalidElementError

__all__ = ["LARGEST_NORM", "RING_DIMENSION", "SmallElement", "transform"]

RING_DIMENSION: Final = 2048
"""N: coefficients of a ring element."""

LARGEST_NORM: Final = 330
"""Longest small factor whose product with any 32-bit element is surely exact."""

_HALF: Final = RING_DIMENSION // 2

# Adding 1.5 * 2^52 to a double between -2^51 and 2^51 rounds it to the nearest integer
# and leaves that integer, modulo 2^32, in the low 32 bits of the sum.
_ROUNDER: Final = 1.5 * 2.0**52

# The longest vector of digits of three bits, all -4, has norm 181.
_LIMB_BITS: Final = 3


@functools.cache
def _weights() -> NDArray[np.complex128]:
    """Return w^k = exp(i pi k / N), 0 <= k < M, each part correctly rounded."""
    # Sines of the C library are off by more than the half unit that the bound assumes.
    with gmpy2.context(precision=128):
        angles = [gmpy2.const_pi() * k / RING_DIMENSION for k in range(_HALF)]
        pairs = [complex(gmpy2.cos(angle), gmpy2.sin(angle)) for angle in angles]
    weights = np.array(pairs, dtype=np.complex128)
    weights.flags.writeable = False
    return weights


@functools.cache
def _inverse_weights() -> NDArray[np.complex128]:
    """Return w^-k / M: the division by the power of two is exact."""
    weights = _weights().conj() * np.complex128(1 / _HALF)
    weights.flags.writeable = False
    return weights


def transform(
    elements: NDArray[np.int32], out: NDArray[np.complex128] | None = None
) -> NDArray[np.complex128]:
    """Evaluate ring elements at the roots of X^M - i.

    Args:
        elements: shape (blocks, N), centred, -2^31 <= x < 2^31.
        out: where the result goes, shape (blocks, N/2); a new array if left out.

    Returns:
        Shape (blocks, N/2).
    """
    if out is None:
        out = np.empty((len(elements), _HALF), dtype=np.complex128)
    np.copyto(out.view(np.float64), elements)
    out *= _weights()
    return np.fft.fft(out, axis=1, out=out)


class SmallElement:
    """A short ring element, transformed once, that multiplies many uniform ones.

    It may be secret, so its repr shows nothing. It reuses its working memory and must
    not be shared between threads.

    Args:
        coefficients: shape (N,), any signed integer type, |s| < 2^31.

    Raises:
        InvalidElementError: not N integers of that size.
    """

    __slots__ = ("_limbs", "_points")

    def __init__(self, coefficients: NDArray[np.integer]) -> None:
        if (
            coefficients.shape != (RING_DIMENSION,)
            or coefficients.dtype.kind != "i"
            or np.abs(coefficients.astype(np.int64)).max() >= 1 << 31
        ):
            raise InvalidElementError(
                f"a small ring element is {RING_DIMENSION} signed integers below 2^31; "
                f"this one has shape {coefficients.shape} and type {coefficients.dtype}"
                " or is too large"
            )
        limbs = _short_limbs(coefficients.astype(np.int64))
        self._limbs = [transform(limb.astype(np.int32)[None]) for limb in limbs]
        self._points = np.empty((0, _HALF), dtype=np.complex128)

    def multiply(
        self, transforms: NDArray[np.complex128], out: NDArray[np.uint32]
    ) -> None:
        """Write the products a_k s modulo 2^32 over `out`.

        Args:
            transforms: shape (blocks, N/2), `transform` of the uniform elements a_k.
            out: shape (blocks, N), C-contiguous.
        """
        if len(self._points) < len(transforms):
            # Fresh memory for every piece would cost more than the transform itself:
            # the system has to clear each page of it.
            self._points = np.empty(transforms.shape, dtype=np.complex128)
        points = self._points[: len(transforms)]
        # The limbs are joined by Horner's rule, the highest first.
        out.fill(0)
        for limb in reversed(self._limbs):
            np.multiply(transforms, limb, out=points)
            np.fft.ifft(points, axis=1, norm="forward", out=points)
            points *= _inverse_weights()
            products = points.view(np.float64)
            products += _ROUNDER
            out <<= np.uint32(_LIMB_BITS)
            words = products.view(np.uint64)
            np.add(out, words, out=out, dtype=np.uint32, casting="unsafe")


def _short_limbs(coefficients: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Write a vector as sum_j 8^j limb_j with every limb shorter than the bound."""
    half, mask = 1 << (_LIMB_BITS - 1), (1 << _LIMB_BITS) - 1
    limbs = []
    # Floats are precise enough here: the bound itself has 0.3 % to spare.
    while np.linalg.norm(coefficients.astype(np.float64)) > LARGEST_NORM:
        limb = ((coefficients + half) & mask) - half
        limbs.append(limb)
        coefficients = (coefficients - limb) >> _LIMB_BITS
    return [*limbs, coefficients]
