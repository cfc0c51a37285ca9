"""One-time Ring-LWE masks: the fast half of suite `hybrid`.

A participant sends `c_k = a_k s + e_k + Delta m_k mod 2^32` (see `parameters`),
with `s` and `e` fresh for every update and numbers `m_k` as below; the
short secret `s` goes through the key layer. Sums of masked updates are sums of words,
and whoever learns `s_sum`, the sum of the secrets, and nothing else about them, reads
the sum of the updates:

    sum c - a s_sum = Delta sum m + sum e,   |sum e| < Delta / 2.

An update is treated in pieces of 32 blocks, so that only updates, words and sums are as
long as the model; all else stays near 3 MB.

References:
    V. Lyubashevsky, C. Peikert, O. Regev, "On Ideal Lattices and Learning with Errors
    over Rings", EUROCRYPT 2010.
    T. Stevens, C. Skalka, C. Vincent, J. Ring, S. Clark, J. Near, "Efficient
    Differentially Private Secure Aggregation for Federated Learning via Hardness of
    Learning with Errors", USENIX Security 2022 (sums of masks under one public a).

**Numbers.** The values of an update stand in blocks. Every block begins with the count
1, and the sum of its values as two centred digits in base 2^(b-1). A checksum modulo
the plaintext modulus would be blind to a sum that wraps around; whole numbers are not.
All encoded numbers obey |m| <= 2^(b-1) - 1. Sums of blocks are checked by whoever opens
them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.crypto.rlwe.parameters import (
    DELTA_BITS,
    SERVICE_WORDS,
    VALUES_PER_BLOCK,
    RingParameters,
)
from hre_torch.crypto.rlwe.ring import RING_DIMENSION, SmallElement
from hre_torch.crypto.rlwe.sampling import (
    KEY_OCTETS,
    Keystream,
    PublicExpansion,
    sample_gaussian,
)
from hre_torch.errors import (
    ChecksumError,
    DecryptionError,
    InvalidElementError,
    SlotOverflowError,
)

__all__ = [
    "Masked",
    "accumulate",
    "check_numbers",
    "encode_numbers",
    "mask",
    "take_values",
    "unmask",
]


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


_HALF_DELTA: Final = 1 << (DELTA_BITS - 1)


class Masked:
    """A masked update and the secret that opens it; the repr shows neither.

    Args:
        words: `c`, shape (words,), uint32: what is sent.
        secret: `s`, shape (N,), int8, |s| <= 84: what goes through the key layer.
    """

    __slots__ = ("secret", "words")

    def __init__(self, words: NDArray[np.uint32], secret: NDArray[np.int8]) -> None:
        self.words = words
        self.secret = secret

    def __repr__(self) -> str:
        return f"Masked({self.words.size} words)"


def mask(
    values: NDArray[np.signedinteger],
    parameters: RingParameters,
    expansion: PublicExpansion,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> Masked:
    """Mask an update under a fresh secret and fresh errors.

    There is no way to pass a secret in: one secret under two updates gives away their
    difference. To send an update again, send the same words again.

    Args:
        values: shape (n_values,), int32 or int16, |q| <= 2^(b-1) - 1.
        parameters: b and K of the task.
        expansion: a_k of the task.
        entropy: where the key of the secret stream comes from.

    Returns:
        `parameters.words(n_values)` words and the secret.

    Raises:
        SlotOverflowError: A value exceeds its bits.
    """
    stream = Keystream(entropy.octets(KEY_OCTETS))
    secret = sample_gaussian(stream, RING_DIMENSION)
    factor = SmallElement(secret)
    n_blocks = parameters.blocks(values.size)
    words = np.empty((n_blocks, RING_DIMENSION), dtype=np.uint32)
    for blocks, transforms in expansion.transforms(n_blocks):
        piece = words[blocks]
        factor.multiply(transforms, out=piece)
        first = blocks.start * VALUES_PER_BLOCK
        numbers = encode_numbers(
            values[first : first + len(piece) * VALUES_PER_BLOCK], first, parameters
        )
        numbers <<= DELTA_BITS
        numbers += sample_gaussian(stream, piece.size).reshape(piece.shape)
        piece += numbers.view(np.uint32)
    return Masked(words.reshape(-1)[: parameters.words(values.size)], secret)


def accumulate(total: NDArray[np.uint32], words: NDArray[np.uint32]) -> None:
    """Add a masked update to a sum of them, in place and modulo 2^32.

    Args:
        total: shape (words,), uint32, writable; zeros before the first update.
        words: shape (words,), uint32.

    Raises:
        InvalidElementError: The two differ in length or are not words.
    """
    _check_words(words, total.size)
    _check_words(total, total.size)
    np.add(total, words, out=total)


def unmask(
    total: NDArray[np.uint32],
    secret_sum: NDArray[np.integer],
    count: int,
    n_values: int,
    parameters: RingParameters,
    expansion: PublicExpansion,
) -> NDArray[np.int32]:
    """Open a sum of masked updates and check it.

    Args:
        total: sum of c, shape (words,), uint32.
        secret_sum: s_sum, shape (N,), any signed integer type, in the order of
            `Masked.secret`.
        count: how many updates the release lists, 1 <= count <= K.
        n_values: values in one update.
        parameters: b and K of the task.
        expansion: a_k of the task.

    Returns:
        The sums of the values, shape (n_values,), |sum| <= count (2^(b-1) - 1) < 2^21.

    Raises:
        SlotOverflowError: More than K additions, or a sum that `count` values of b
            bits cannot add up to.
        InvalidElementError: `total` or `secret_sum` has another shape or type.
        DecryptionError: The noise |sum c - a s_sum - Delta m| or `s_sum` exceeds what
            `count` honest updates add up to: a wrong `s_sum`, or words changed by
            somebody.
        ChecksumError: A count or a checksum is wrong, or there are values where none
            belong.
    """
    if not 1 <= count <= parameters.max_additions:
        raise SlotOverflowError(
            f"a sum of {count} updates was asked for, but 1 to "
            f"{parameters.max_additions} can be opened; release fewer at once"
        )
    _check_words(total, parameters.words(n_values))
    factor = SmallElement(secret_sum)
    _check_secret(secret_sum.astype(np.int64), count, parameters)
    n_blocks = parameters.blocks(n_values)
    values = np.empty(n_values, dtype=np.int32)
    for blocks, transforms in expansion.transforms(n_blocks):
        shape = (blocks.stop - blocks.start, RING_DIMENSION)
        noisy = np.empty(shape, dtype=np.uint32)
        factor.multiply(transforms, out=noisy)
        words = total[blocks.start * RING_DIMENSION :][: noisy.size]
        _subtract_from(words, noisy.reshape(-1))
        numbers, noise = _round(noisy.view(np.int32))
        _check_noise(noise, words.size // RING_DIMENSION, count, parameters)
        check_numbers(numbers, blocks.start, count, parameters)
        first = blocks.start * VALUES_PER_BLOCK
        take_values(numbers, values[first : first + len(numbers) * VALUES_PER_BLOCK])
    return values


def _check_words(words: NDArray[np.uint32], expected: int) -> None:
    if words.shape != (expected,) or words.dtype != np.uint32:
        raise InvalidElementError(
            f"masked words: shape {words.shape} of {words.dtype}, expected "
            f"({expected},) of uint32; the message is damaged or of another task"
        )


def _check_secret(
    secret_sum: NDArray[np.int64], count: int, parameters: RingParameters
) -> None:
    """Refuse a sum of secrets that is longer than `count` honest ones add up to."""
    # An honest sum of secrets is as narrow as the noise; a multiple of Delta added to
    # it would change values without adding any noise.
    limit = parameters.residual_limit(count)
    mean_square = np.square(secret_sum, dtype=np.float64).mean()
    if np.abs(secret_sum).max() > limit or mean_square > parameters.mean_square_limit(
        count
    ):
        raise DecryptionError("a sum of masked updates does not open")


def _subtract_from(words: NDArray[np.uint32], products: NDArray[np.uint32]) -> None:
    """Replace `products` by words - products, and by 0 where no word was sent."""
    sent = min(words.size, products.size)
    np.subtract(words[:sent], products[:sent], out=products[:sent])
    products[sent:] = 0


def _round(
    noisy: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Divide by Delta and round; what is left over takes the place of `noisy`."""
    numbers = noisy + np.int32(_HALF_DELTA)
    numbers >>= DELTA_BITS
    noisy -= numbers << DELTA_BITS
    return numbers, noisy


def _check_noise(
    noise: NDArray[np.int32], whole: int, count: int, parameters: RingParameters
) -> None:
    """Refuse noise that is wider than that of `count` honest updates.

    Args:
        noise: shape (blocks, N), |e| <= Delta / 2.
        whole: how many of the blocks were sent whole.
        count: how many updates were added.
        parameters: of the task.
    """
    limit = parameters.residual_limit(count)
    # N squares of Delta / 2 add up to 2^29.
    squares = np.einsum("ij,ij->i", noise[:whole], noise[:whole])
    most = RING_DIMENSION * parameters.mean_square_limit(count)
    if noise.max() > limit or noise.min() < -limit or squares.max(initial=0) > most:
        raise DecryptionError("a sum of masked updates does not open")
