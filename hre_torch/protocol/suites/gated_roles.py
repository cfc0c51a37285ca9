"""What each role of suite `gated` computes on the body of its messages.

The KTS multiplies exactly the heads that a signed release lists, and never touches a
value of the DSP's choice. Suite `hybrid` uses all of it for its key layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import numpy.typing as npt
from gmpy2 import mpz

from hre_torch.crypto.dcr import encryption, shares
from hre_torch.crypto.dcr.encryption import Ciphertext, Exponents
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.proofs import prove, verify_blocks, verify_heads
from hre_torch.crypto.dcr.shares import Share
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.errors import MessageError
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import (
    Body,
    DataServiceCipher,
    KeyTransformCipher,
    ParticipantCipher,
    Parts,
    SealedBody,
)
from hre_torch.protocol.suites.blocks import BlockLayout, LaneTask, decode_exponents
from hre_torch.protocol.workers import Workers

__all__ = [
    "GatedDataService",
    "GatedKeyTransform",
    "GatedParticipant",
    "GatedSum",
    "HeadProduct",
    "checked_heads",
]


class GatedParticipant(ParticipantCipher):
    """Encrypts and proves; opens the product of both servers' shares."""

    def __init__(self, lanes: LaneTask, secret: Secret, workers: Workers) -> None:
        self._lanes = lanes
        lanes.warm_tables((lanes.parameters.g, *lanes.joint))
        self._exponents = decode_exponents(secret.material, lanes.parameters)
        self._workers = workers

    def encrypt(self, values: npt.NDArray[np.int32]) -> SealedBody:
        """Return heads and lanes, and a prover that knows the randomness."""
        lanes = self._lanes
        rows = lanes.layout.split(lanes.packing.pack(values))
        made = self._workers.map(_encrypt, rows, lanes.joint, lanes.parameters)
        randomness = [r for r, _ in made]

        def prove_blocks(header: bytes) -> bytes:
            return prove(rows, randomness, lanes.joint, lanes.parameters, header)

        blocks = [block for _, block in made]
        return SealedBody(lanes.layout.encode_ciphertexts(blocks), prove_blocks)

    def decrypt(self, parts: Parts, count: int) -> npt.NDArray[np.int64]:
        """Return the sum of `count` uploads."""
        lanes = self._lanes
        decoded = lanes.layout.decode(parts, what="a download")
        opened = self._workers.map(
            shares.open_share,
            [Share(*block) for block in zip(*decoded, strict=True)],
            self._exponents,
            lanes.parameters,
        )
        plaintexts = [plaintext for block in opened for plaintext in block]
        return lanes.packing.unpack(plaintexts, lanes.n_values, count)


@dataclass(slots=True)
class GatedSum:
    """The DSP's sum of uploads, and `T_j T'^(-a_j)` once somebody has asked for it."""

    blocks: list[Ciphertext]
    unmasked: list[tuple[mpz, ...]] = field(default_factory=list, repr=False)


class GatedDataService(DataServiceCipher[GatedSum]):
    """Verifies and adds whole uploads; makes its share of a key transform."""

    def __init__(self, lanes: LaneTask, secret: Secret, workers: Workers) -> None:
        self._lanes = lanes
        lanes.warm_tables_of(workers, (lanes.parameters.g,))
        self._exponents = decode_exponents(secret.material, lanes.parameters)
        self._workers = workers

    def load(self, body: Body) -> GatedSum:
        """Return the blocks of an upload whose proof holds."""
        total = self.restore(body.parts)
        lanes = self._lanes
        verify_blocks(
            total.blocks, body.proof, lanes.joint, lanes.parameters, body.header
        )
        return total

    def add(self, totals: Sequence[GatedSum]) -> GatedSum:
        """Return the product of the blocks."""
        parameters = self._lanes.parameters
        return GatedSum(
            [
                reduce(lambda x, y: encryption.add(x, y, parameters), blocks)
                for blocks in zip(*(total.blocks for total in totals), strict=True)
            ]
        )

    def forward(self, total: GatedSum) -> Parts:
        """Return the heads."""
        return self._lanes.layout.encode([b.head for b in total.blocks], ())[:1]

    def begin(self, total: GatedSum, recipient: str) -> tuple[Parts, list[Share]]:
        """Make the own share; the KTS is told nothing but for whom."""
        lanes = self._lanes
        if not total.unmasked:
            total.unmasked = self._workers.map(
                shares.unmasked, total.blocks, self._exponents, lanes.parameters
            )
        keys = lanes.recipient(recipient)
        return (), self._workers.map(
            shares.share, total.unmasked, keys, lanes.parameters
        )

    def finish(self, kept: list[Share], reply: Parts) -> Parts:
        """Multiply both servers' shares."""
        layout = self._lanes.layout
        decoded = layout.decode(reply, what="a transform reply")
        combined = [
            shares.combine(own, Share(*block), self._lanes.parameters)
            for own, block in zip(kept, zip(*decoded, strict=True), strict=True)
        ]
        return layout.encode(
            [each.head for each in combined], [each.lanes for each in combined]
        )

    def dump(self, total: GatedSum) -> Parts:
        """Return heads and lanes."""
        return self._lanes.layout.encode_ciphertexts(total.blocks)

    def restore(self, parts: Parts) -> GatedSum:
        """Return the blocks, every element checked."""
        return GatedSum(self._lanes.layout.ciphertexts(parts, what="an upload"))


