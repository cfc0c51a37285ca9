"""How a participant that runs its own code makes an upload.

Whatever it puts into the blocks, header, signature and envelope are made as the
protocol has them, and so is the proof: the best that the honest prover's code can do
with what the forger knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gmpy2 import mpz

from hre_torch.crypto.encryption import Ciphertext, encrypt_with
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.crypto.proofs import prove
from hre_torch.protocol.envelope import Envelope, seal
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.suites.keys import LaneTask
from hre_torch.protocol.task import Secret, Task

__all__ = ["Draft"]


@dataclass(slots=True)
class Draft:
    """Blocks that are not sealed yet, with all that their maker knows about them.

    Attributes:
        lanes: layout and joint key of the task.
        rows: the plaintexts of every block.
        randomness: the exponent of every block.
        blocks: the ciphertexts, to be tampered with.
    """

    lanes: LaneTask
    rows: list[tuple[int, ...]]
    randomness: list[mpz] = field(repr=False)
    blocks: list[Ciphertext]

    @classmethod
    def of(cls, task: Task, plaintexts: Sequence[int]) -> Draft:
        """Return honest blocks of one plaintext per lane."""
        lanes = LaneTask(task)
        bits = lanes.parameters.exponent_bits
        rows = lanes.layout.split(list(plaintexts))
        randomness = [SYSTEM_ENTROPY.exponent(bits) for _ in rows]
        blocks = [
            encrypt_with(row, r, lanes.joint, lanes.parameters)
            for row, r in zip(rows, randomness, strict=True)
        ]
        return cls(lanes, rows, randomness, blocks)

    def tamper(self, change: Callable[[Ciphertext], Ciphertext]) -> None:
        """Replace every block."""
        self.blocks = [change(block) for block in self.blocks]

    def seal(self, secret: Secret) -> Envelope[Upload]:
        """Return a signed upload of the blocks as they are now, number 0."""
        task, lanes = self.lanes.task, self.lanes
        header = Upload(
            cfg=task.cfg,
            sender=secret.name,
            sequence=0,
            base_version=0,
            state_digest=task.config.initial_digest,
        )

        def proof(encoded: bytes) -> bytes:
            if task.config.suite == "paper":
                return b""
            return prove(
                self.rows, self.randomness, lanes.joint, lanes.parameters, encoded
            )

        parts = lanes.layout.encode_ciphertexts(self.blocks)
        return seal(header, secret.signing, parts, prove=proof)
