"""How the uploads of a release become one change of the model.

Uploads hold integers `q_i` at scale 2^f; the participants learn their sum only.

    sum        change = sum q_i                           q_i = round(2^f u_i)
    mean       change = sum q_i                           q_i = round(2^f u_i / t)
    weighted   change = round(M sum q_i / sum w_i)        q_i = round(2^f u_i w_i / M)

`u_i` is an update, `t` the least number of contributions. The third is the average of
McMahan et al. with weights `w_i` in 1..M, where an update that stands for as many
samples as the task allows at most has weight M. The weight is one more value of the
upload, behind parameters and buffers, and as secret as they are: what is opened is the
sum of weights, and no suite knows that there are any.

Averaged buffers are statistics, and twice as far is not twice as good. Unless they are
weighted, a release of n >= t uploads moves them by the mean of its uploads:

    change = round(t sum q_i / n)                         q_i = round(2^f u_i / t)

An update is clipped before it is weighted, so that its values obey

    |q_i| <= limit w_i / M,   limit = 2^(b-1) - 1.

Then no average exceeds `limit`, and a sum that does is not one of honest uploads, be it
for a false weight or for a false value: everybody rejects it. Whatever a liar uploads,
one release moves no value by more than `limit` units.

Where the task has a clip, the sum of the parameters has a bound, too: see `norms`.

A quotient is rounded to the nearest integer, ties to even, in integers of 64 bits: it
is the same at every participant.

References:
    B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas,
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017, section 2 and algorithm 1 (weights n_k / n).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hre_torch.errors import (
    ChecksumError,
    SlotOverflowError,
    TaskError,
    UnsupportedError,
)
from hre_torch.protocol.suite import Integers
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.vectors import require_norm

__all__ = ["Combination", "divided"]

# Temporaries of 512 KiB stay in the processor's cache.
_PIECE: Final = 1 << 16


class Combination:
    """The arithmetic of one task's `combine`.

    Args:
        config: the task's numbers.
    """

    def __init__(self, config: TaskConfig) -> None:
        self._config = config

    def weight_of(self, samples: int | None) -> int:
        """Return the weight of updates that stand for so many samples.

        It is `samples` itself where they fit into a value, else in proportion:

            w = max(1, round(samples M / max_samples))

        Args:
            samples: 1 <= samples <= max_samples; None where updates have no weights.

        Returns:
            1 <= w <= M, and 0 where updates have no weights.

        Raises:
            UnsupportedError: the task weights updates and no number of samples is given
                or one out of range; or it does not and one is given.
        """
        most = self._config.max_samples
        if most is None:
            if samples is not None:
                raise UnsupportedError(
                    f"samples is {samples}, but this task combines updates by "
                    f"{self._config.combine!r}, where each counts the same; leave "
                    "samples out, or make the task with combine='weighted'."
                )
            return 0
        if samples is None or not 1 <= samples <= most:
            raise UnsupportedError(
                f"samples is {samples}, but this task weights updates by the samples "
                f"behind them, of which it allows 1 to {most}; pass the size of this "
                "participant's data set, samples=len(dataset), or make the task with "
                "a larger max_samples."
            )
        doubled = 2 * samples * self._config.max_weight
        return max(1, (doubled + most) // (2 * most))

    def largest(self, weight: int) -> int:
        """Return the largest magnitude of a value in an upload of that weight."""
        limit = int(2 ** (self._config.value_bits - 1) - 1)
        if self._config.combine != "weighted":
            return limit
        return limit * weight // self._config.max_weight

    def multiple(self, weight: int, piece: slice) -> npt.NDArray[np.float64]:
        """Return by how much an owner's update is larger than what travels of it.

        Args:
            weight: from `weight_of`.
            piece: contiguous part of the vector, with a start and a stop.

        Returns:
            1, t or M/w for each value, float64.
        """
        size = piece.stop - piece.start
        if self._config.combine == "weighted":
            return np.full(size, self._config.max_weight / weight)
        return self._copies(piece.start, size).astype(np.float64)

    def own(self, values: Integers, piece: slice = slice(None)) -> Integers:
        """Return an own upload at the size at which its owner applies it.

        This is what it counts until it is released: the whole update, as if nobody else
        had contributed. In a weighted task it is rounded, by half a unit at most.

        Args:
            values: as passed to `Session.push`, shape `(n_sealed,)`.
            piece: which contiguous part of the model's vector.

        Returns:
            int64 at scale 2^f, of the shape of the piece.
        """
        config = self._config
        full = values[: config.n_values][piece].astype(np.int64)
        if config.combine == "weighted":
            full *= config.max_weight
            return divided(full, int(values[-1]))
        full *= self._copies(piece.start or 0, full.size)
        return full

    def change(self, total: Integers, count: int) -> tuple[Integers, int]:
        """Return by how much a release changes the model, and its sum of weights.

        Args:
            total: sum of the uploads, shape `(n_sealed,)`.
            count: how many they are.

        Returns:
            int32, with averaged buffers int64, at scale 2^f, shape `(n_values,)`, and
            `sum w_i`. Without weights and buffers that is `total` itself and 0.

        Raises:
            ChecksumError: these are not the weights of so many uploads.
            SlotOverflowError: a value is larger than their weights allow, or all of
                them together than the task's clip does.
        """
        config = self._config
        if config.combine != "weighted":
            require_norm(config, total, count)
            return self._with_mean_buffers(total, count), 0
        weight, most = int(total[-1]), count * config.max_weight
        if not count <= weight <= most:
            raise ChecksumError(
                f"the weights of {count} uploads add up to {weight}, which must lie "
                f"between {count} and {most}: somebody has claimed a false one"
            )
        values, largest = total[: config.n_values], self.largest(weight)
        if not -largest <= values.min() <= values.max() <= largest:
            raise SlotOverflowError(
                f"values of a sum lie between {values.min()} and {values.max()}, but "
                f"weights that add up to {weight} allow {largest}: somebody has "
                "uploaded a false weight or value"
            )
        require_norm(config, total, count, weight)
        changes = np.empty(config.n_values, dtype=np.int32)
        for start in range(0, config.n_values, _PIECE):
            piece = slice(start, start + _PIECE)
            scaled = values[piece].astype(np.int64) * config.max_weight
            changes[piece] = divided(scaled, weight)
        return changes, weight

    def weight_in(self, values: Integers) -> int:
        """Return the weight in an upload, 0 where uploads have none.

        Raises:
            TaskError: what should be the weight is none.
        """
        if self._config.combine != "weighted":
            return 0
        weight, most = int(values[-1]), self._config.max_weight
        if not 1 <= weight <= most:
            raise TaskError(
                f"the last value of an update is its weight, here {weight}; it must "
                f"lie between 1 and {most}"
            )
        return weight

    def _with_mean_buffers(self, total: Integers, count: int) -> Integers:
        config = self._config
        if not config.n_buffers:
            return total
        changes = total.astype(np.int64)
        buffers = changes[config.n_params :]
        buffers[:] = divided(buffers * config.min_contributions, count)
        return changes

    def _copies(self, first: int, size: int) -> npt.NDArray[np.int64]:
        """Return 1 or t for each value: buffers are a mean even in a sum."""
        config = self._config
        copies = np.ones(size, dtype=np.int64)
        averaged = 0 if config.combine == "mean" else config.n_params
        copies[max(0, averaged - first) :] = config.min_contributions
        return copies


def divided(numbers: npt.NDArray[np.int64], divisor: int) -> npt.NDArray[np.int64]:
    """Return numbers / divisor, rounded to the nearest integer, ties to even.

    Args:
        numbers: |number| < 2^62.
        divisor: 1 <= divisor < 2^62.

    >>> divided(np.array([-3, -1, 1, 3, 5, 7]), 2).tolist()
    [-2, 0, 0, 2, 2, 4]
    """
    quotient = numbers // divisor
    # From here on twice the remainder: 0 <= excess < 2 divisor.
    excess = 2 * (numbers - quotient * divisor)
    quotient += (excess > divisor) | ((excess == divisor) & (quotient % 2 == 1))
    return quotient
