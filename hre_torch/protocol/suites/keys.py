"""Keys of the suites with lanes: how cards and key material hold them, and a task's.

Public keys travel on key cards as one encoded element per lane, secret exponents are
key material of fixed width. `LaneTask` is what every role of such a suite needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from gmpy2 import mpz

from hre_torch.crypto.elements import decode_elements, encode_elements
from hre_torch.crypto.fixed_base import JOINT_WINDOW, shared_table
from hre_torch.crypto.lane_keys import Exponents
from hre_torch.crypto.modulus import Parameters
from hre_torch.encoding.packing import Packing
from hre_torch.errors import CryptoError
from hre_torch.protocol.suites.blocks import BlockLayout
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = [
    "LaneTask",
    "decode_exponents",
    "decode_keys",
    "encode_exponents",
    "encode_keys",
]


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
