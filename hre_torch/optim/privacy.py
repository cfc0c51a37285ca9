"""Differential privacy of a participant: noise on what it pushes, before it is sealed.

A push is clipped to L2 norm C. In units of the quantiser, one participant's push moves
a sum by no more than

    S = C 2^f / m + r sqrt(n),

where m divides an update before it is quantised (t in a mean, 1 in a sum), n is the
number of values and r what rounding moves one of them by (1/2 to the nearest, 1
stochastically). A release holds at most `max_per_identity` pushes of one participant,
here p, which together move it by p S. Every push gets a discrete Gaussian of variance

    (z p S)^2 / (t - c - 1 + p)

on each value. So a participant's p pushes and the other t - c - 1 honest ones that such
a release has at least carry noise of width z p S together, even if c colluding
participants add none. With k < p pushes less noise meets less movement, and the ratio
is no smaller, since k^2 / (t - c - 1 + k) grows with k.

Where the task has a clip, the bound that everybody holds sums to must leave room for
the noise: the task's `noise_width` is the widest that it does (see `protocol.norms`).

A Gaussian of width z D on a sum of sensitivity D is (alpha, alpha / (2 z^2))-Rényi
differentially private for every alpha > 1, T releases add up, and with the best alpha

    epsilon = T / (2 z^2) + sqrt(2 T ln(1/delta)) / z.

Protected is the participant, all of its data at once. The released sums are what is
protected; whoever reads a participant's memory reads its data.

References:
    I. Mironov, "Rényi Differential Privacy", CSF 2017, propositions 1, 3 and 7.
    C. Canonne, G. Kamath, T. Steinke, "The Discrete Gaussian for Differential Privacy",
    NeurIPS 2020, algorithm 3 and theorem 4.
    P. Kairouz, Z. Liu, T. Steinke, "The Distributed Discrete Gaussian Mechanism for
    Federated Learning with Secure Aggregation", ICML 2021, section 2 (sums of discrete
    Gaussians of width 2 and more are as good as one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import UnsupportedError
from hre_torch.protocol.task import Task
from hre_torch.protocol.task_options import is_positive

__all__ = ["GaussianNoise", "discrete_gaussian"]

# Below this width the sum of discrete Gaussians is not close to one.
_LEAST_WIDTH: Final = 2.0
# Values beyond the quantiser's range are cut off: 6e-5 of the noise at four widths.
_WIDTHS_IN_RANGE: Final = 4.0
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Noise for `HREOptimizer(noise=...)`.

    Args:
        multiplier: z, width of a release's noise in units of its sensitivity, > 0.

    Raises:
        UnsupportedError: `multiplier` is not a positive number.

    >>> round(GaussianNoise(1.0).epsilon(releases=1, delta=1e-5), 2)
    5.3
    """

    multiplier: float

    def __post_init__(self) -> None:
        if not is_positive(self.multiplier):
            raise UnsupportedError(
                f"GaussianNoise.multiplier is {self.multiplier!r}; it must be a "
                "positive number, 1.0 for instance."
            )

    def width(self, task: Task, clip: float | None, rounding_error: float) -> float:
        """Return the width of the noise on one push, in units of the quantiser.

        Args:
            task: its t, c, f, b, n, `max_per_identity` and `noise_width`.
            clip: C, L2 bound of an update.
            rounding_error: r, 0.5 to the nearest and 1 otherwise.

        Raises:
            UnsupportedError: without a bound there is no calibration, or the task's
                numbers are too coarse or too short for the noise.
        """
        config, point = task.config, task.fixed_point
        honest = config.min_contributions - config.assumed_colluders
        if clip is None:
            raise UnsupportedError(
                "noise needs a bound to be calibrated to; set clip, the L2 bound of an "
                "update."
            )
        if config.combine == "weighted":
            raise UnsupportedError(
                "noise cannot be calibrated with combine='weighted': it would have to "
                "cover the weights as well; use combine='mean'."
            )
        if config.n_buffers or honest < 1:
            raise UnsupportedError(
                f"noise cannot be calibrated with {config.n_buffers} averaged buffer "
                f"values, which no bound applies to, and {honest} honest contributions "
                "per release; use buffers='local' and assumed_colluders below "
                "min_contributions."
            )
        divisor = config.min_contributions if config.combine == "mean" else 1
        sensitivity = clip * point.scale / divisor
        sensitivity += rounding_error * math.sqrt(config.n_params)
        pushes = config.max_per_identity
        width = self.multiplier * pushes * sensitivity / math.sqrt(honest - 1 + pushes)
        most = point.limit / _WIDTHS_IN_RANGE
        if not _LEAST_WIDTH <= width <= most:
            bits = math.ceil(math.log2(_WIDTHS_IN_RANGE * max(width, 1.0) + 1)) + 1
            raise UnsupportedError(
                f"noise of width {width:.1f} does not fit values of "
                f"{config.value_bits} bits at 2^-{config.fraction_bits}, where it must "
                f"lie between {_LEAST_WIDTH} and {most:.1f}; make the task with "
                f"value_bits={bits}, other fraction_bits, a smaller clip, or "
                f"max_per_identity below {pushes}, if it is above 1."
            )
        if config.clip is not None and width > (config.noise_width or 0.0):
            raise UnsupportedError(
                f"noise of width {width:.1f} would have everybody reject the sums that "
                f"hold it, because the task leaves room for noise_width="
                f"{config.noise_width}; make it with noise_width="
                f"{math.ceil(width)}, or leave its clip out."
            )
        return width

    def epsilon(self, releases: int, delta: float) -> float:
        """Return the epsilon that so many releases come to.

        Args:
            releases: T, releases with a push of the participant, >= 1; its pushes are
                an upper bound.
            delta: 0 < delta < 1.

        Raises:
            UnsupportedError: an argument is out of range.
        """
        if releases < 1 or not 0 < delta < 1:
            raise UnsupportedError(
                f"releases is {releases} and delta is {delta}; use at least 1, and a "
                "delta between 0 and 1."
            )
        z = self.multiplier
        tail = math.sqrt(2 * releases * math.log(1 / delta)) / z
        return releases / (2 * z * z) + tail


def discrete_gaussian(
    width: float, count: int, entropy: Entropy = SYSTEM_ENTROPY
) -> NDArray[np.int64]:
    """Draw integers with P(x) ~ exp(-x^2 / (2 width^2)).

    A discrete Laplace number of scale s = floor(width) + 1 is proposed, and accepted
    with probability exp(-(|x| - width^2 / s)^2 / (2 width^2)). Uniform numbers have 53
    bits, which bounds |x| by 74 s and makes each probability wrong by about 2^-53.

    Args:
        width: sigma > 0, in units of one.
        count: how many.
        entropy: source of the secret bytes.

    Returns:
        Shape `(count,)`.
    """
    scale = math.floor(width) + 1
    pieces: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        size = min(_PIECE, 2 * missing + 16)
        first, second, accept = (_uniform(size, entropy) for _ in range(3))
        drawn = np.floor(-scale * np.log(first)) - np.floor(-scale * np.log(second))
        excess = np.abs(drawn) - width * width / scale
        kept = drawn[accept <= np.exp(-np.square(excess) / (2 * width * width))]
        pieces.append(kept[:missing].astype(np.int64))
        missing -= pieces[-1].size
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def _uniform(count: int, entropy: Entropy) -> NDArray[np.float64]:
    """Return numbers in (0, 1], each a multiple of 2^-53."""
    words = np.frombuffer(entropy.octets(8 * count), dtype="<u8")
    return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