@dataclass(slots=True)
class HeadProduct:
    """The KTS's own product of heads, and `T'^(-b_j)` once somebody has asked."""

    heads: list[mpz]
    stripped: list[tuple[mpz, ...]] = field(default_factory=list, repr=False)


class GatedKeyTransform(KeyTransformCipher[HeadProduct]):
    """Verifies and multiplies heads; makes its share of a key transform."""

    def __init__(self, lanes: LaneTask, secret: Secret, workers: Workers) -> None:
        self._lanes = lanes
        lanes.warm_tables_of(workers, (lanes.parameters.g,))
        self._exponents = decode_exponents(secret.material, lanes.parameters)
        self._workers = workers

    def load(self, body: Body) -> HeadProduct:
        """Return the heads of an upload whose proof holds for them."""
        return HeadProduct(checked_heads(body, self._lanes.layout))

    def add(self, totals: Sequence[HeadProduct]) -> HeadProduct:
        """Return the products of the heads."""
        n_squared = self._lanes.parameters.n_squared
        return HeadProduct(
            [
                reduce(lambda x, y: x * y % n_squared, heads)
                for heads in zip(*(total.heads for total in totals), strict=True)
            ]
        )

    def transform(self, total: HeadProduct, request: Parts, recipient: str) -> Parts:
        """Make the own share from the own product of heads."""
        lanes = self._lanes
        if request:
            raise MessageError(
                "in this suite the DSP sends the KTS nothing to transform, but this "
                f"request has {len(request)} parts"
            )
        if not total.stripped:
            total.stripped = self._workers.map(
                _strip,
                list(zip(total.heads, lanes.layout.widths, strict=True)),
                self._exponents,
                lanes.parameters,
            )
        keys = lanes.recipient(recipient)
        made = self._workers.map(shares.share, total.stripped, keys, lanes.parameters)
        return lanes.layout.encode([s.head for s in made], [s.lanes for s in made])

    def dump(self, total: HeadProduct) -> Parts:
        """Return the heads."""
        return (self._lanes.layout.encode(total.heads, ())[0],)

    def restore(self, parts: Parts) -> HeadProduct:
        """Return the heads, every element checked."""
        return HeadProduct(_heads(parts, self._lanes.layout))


def checked_heads(body: Body, layout: BlockLayout) -> list[mpz]:
    """Return the forwarded heads of an upload whose proof holds for them.

    Raises:
        MessageError, InvalidElementError: they are malformed.
        ProofError: the proof does not verify.
    """
    heads = _heads(body.parts, layout)
    verify_heads(heads, body.proof, layout.plaintexts, layout.parameters, body.header)
    return heads


def _heads(parts: Parts, layout: BlockLayout) -> list[mpz]:
    if len(parts) != 1:
        raise MessageError(f"a deposit has one part, not {len(parts)}")
    return layout.decode_heads(parts[0], what="a deposit")


def _encrypt(
    row: Sequence[int], joint: Sequence[mpz], parameters: Parameters
) -> tuple[mpz, Ciphertext]:
    r = SYSTEM_ENTROPY.exponent(parameters.exponent_bits)
    return r, encryption.encrypt_with(row, r, joint, parameters)


def _strip(
    head: tuple[mpz, int], exponents: Exponents, parameters: Parameters
) -> tuple[mpz, ...]:
    element, width = head
    return shares.strip(element, exponents, width, parameters)
