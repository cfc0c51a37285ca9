"""Suite `hybrid`: `gated` for a short secret, one-time Ring-LWE for everything else.

An update is masked by words `c = a s + e + Delta m mod 2^32`; only the 2,048 small
numbers of `s` go through the key layer, which is suite `gated` itself. The DSP adds
words, and the KTS's work does not depend on the size of the model at all. A release
carries the hash of the sum of words, so that nobody can be shown another sum than
everybody else. `crypto/rlwe/` holds the mathematics.

**Words that wait.** An upload to suite `hybrid` waits for its release, and a sum for
its last recipient. Of a large model each takes tens of megabytes, of which nothing is
needed in between. They lie in one unnamed file of the system's temporary folder, in
places of equal size that are used again. The words are ciphertext; the file is gone
when the process ends, and whoever wants them to outlive it keeps them in a journal as
well.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.proofs import proof_bytes
from hre_torch.crypto.rlwe.masking import accumulate, mask, unmask
from hre_torch.crypto.rlwe.parameters import MOST_ADDITIONS, RingParameters
from hre_torch.crypto.rlwe.ring import RING_DIMENSION
from hre_torch.crypto.rlwe.sampling import shared_expansion
from hre_torch.errors import ChecksumError, DecryptionError, MessageError, StoreError
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import (
    Body,
    DataServiceCipher,
    Integers,
    KeyTransformCipher,
    ParticipantCipher,
    Parts,
    Plan,
    SealedBody,
    Workload,
)
from hre_torch.protocol.suites.blocks import LaneTask
from hre_torch.protocol.suites.gated import GatedSuite
from hre_torch.protocol.suites.gated_roles import (
    GatedDataService,
    GatedKeyTransform,
    GatedParticipant,
    GatedSum,
    checked_heads,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import octets_of
from hre_torch.protocol.workers import Workers

__all__ = [
    "SUITE",
    "HybridDataService",
    "HybridParticipant",
    "HybridSuite",
    "KeptWords",
    "WordStore",
    "key_layer",
]

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


_SECRET_BITS: Final = 8
"""A secret holds Gaussian numbers |s| <= 84: eight bits with sign."""
_KEY_PARTS: Final = 2


def key_layer(task: Task) -> LaneTask:
    """Return the lanes that carry a secret `s`: the part of an upload that is gated."""
    return LaneTask(task, value_bits=_SECRET_BITS, n_values=RING_DIMENSION)


def _ring(task: Task) -> RingParameters:
    return RingParameters(task.config.value_bits, task.config.max_additions)


def _words(parts: Parts, expected: int, *, what: str) -> Words:
    if len(parts) != _KEY_PARTS + 1 or len(parts[-1]) != 4 * expected:
        raise MessageError(
            f"{what} has {_KEY_PARTS} parts of keys and one of {4 * expected} octets "
            f"of words, this one has parts of {[len(p) for p in parts]} octets"
        )
    return np.frombuffer(parts[-1], dtype="<u4").astype(np.uint32, copy=False)


def _octets(words: Words) -> bytes:
    """Return words as they travel, without copying them."""
    return octets_of(words.astype("<u4", copy=False))


class HybridParticipant(ParticipantCipher):
    """Masks updates and sends the secrets through the key layer; opens sums."""

    def __init__(self, task: Task, secret: Secret, workers: Workers) -> None:
        self._keys = GatedParticipant(key_layer(task), secret, workers)
        self._ring = _ring(task)
        self._expansion = shared_expansion(task.cfg)
        self._n_values = task.config.n_sealed

    def encrypt(self, values: Integers) -> SealedBody:
        """Return the key layer of a fresh secret, and the words that it masks."""
        masked = mask(values, self._ring, self._expansion)
        keys = self._keys.encrypt(masked.secret.astype(np.int32))
        return SealedBody((*keys.parts, _octets(masked.words)), keys.prove)

    def decrypt(self, parts: Parts, count: int) -> Integers:
        """Return the sum of `count` uploads."""
        total = _words(parts, self._ring.words(self._n_values), what="a download")
        secret = self._keys.decrypt(parts[:_KEY_PARTS], count)
        try:
            return unmask(
                total, secret, count, self._n_values, self._ring, self._expansion
            )
        except DecryptionError as error:
            # An upload was not masked honestly, or the sum of secrets was shifted:
            # which of them, the participant cannot tell alone.
            raise ChecksumError(
                "the noise of a release exceeds 10 eta sqrt(count)"
            ) from error

    def commitment(self, parts: Parts) -> bytes:
        """Return SHA-256 of the words in a download."""
        return hashlib.sha256(parts[-1]).digest()


@dataclass(slots=True)
class HybridSum:
    """Sum of key layers and sum of words."""

    keys: GatedSum
    words: KeptWords


class HybridDataService(DataServiceCipher[HybridSum]):
    """Verifies and adds key layers as `gated` does, and adds words."""

    def __init__(self, task: Task, secret: Secret, workers: Workers) -> None:
        self._keys = GatedDataService(key_layer(task), secret, workers)
        self._n_words = _ring(task).words(task.config.n_sealed)
        self._store = WordStore(self._n_words)

    def load(self, body: Body) -> HybridSum:
        """Return an upload whose proof holds for its key layer."""
        words = _words(body.parts, self._n_words, what="an upload")
        keys = Body(body.parts[:_KEY_PARTS], body.header, body.proof)
        return HybridSum(self._keys.load(keys), self._store.keep(words))

    def add(self, totals: Sequence[HybridSum]) -> HybridSum:
        """Return the product of the key layers and the sum of the words."""
        words = totals[0].words.copy()
        for other in totals[1:]:
            start = 0
            for piece in other.words.pieces():
                accumulate(words[start : start + piece.size], piece)
                start += piece.size
        keys = self._keys.add([total.keys for total in totals])
        return HybridSum(keys, self._store.keep(words))

    def forward(self, total: HybridSum) -> Parts:
        """Return the heads of the key layer."""
        return self._keys.forward(total.keys)

    def commitment(self, total: HybridSum) -> bytes:
        """Return SHA-256 of the sum of words."""
        digest = hashlib.sha256()
        for piece in total.words.pieces():
            digest.update(_octets(piece))
        return digest.digest()

    def begin(self, total: HybridSum, recipient: str) -> tuple[Parts, Any]:
        """Make the own share of the key layer; the words need none."""
        request, kept = self._keys.begin(total.keys, recipient)
        return request, (kept, total.words)

    def finish(self, kept: Any, reply: Parts) -> Parts:
        """Multiply both servers' shares; the words follow as they are."""
        shares, words = kept
        return (*self._keys.finish(shares, reply), _octets(words.copy()))

    def dump(self, total: HybridSum) -> Parts:
        """Return heads, lanes, words."""
        return (*self._keys.dump(total.keys), _octets(total.words.copy()))

    def restore(self, parts: Parts) -> HybridSum:
        """Return a sum, every element of its key layer checked."""
        words = _words(parts, self._n_words, what="a stored sum")
        return HybridSum(
            self._keys.restore(parts[:_KEY_PARTS]), self._store.keep(words)
        )


