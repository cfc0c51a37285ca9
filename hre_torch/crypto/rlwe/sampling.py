"""Pseudorandom octets, the public ring elements and Gaussian numbers made of them.

**Public elements** `a_k`, the same for everybody in a task:

    a_0 | a_1 | a_2 | ... = AES-256-CTR(key),   key = SHAKE-256(label | cfg),

8192 octets each, read as little-endian words. They are fixed for the task: only then is
the sum of all `a_k s` equal to `a_k` times the sum of all `s`, and an update may be
added whenever it arrives. Distinct k never share a counter, so no element repeats
inside an update (two masks under one `a_k` and one `s` would cancel).

What is used of them is their transform, which costs about half as much as all the
rest that masking does to a block. It is kept, up to a limit of memory; since every
update begins at block 0, the first blocks are kept and the rest are made again each
time.

Expanding a public seed with AES in counter mode is what FrodoKEM and the "90s" variant
of Kyber do; it needs AES to behave as an ideal cipher, as SHAKE would have to behave
as a random function, and is ten times faster here.

References:
    E. Alkim et al., "FrodoKEM: Learning With Errors Key Encapsulation", algorithm
    specifications, 2021 (generation of A with AES).

**Octets** come from AES-256 in counter mode. Suite `hybrid` needs two such streams. A
*secret* one, keyed once per upload with bytes of the operating system, feeds the
Gaussian sampler: asking the operating system for two octets per value would cost more
than everything else together. A *public* one, keyed with a hash of the task, expands
into the common ring elements `a_k`; it can be entered at any block, so that a large
model is treated in pieces.

References:
    NIST SP 800-38A, section 6.5 (counter mode).

**Gaussian numbers** are exact to 2^-128 and made with constant work. The distribution
on the integers is `P(x) ~ exp(-x^2 / (2 eta^2))`, eta = 6, cut off beyond +-84, 14
deviations, where 2^-147 of it lies.

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
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import gmpy2
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from gmpy2 import mpz
from numpy.typing import NDArray

from hre_torch.crypto.rlwe.ring import RING_DIMENSION, transform
from hre_torch.errors import ConfigurationError

__all__ = [
    "CIPHER_BLOCK_OCTETS",
    "ETA",
    "KEY_OCTETS",
    "PIECE_BLOCKS",
    "TAIL_BOUND",
    "Keystream",
    "PublicExpansion",
    "probabilities",
    "sample_gaussian",
    "shared_expansion",
]

KEY_OCTETS: Final = 32
CIPHER_BLOCK_OCTETS: Final = 16


class Keystream:
    """The octets AES_key(first_block) | AES_key(first_block + 1) | ...

    One key must serve one purpose: two streams with the same key and overlapping
    blocks are the same octets. The repr does not show the key.

    Args:
        key: exactly 32 octets.
        first_block: where to enter the stream, in cipher blocks of 16 octets,
            0 <= first_block < 2^128.

    Raises:
        ConfigurationError: the key has another length, or the block is out of range.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes, first_block: int = 0) -> None:
        if len(key) != KEY_OCTETS:
            raise ConfigurationError(
                f"a keystream takes a key of {KEY_OCTETS} octets, not {len(key)}"
            )
        if not 0 <= first_block < 1 << (8 * CIPHER_BLOCK_OCTETS):
            raise ConfigurationError(
                f"the first block of a keystream is {first_block}, but must lie "
                "between 0 and 2^128 - 1"
            )
        counter = first_block.to_bytes(CIPHER_BLOCK_OCTETS, "big")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()

    def octets(self, count: int) -> bytes:
        """Return the next `count` octets of the stream, count >= 0."""
        return self._encryptor.update(bytes(count))


ETA: Final = 6.0
"""eta: standard deviation of secrets and errors; why 6 says `parameters`."""

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


PIECE_BLOCKS: Final = 32
"""Blocks that are treated at a time: few calls, and arrays that stay in a cache."""

_LABEL: Final = b"hre_torch ring expansion 1"
_BLOCK_OCTETS: Final = 4 * RING_DIMENSION
_CIPHER_BLOCKS: Final = _BLOCK_OCTETS // CIPHER_BLOCK_OCTETS
_TRANSFORM_OCTETS: Final = 16 * (RING_DIMENSION // 2)
# Enough for the transforms of 16.7 million values.
_CACHE_OCTETS: Final = 128 << 20


class PublicExpansion:
    """The elements of one task and a bounded store of their transforms.

    Safe to share between threads: two that miss the same piece both compute it.

    Args:
        cfg: hash of the task, any length.
        cache_octets: most memory for transforms, 8192 octets per 1024 values; 0 keeps
            nothing.
    """

    def __init__(self, cfg: bytes, *, cache_octets: int = _CACHE_OCTETS) -> None:
        self._key = hashlib.shake_256(_LABEL + cfg).digest(KEY_OCTETS)
        self._most_pieces = cache_octets // (PIECE_BLOCKS * _TRANSFORM_OCTETS)
        self._pieces: dict[int, NDArray[np.complex128]] = {}

    @property
    def cached_octets(self) -> int:
        """Memory that the store takes at the moment."""
        return sum(piece.nbytes for piece in list(self._pieces.values()))

    def elements(self, first: int, count: int) -> NDArray[np.int32]:
        """Return a_k for first <= k < first + count, centred, shape (count, N)."""
        stream = Keystream(self._key, first * _CIPHER_BLOCKS)
        words = np.frombuffer(stream.octets(count * _BLOCK_OCTETS), dtype="<i4")
        return words.reshape(count, RING_DIMENSION)

    def transforms(
        self, n_blocks: int
    ) -> Iterator[tuple[slice, NDArray[np.complex128]]]:
        """Walk through the transforms of a_0 ... a_(n_blocks - 1) piece by piece.

        Args:
            n_blocks: How many blocks the update has.

        Yields:
            Which blocks, at most 32, and their transforms, shape (blocks, N/2); valid
            until the next piece is asked for.
        """
        passing = None
        for first in range(0, n_blocks, PIECE_BLOCKS):
            stop = min(first + PIECE_BLOCKS, n_blocks)
            piece = self._pieces.get(first)
            if piece is None:
                elements = self.elements(first, PIECE_BLOCKS)
                if len(self._pieces) < self._most_pieces:
                    piece = self._pieces[first] = transform(elements)
                else:
                    piece = passing = transform(elements, out=passing)
            yield slice(first, stop), piece[: stop - first]


@functools.lru_cache(maxsize=2)
def shared_expansion(cfg: bytes) -> PublicExpansion:
    """Return the expansion of a task that all roles of this process share.

    Args:
        cfg: hash of the task.
    """
    return PublicExpansion(cfg)
