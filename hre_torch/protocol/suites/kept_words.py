"""Words that wait at the DSP, outside its memory where they are many.

An upload to suite `hybrid` waits for its release, and a sum for its last recipient.
Of a large model each takes tens of megabytes, of which nothing is needed in between.
They lie in one unnamed file of the system's temporary folder, in places of equal size
that are used again. The words are ciphertext; the file is gone when the process ends,
and whoever wants them to outlive it keeps them in a journal as well.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from hre_torch.errors import StoreError

__all__ = ["KeptWords", "WordStore"]

Words = npt.NDArray[np.uint32]

_LEAST_OCTETS: Final = 4 << 20
"""Shorter vectors stay in memory: reading them back would cost more than they take."""
_PIECE_WORDS: Final = 1 << 18


class KeptWords:
    """One vector of words; made by `WordStore.keep`.

    Args:
        words: the vector itself, if it stays in memory.
        store: where it lies otherwise.
        place: its first octet there.
    """

    __slots__ = ("__weakref__", "_place", "_store", "_words")

    def __init__(self, words: Words | None, store: WordStore, place: int = 0) -> None:
        self._words = words
        self._store = store
        self._place = place

    def pieces(self) -> Iterator[Words]:
        """Walk through the words, a megabyte at a time; the pieces are read-only.

        Raises:
            StoreError: they cannot be read back.
        """
        if self._words is None:
            yield from self._store.read(self._place)
        else:
            piece = self._words.view()
            piece.flags.writeable = False
            yield piece

    def copy(self) -> Words:
        """Return all words in a new array.

        Raises:
            StoreError: they cannot be read back.
        """
        words = np.empty(self._store.n_words, dtype=np.uint32)
        start = 0
        for piece in self.pieces():
            words[start : start + piece.size] = piece
            start += piece.size
        return words


class WordStore:
    """Keeps vectors of one length.

    Args:
        n_words: their length.
        least_octets: how long a vector must be to leave the memory.
    """

    def __init__(self, n_words: int, *, least_octets: int = _LEAST_OCTETS) -> None:
        self.n_words = n_words
        self._in_memory = 4 * n_words < least_octets
        self._lock = threading.Lock()
        self._descriptor = -1
        self._free: list[int] = []
        self._places = 0

    def keep(self, words: Words) -> KeptWords:
        """Keep a vector, which must not change afterwards, until nobody refers to it.

        Args:
            words: shape (n_words,), uint32.

        Raises:
            StoreError: the temporary folder has no room for it.
        """
        if self._in_memory:
            return KeptWords(words, self)
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = _unnamed_file()
                weakref.finalize(self, os.close, self._descriptor)
            if self._free:
                place = self._free.pop()
            else:
                place, self._places = 4 * self.n_words * self._places, self._places + 1
        kept = KeptWords(None, self, place)
        # Runs when the last reference goes, also where writing fails.
        weakref.finalize(kept, self._free.append, place).atexit = False
        self._write(words, place)
        return kept

    def read(self, place: int) -> Iterator[Words]:
        """Walk through the vector at a place, piece by piece.

        Raises:
            StoreError: it cannot be read back.
        """
        for first in range(0, self.n_words, _PIECE_WORDS):
            size = 4 * min(_PIECE_WORDS, self.n_words - first)
            try:
                piece = os.pread(self._descriptor, size, place + 4 * first)
            except OSError as error:
                raise StoreError(f"words cannot be read back: {error}") from error
            if len(piece) != size:
                raise StoreError(
                    f"{size} octets of words were kept, but only {len(piece)} are "
                    "there: somebody has cut the temporary file; start the server again"
                )
            yield np.frombuffer(piece, dtype=np.uint32)

    def _write(self, words: Words, place: int) -> None:
        rest = words.data.cast("B")
        try:
            while rest:
                written = os.pwrite(self._descriptor, rest, place)
                rest, place = rest[written:], place + written
        except OSError as error:
            raise StoreError(
                f"{words.nbytes} octets of words cannot be kept in "
                f"{tempfile.gettempdir()} ({error}); make room there, or point TMPDIR "
                "to a larger disk"
            ) from error


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
