"""The words of suite `hybrid`, as everybody can read, add and change them.

`c_k = a_k s + e_k + Delta m_k mod 2^32` is bare to whoever cancels `a_k s`: in the
difference of two uploads that share their secret, or with the secret itself, which
the key layer carries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.rlwe.masking import unmask
from hre_torch.crypto.rlwe.parameters import (
    DELTA_BITS,
    SERVICE_WORDS,
    VALUES_PER_BLOCK,
    RingParameters,
)
from hre_torch.crypto.rlwe.ring import RING_DIMENSION
from hre_torch.crypto.rlwe.sampling import shared_expansion
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.task import Task

__all__ = [
    "Words",
    "bare",
    "decode_words",
    "encode_words",
    "open_words",
    "plain_words",
    "ring_of",
]

Words = npt.NDArray[np.uint32]
Values = npt.NDArray[np.int64]


def decode_words(parts: Parts) -> Words:
    """Return the words of an upload or a download: its last part."""
    return np.frombuffer(parts[-1], dtype="<u4").astype(np.uint32)


def encode_words(words: Words) -> bytes:
    """Return words as they travel."""
    return words.astype("<u4").tobytes()


def bare(words: Words, n_values: int) -> Values:
    """Return what words show whoever takes them for `Delta m` and a little noise.

    Args:
        words: as many words as `n_values` values take.
        n_values: length of the update.
    """
    numbers = (words.astype(np.int32) + (1 << (DELTA_BITS - 1))) >> DELTA_BITS
    service = np.arange(words.size) % RING_DIMENSION < SERVICE_WORDS
    return numbers[~service][:n_values].astype(np.int64)


def open_words(parts: Parts, secret: Values, count: int, task: Task) -> Values:
    """Return the sum of `count` updates, given the sum of their secrets.

    Raises:
        DecryptionError, ChecksumError, SlotOverflowError: it is not their sum.
    """
    opened = unmask(
        decode_words(parts),
        secret,
        count,
        task.config.n_sealed,
        ring_of(task),
        shared_expansion(task.cfg),
    )
    return opened.astype(np.int64)


def plain_words(values: Values, count: int, task: Task) -> Words:
    """Return `Delta m`, without any mask: adding it adds to a sum, count and checksum.

    Args:
        values: int64, shape `(n_values,)`.
        count: for how many updates it stands.
        task: fixes the layout.
    """
    ring = ring_of(task)
    numbers = np.zeros((ring.blocks(values.size), RING_DIMENSION), dtype=np.int64)
    padding = numbers.shape[0] * VALUES_PER_BLOCK - values.size
    padded = np.pad(values, (0, padding)).reshape(-1, VALUES_PER_BLOCK)
    sums, digit = padded.sum(axis=1), 1 << (ring.value_bits - 1)
    low = (sums + digit // 2) % digit - digit // 2
    numbers[:, SERVICE_WORDS:] = padded
    numbers[:, :SERVICE_WORDS] = np.stack(
        (np.full_like(sums, count), low, (sums - low) // digit), axis=1
    )
    words = numbers.reshape(-1)[: ring.words(values.size)] << DELTA_BITS
    return (words % (1 << 32)).astype(np.uint32)


def ring_of(task: Task) -> RingParameters:
    """Return `b` and `K` of a task."""
    return RingParameters(task.config.value_bits, task.config.max_additions)
