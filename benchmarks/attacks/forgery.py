"""How a participant that runs its own code makes an upload.

Whatever it puts into the blocks, header, signature and envelope are made as the
protocol has them, and so is the proof: the best that the honest prover's code can do
with what the forger knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from benchmarks.attacks.algebra import lanes_of
from benchmarks.attacks.words import Words, encode_words, plain_words, ring_of
from hre_torch.crypto.dcr.encryption import Ciphertext, encrypt_with
from hre_torch.crypto.dcr.proofs import prove
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.crypto.rlwe.masking import mask
from hre_torch.crypto.rlwe.sampling import shared_expansion
from hre_torch.protocol.entries import GENESIS
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites.blocks import LaneTask
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, seal

__all__ = ["Draft"]


@dataclass(slots=True)
class Draft:
    """Blocks that are not sealed yet, with all that their maker knows about them.

    Attributes:
        lanes: layout and joint key of the task.
        rows: the plaintexts of every block.
        randomness: the exponent of every block.
        blocks: the ciphertexts, to be tampered with.
        words: the words of suite `hybrid`, to be tampered with; elsewhere none.
    """

    lanes: LaneTask
    rows: list[tuple[int, ...]]
    randomness: list[mpz] = field(repr=False)
    blocks: list[Ciphertext]
    words: Words

    @classmethod
    def of(cls, task: Task, plaintexts: Sequence[int]) -> Draft:
        """Return honest blocks of one plaintext per lane, and words of zero."""
        lanes = lanes_of(task)
        bits = lanes.parameters.exponent_bits
        rows = lanes.layout.split(list(plaintexts))
        randomness = [SYSTEM_ENTROPY.exponent(bits) for _ in rows]
        blocks = [
            encrypt_with(row, r, lanes.joint, lanes.parameters)
            for row, r in zip(rows, randomness, strict=True)
        ]
        hybrid = task.config.suite == "hybrid"
        size = ring_of(task).words(task.config.n_sealed) if hybrid else 0
        words = np.zeros(size, dtype=np.uint32)
        return cls(lanes, rows, randomness, blocks, words)

    @classmethod
    def of_zeros(cls, task: Task, count: int = 1) -> Draft:
        """Return an update of zeros, honest if it counts as one."""
        nothing = np.zeros(task.config.n_sealed, dtype=np.int32)
        if task.config.suite != "hybrid":
            return cls.of(task, _counted(nothing, count, LaneTask(task)))
        masked = mask(nothing, ring_of(task), shared_expansion(task.cfg))
        secret = masked.secret.astype(np.int32)
        draft = cls.of(task, _counted(secret, count, lanes_of(task)))
        more = plain_words(nothing.astype(np.int64), count - 1, task)
        draft.words = masked.words + more
        return draft

    def tamper(self, change: Callable[[Ciphertext], Ciphertext]) -> None:
        """Replace every block."""
        self.blocks = [change(block) for block in self.blocks]

    def seal(self, secret: Secret, number: int = 0) -> Envelope[Upload]:
        """Return a signed upload of the blocks as they are now, based on version 0."""
        task, lanes = self.lanes.task, self.lanes
        header = Upload(
            cfg=task.cfg,
            sender=secret.name,
            sequence=number,
            base_version=0,
            state_digests=task.config.initial_digest,
            chain=GENESIS,
        )

        def proof(encoded: bytes) -> bytes:
            if task.config.suite == "paper":
                return b""
            return prove(
                self.rows, self.randomness, lanes.joint, lanes.parameters, encoded
            )

        parts = lanes.layout.encode_ciphertexts(self.blocks)
        if self.words.size:
            parts = (*parts, encode_words(self.words))
        return seal(header, secret.signing, parts, prove=proof)


def _counted(
    values: npt.NDArray[np.int32], count: int, lanes: LaneTask
) -> Sequence[int]:
    # The lowest slot of a plaintext is its count, which packing sets to one.
    return [m + count - 1 for m in lanes.packing.pack(values)]
