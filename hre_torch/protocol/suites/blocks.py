"""How a vector becomes blocks of lanes, blocks become bytes, and cards hold lane keys.

A vector is packed into plaintexts, `L` plaintexts share a block, and the last block
carries only the lanes it needs. On the wire a series of blocks is two parts: all heads
(one element per block), then all lanes (one element per plaintext).

Public keys travel on key cards as one encoded element per lane, secret exponents are
key material of fixed width. `LaneTask` is what every role of such a suite needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gmpy2 import mpz

from hre_torch.crypto.dcr.encryption import Ciphertext, Exponents
from hre_torch.crypto.dcr.fixed_base import JOINT_WINDOW, shared_table
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.transcript import decode_elements, encode_elements
from hre_torch.encoding.packing import Packing
from hre_torch.errors import CryptoError, MessageError
from hre_torch.protocol.suite import Parts, Workload
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "BlockLayout",
    "LaneTask",
    "decode_exponents",
    "decode_keys",
    "encode_exponents",
    "encode_keys",
]

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


class LaneTask:
    """Layout, joint key and everybody's public keys, decoded and checked once.

    Args:
        task: the task.
        value_bits: `b` of the packed vector; the task's where None.
        n_values: length of the packed vector; the task's where None.
    """

    def __init__(
        self, task: Task, *, value_bits: int | None = None, n_values: int | None = None
    ) -> None:
        self.task = task
        self.parameters = task.parameters
        self.n_values = n_values or task.config.n_sealed
        self.packing = Packing(
            modulus=int(task.parameters.n),
            value_bits=value_bits or task.config.value_bits,
            max_additions=task.config.max_additions,
        )
        plaintexts = self.packing.plaintexts(self.n_values)
        self.layout = BlockLayout(task.parameters, plaintexts)
        self.joint = self.decode(task.roster.joint_key, "the servers")
        self._recipients: dict[str, tuple[mpz, ...]] = {}

    def decode(self, encoded: Sequence[bytes], whose: str) -> tuple[mpz, ...]:
        """Return checked public keys."""
        return decode_keys(encoded, self.parameters, whose=whose)

    def recipient(self, name: str) -> tuple[mpz, ...]:
        """Return the public keys of a participant.

        Raises:
            TaskError: the roster has no such name.
        """
        if name not in self._recipients:
            card = self.task.roster.card(name)
            self._recipients[name] = self.decode(card.public, name)
        return self._recipients[name]

    def warm_tables(self, keys: Sequence[mpz], window: int = JOINT_WINDOW) -> None:
        """Make the tables of as many lanes as this task uses, before workers fork."""
        for key in keys[: self.layout.plaintexts]:
            shared_table(key, self.parameters, window)

    def warm_tables_of(
        self, workers: Workers, keys: Sequence[mpz], window: int = JOINT_WINDOW
    ) -> None:
        """Make the tables that workers are going to share, if they share any.

        A server that works alone makes its tables when somebody needs them: it is back
        sooner after a restart. A single block never leaves this process.
        """
        if workers.count > 1 and self.layout.blocks > 1:
            self.warm_tables(keys, window)


def encode_keys(keys: Sequence[mpz], parameters: Parameters) -> tuple[bytes, ...]:
    """Return public keys as a key card holds them, one element per lane."""
    return tuple(encode_elements([key], parameters) for key in keys)


def decode_keys(
    encoded: Sequence[bytes], parameters: Parameters, *, whose: str
) -> tuple[mpz, ...]:
    """Return checked public keys from a key card.

    Raises:
        InvalidElementError: not one nontrivial, invertible element per lane.
    """
    return tuple(
        decode_elements(
            b"".join(encoded),
            parameters.lanes,
            parameters,
            what=f"public keys of {whose}",
            nontrivial=True,
        )
    )


def encode_exponents(exponents: Exponents, parameters: Parameters) -> bytes:
    """Return secret exponents as key material: fixed-width, big-endian."""
    width = -(-parameters.exponent_bits // 8)
    return b"".join(int(x).to_bytes(width, "big") for x in exponents.reveal())


def decode_exponents(material: bytes, parameters: Parameters) -> Exponents:
    """Return secret exponents from key material.

    Raises:
        CryptoError: the material does not have one exponent per lane.
    """
    width = -(-parameters.exponent_bits // 8)
    if len(material) != width * parameters.lanes:
        raise CryptoError(
            f"key material has {len(material)} octets, profile {parameters.name!r} "
            f"needs {width * parameters.lanes}; these keys are of another profile"
        )
    starts = range(0, len(material), width)
    return Exponents(int.from_bytes(material[i : i + width], "big") for i in starts)