class HybridSuite(GatedSuite):
    """The fast one: heavy cryptography no longer depends on the model's size."""

    name = "hybrid"
    default_max_additions: ClassVar[int] = MOST_ADDITIONS

    def plan(self, parameters: Parameters, workload: Workload) -> Plan:
        """Predict cost: that of `gated` for one secret, and four bytes per word."""
        secret = Workload(
            RING_DIMENSION, workload.participants, _SECRET_BITS, workload.max_additions
        )
        keys = super().plan(parameters, secret)
        ring = RingParameters(workload.value_bits, workload.max_additions)
        words = 4 * ring.words(workload.n_values)
        return Plan(
            plaintexts=keys.plaintexts,
            upload_bytes=keys.upload_bytes + words,
            download_bytes=keys.download_bytes + words,
            server_bytes=keys.server_bytes,
            multiplications=keys.multiplications,
            unshared=keys.unshared,
            table_bytes=keys.table_bytes,
            recipient_bytes=keys.recipient_bytes,
            words=ring.words(workload.n_values),
        )

    def check(self, task: Task) -> None:
        """Check what `gated` checks, and that b and K fit the ring.

        Raises:
            TaskError: one of them is wrong; says which b and K would fit.
        """
        super().check(task)
        _ring(task)

    def check_forwarded(self, task: Task, body: Body) -> None:
        """Verify the proof of an upload for the heads of its key layer."""
        checked_heads(body, key_layer(task).layout)

    def proof_size(self, task: Task) -> int:
        """Size of the batched proof of the key layer."""
        return proof_bytes(key_layer(task).layout.plaintexts, task.parameters)

    def upload_sizes(self, task: Task) -> tuple[int, ...]:
        """Heads, lanes, words."""
        words = 4 * _ring(task).words(task.config.n_sealed)
        return (*key_layer(task).layout.part_sizes, words)

    def participant(
        self, task: Task, secret: Secret, workers: Workers
    ) -> ParticipantCipher:
        """Return the participant's half."""
        return HybridParticipant(task, secret, workers)

    def data_service(
        self, task: Task, secret: Secret, workers: Workers
    ) -> DataServiceCipher[Any]:
        """Return the DSP's half."""
        return HybridDataService(task, secret, workers)

    def key_transform(
        self, task: Task, secret: Secret, workers: Workers
    ) -> KeyTransformCipher[Any]:
        """Return the KTS's half: that of `gated`, for the secrets alone."""
        return GatedKeyTransform(key_layer(task), secret, workers)


SUITE: Final = HybridSuite()
