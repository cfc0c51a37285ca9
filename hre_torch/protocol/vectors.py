"""Vectors of integers: as octets, under hashes, and how long sums of them can be.

In saved states and under hashes, integers are little-endian.

A task with a clip C has a bound B for the parameters of a release's sum (buffers are
statistics and have none). With r = sqrt(n_params), n uploads and their weights w_i:

    sum        B = n (C 2^f + r)
    mean       B = n (C 2^f / t + r)
    weighted   B = C 2^f sum w_i / M + n r

and where the task leaves room for noise of width sigma on each upload, B is larger by
sigma sqrt(n) (sqrt(n_params) + 10). Everybody who opens a sum of greater L2 norm
rejects the release, whichever upload it was.

**No honest sum is.** An honest upload is `q = clip(round(2^f v / m))`, where `v` is an
update after clipping, |v| <= C, whatever was left over of earlier ones or weighted by
staleness included, since both come before the clip or shorten what comes out of it; m
is 1, t or M / w. Rounding moves each value by at most 1 (to the nearest by 1/2), so all
of them by at most r, and cutting a value off at the quantiser's range shortens it:
|q| <= C 2^f / m + r. Norms of sums are at most sums of norms, which is B.

With noise, values are cut off again. A value's mean is then no larger than without
noise, and what it deviates by is a contraction of Gaussian numbers of width sigma. The
deviations of n uploads have a norm that is sigma sqrt(n n_params) in the mean at most,
and exceeds this by ten sigma sqrt(n) with a probability below exp(-50) (concentration
of Lipschitz functions of Gaussians; discrete Gaussians are no wider).

B is a bound on the sum. It says nothing of who used it: an attacker may be as long as
everybody together, if the others are not.

References:
    S. Boucheron, G. Lugosi, P. Massart, "Concentration Inequalities", 2013,
    theorem 5.6.
    C. Canonne, G. Kamath, T. Steinke, "The Discrete Gaussian for Differential Privacy",
    NeurIPS 2020, section 2 (discrete Gaussians are subgaussian with the same width).
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hre_torch.errors import LayoutError, SlotOverflowError
from hre_torch.protocol.suite import Integers
from hre_torch.protocol.task import TaskConfig

__all__ = [
    "chained_digest",
    "decode_vector",
    "norm_bound",
    "require_norm",
    "squared_norm",
    "state_digest",
]


def decode_vector(
    data: bytes, dtype: Literal["<i4", "<i8"], n_values: int
) -> npt.NDArray[np.signedinteger]:
    """Return a vector from its octets.

    Args:
        data: `n_values` integers one after another.
        dtype: their width.
        n_values: how many; the task's flat vector, or what an upload holds.

    Returns:
        Shape `(n_values,)`, in native byte order, writeable.

    Raises:
        LayoutError: the octets are not a vector of that length.
    """
    expected = np.dtype(dtype).itemsize * n_values
    if len(data) != expected:
        raise LayoutError(
            f"a vector of {n_values} values takes {expected} octets, but {len(data)} "
            "were saved: they are damaged, or belong to another model"
        )
    return np.frombuffer(data, dtype=dtype).astype(np.dtype(dtype).newbyteorder("="))


def chained_digest(previous: bytes, digest: bytes) -> bytes:
    """Return SHA-256 of one model's digest after that of all models before it."""
    return hashlib.sha256(previous + digest).digest()


def state_digest(released: npt.NDArray[np.int64]) -> bytes:
    """Return SHA-256 of released weights, int64 little-endian, shape `(n_values,)`."""
    return hashlib.sha256(np.ascontiguousarray(released, "<i8").data).digest()


_PIECE: Final = 1 << 16
"""Temporaries of 512 KiB stay in the processor's cache."""
_ROOT_BITS: Final = 64
"""Binary digits behind the point of a root, which is rounded up."""
_DEVIATIONS: Final = 10


def norm_bound(config: TaskConfig, count: int, weight: int = 0) -> int:
    """Return B, rounded up, in units of 2^-f: the same integer on every machine.

    Args:
        config: a task with a clip.
        count: how many uploads a sum holds, >= 1.
        weight: the sum of their weights, where they have any.
    """
    length = Fraction(config.clip or 0) * (1 << config.fraction_bits)
    if config.combine == "weighted":
        length *= Fraction(weight, config.max_weight)
    else:
        divisor = config.min_contributions if config.combine == "mean" else 1
        length *= Fraction(count, divisor)
    root = _root(config.n_params)
    noise = Fraction(config.noise_width or 0) * _root(count) * (root + _DEVIATIONS)
    return math.ceil(length + count * root + noise)


def squared_norm(values: Integers) -> int:
    """Return the sum of the squares, exactly, however large.

    Args:
        values: integers of any width, |value| < 2^62.

    >>> squared_norm(np.full(3, 2**40))
    3626777458843887524118528
    """
    total: int = 0
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE].astype(np.int64)
        largest = max(-int(piece.min()), int(piece.max()))
        if largest**2 * piece.size < 2**63:
            total += int(np.dot(piece, piece))
        else:
            total += sum(int(value) ** 2 for value in piece)
    return total


def require_norm(
    config: TaskConfig, total: Integers, count: int, weight: int = 0
) -> None:
    """Refuse a sum that is longer than honest uploads can make it.

    Args:
        config: the task's numbers.
        total: parameters first; shape `(n_sealed,)` or `(n_values,)`.
        count: how many uploads it holds.
        weight: the sum of their weights, where they have any.

    Raises:
        SlotOverflowError: it is longer than B.
    """
    if config.clip is None:
        return
    squares = squared_norm(total[: config.n_params])
    bound = norm_bound(config, count, weight)
    if squares > bound**2:
        raise SlotOverflowError(
            f"the parameters of {count} uploads add up to a norm of "
            f"{math.isqrt(squares)} units of 2^-{config.fraction_bits}, but updates "
            f"clipped to {config.clip} add up to {bound} at most: somebody has "
            "uploaded a longer one"
        )


def _root(number: int) -> Fraction:
    """Return a square root, rounded up to the next 2^-64."""
    shifted = number << (2 * _ROOT_BITS)
    floor = math.isqrt(shifted)
    return Fraction(floor + (floor * floor < shifted), 1 << _ROOT_BITS)
