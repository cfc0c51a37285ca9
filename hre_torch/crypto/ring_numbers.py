"""The numbers in a masked update: values in blocks behind three service numbers.

Every block begins with the count 1, and the sum of its values as two centred digits in
base 2^(b-1). A checksum modulo the plaintext modulus would be blind to a sum that wraps
around; whole numbers are not. All encoded numbers obey |m| <= 2^(b-1) - 1. Sums of
blocks are checked by whoever opens them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hre_torch.crypto.negacyclic import RING_DIMENSION
from hre_torch.crypto.ring_parameters import (
    SERVICE_WORDS,
    VALUES_PER_BLOCK,
    RingParameters,
)
from hre_torch.errors import ChecksumError, SlotOverflowError

__all__ = ["check_numbers", "encode_numbers", "take_values"]


def encode_numbers(
    values: NDArray[np.signedinteger], first: int, parameters: RingParameters
) -> NDArray[np.int32]:
    """Lay values out in blocks behind their service numbers.

    Args:
        values: shape (values,), |q| <= 2^(b-1) - 1.
        first: index of the first of them in the update, for messages.
        parameters: of the task.

    Returns:
        Shape (blocks, N); what the last block has no values for is 0.

    Raises:
        SlotOverflowError: A value exceeds its bits.
    """
    limit = parameters.limit
    if values.max() > limit or values.min() < -limit:
        # Two comparisons and no abs(): the smallest int32 has no positive twin.
        outside = np.flatnonzero((values > limit) | (values < -limit))
        raise SlotOverflowError(
            f"the value at index {first + outside[0]} exceeds +-{limit}; quantise to "
            f"{parameters.value_bits} bits before masking"
        )
    full, rest = divmod(values.size, VALUES_PER_BLOCK)
    numbers = np.empty((full + (rest > 0), RING_DIMENSION), dtype=np.int32)
    table = numbers[:, SERVICE_WORDS:]
    table[:full] = values[: values.size - rest].reshape(full, VALUES_PER_BLOCK)
    if rest:
        table[full, :rest] = values[values.size - rest :]
        table[full, rest:] = 0
    sums = table.sum(axis=1, dtype=np.int64)
    half, shift = 1 << (parameters.value_bits - 2), parameters.value_bits - 1
    low = ((sums + half) & ((1 << shift) - 1)) - half
    numbers[:, 0] = 1
    numbers[:, 1] = low
    numbers[:, 2] = (sums - low) >> shift
    return numbers


def check_numbers(
    numbers: NDArray[np.int32], first: int, count: int, parameters: RingParameters
) -> None:
    """Compare counts, checksums and ranges of blocks with what they must be.

    Args:
        numbers: shape (blocks, N).
        first: index of the first of these blocks, for messages.
        count: how many updates were added.
        parameters: of the task.

    Raises:
        ChecksumError: A count or a checksum is wrong.
        SlotOverflowError: `count` honest values cannot add up to that.
    """
    wrong = np.flatnonzero(numbers[:, 0] != count)
    if wrong.size:
        raise ChecksumError(
            f"block {first + wrong[0]} counts {numbers[wrong[0], 0]} updates, but "
            f"{count} were announced; everybody rejects this release"
        )
    sums = numbers[:, SERVICE_WORDS:].sum(axis=1, dtype=np.int64)
    high = numbers[:, 2].astype(np.int64) << (parameters.value_bits - 1)
    wrong = np.flatnonzero(numbers[:, 1] + high != sums)
    if wrong.size:
        raise ChecksumError(
            f"the values of block {first + wrong[0]} do not add up to its checksum: a "
            "sum wrapped around, or an upload was not encoded honestly; everybody "
            "rejects this release"
        )
    largest = count * parameters.limit
    if numbers.max() > largest or numbers.min() < -largest:
        raise SlotOverflowError(
            f"a sum exceeds what {count} values of {parameters.value_bits} bits add up "
            "to: an upload was not encoded honestly; everybody rejects this release"
        )


def take_values(numbers: NDArray[np.int32], values: NDArray[np.int32]) -> None:
    """Copy the values of some blocks to where they belong in the update.

    Raises:
        ChecksumError: There are others behind the last one.
    """
    table = numbers[:, SERVICE_WORDS:]
    full, rest = divmod(values.size, VALUES_PER_BLOCK)
    values[: values.size - rest].reshape(full, VALUES_PER_BLOCK)[:] = table[:full]
    if rest:
        values[values.size - rest :] = table[full, :rest]
        if table[full, rest:].any():
            raise ChecksumError(
                "there are values behind the last one of the model: an upload was not "
                "encoded honestly; everybody rejects this release"
            )
