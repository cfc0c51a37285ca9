"""The public ring elements a_k, the same for everybody in a task.

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
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hre_torch.crypto.keystream import CIPHER_BLOCK_OCTETS, KEY_OCTETS, Keystream
from hre_torch.crypto.negacyclic import RING_DIMENSION, transform

__all__ = ["PIECE_BLOCKS", "PublicExpansion", "shared_expansion"]

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
