"""How a vector becomes blocks of lanes, and blocks become bytes.

A vector is packed into plaintexts, `L` plaintexts share a block, and the last block
carries only the lanes it needs. On the wire a series of blocks is two parts: all heads
(one element per block), then all lanes (one element per plaintext).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gmpy2 import mpz

from hre_torch.crypto.elements import decode_elements, encode_elements
from hre_torch.crypto.encryption import Ciphertext
from hre_torch.crypto.modulus import Parameters
from hre_torch.encoding.packing import Packing
from hre_torch.errors import MessageError
from hre_torch.protocol.ciphers import Parts
from hre_torch.protocol.suite import Workload

__all__ = ["BlockLayout"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How many plaintexts an update takes and how they fall into blocks.

    Args:
        parameters: fixes lanes and element size.
        plaintexts: plaintexts per update, at least 1.
    """

    parameters: Parameters
    plaintexts: int

    @classmethod
    def of_workload(cls, parameters: Parameters, workload: Workload) -> BlockLayout:
        """Return the layout of a packed vector of `workload.n_values` values."""
        packing = Packing(
            modulus=int(parameters.n),
            value_bits=workload.value_bits,
            max_additions=workload.max_additions,
        )
        return cls(parameters, packing.plaintexts(workload.n_values))

    @property
    def blocks(self) -> int:
        """Number of blocks, the last one perhaps with fewer lanes."""
        return -(-self.plaintexts // self.parameters.lanes)

    @property
    def part_sizes(self) -> tuple[int, int]:
        """Octets of the heads part and of the lanes part."""
        width = self.parameters.element_bytes
        return self.blocks * width, self.plaintexts * width

    @property
    def widths(self) -> list[int]:
        """Lanes of every block."""
        lanes = self.parameters.lanes
        return [min(lanes, self.plaintexts - i * lanes) for i in range(self.blocks)]

    def split(self, items: Sequence[Item]) -> list[tuple[Item, ...]]:
        """Split one item per plaintext into blocks of at most `L`."""
        lanes = self.parameters.lanes
        return [tuple(items[i : i + lanes]) for i in range(0, len(items), lanes)]

    def encode(self, heads: Sequence[mpz], lanes: Iterable[Sequence[mpz]]) -> Parts:
        """Return the two parts of a series of blocks."""
        flat = [element for block in lanes for element in block]
        return (
            encode_elements(heads, self.parameters),
            encode_elements(flat, self.parameters),
        )

    def decode(
        self, parts: Parts, *, what: str
    ) -> tuple[list[mpz], list[tuple[mpz, ...]]]:
        """Return heads and lanes of a series of blocks, every element checked.

        Raises:
            MessageError: not two parts.
            InvalidElementError: wrong length, out of range, trivial or not invertible.
        """
        if len(parts) != 2:
            raise MessageError(f"{what} has two parts, not {len(parts)}")
        heads = self.decode_heads(parts[0], what=what)
        return heads, self.split(self.decode_lanes(parts[1], what=what))

    def decode_heads(self, part: bytes, *, what: str) -> list[mpz]:
        """Return one checked, nontrivial element per block."""
        return decode_elements(
            part,
            self.blocks,
            self.parameters,
            what=f"heads of {what}",
            nontrivial=True,
        )

    def decode_lanes(self, part: bytes, *, what: str) -> list[mpz]:
        """Return one checked element per plaintext."""
        return decode_elements(
            part, self.plaintexts, self.parameters, what=f"lanes of {what}"
        )

    def encode_ciphertexts(self, blocks: Sequence[Ciphertext]) -> Parts:
        """Return the two parts of a series of ciphertexts."""
        return self.encode([b.head for b in blocks], [b.lanes for b in blocks])

    def ciphertexts(self, parts: Parts, *, what: str) -> list[Ciphertext]:
        """Return a series of blocks as ciphertexts, every element checked."""
        heads, lanes = self.decode(parts, what=what)
        return [Ciphertext(*block) for block in zip(heads, lanes, strict=True)]
