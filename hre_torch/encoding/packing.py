"""Many small signed integers in one large plaintext, so that sums stay readable.

A plaintext is one integer made of slots, the lowest slot first:

    m = count + checksum * 2^W + sum_i q_i * 2^(W + C + i W),
    checksum = sum_i q_i,   W = b + ceil(log2 K),   C = W + ceil(log2 v),

with `b` value bits, at most `K` additions and `v` values per plaintext. Adding
plaintexts adds every slot. The slots are *signed*: a negative sum borrows from the slot
above it, so a plaintext is read from the lowest slot up with centred digits. Borrows
and carries travel upward only; the two service slots lie below all values and can
therefore bear witness: the count says how many plaintexts were added, the checksum
what their values must add up to.

Why nothing overflows: K values of magnitude at most 2^(b-1) - 1 add up to less than
2^(W-1), and v such sums to less than 2^(C-1).

References:
    L. T. Phong, Y. Aono, T. Hayashi, L. Wang, S. Moriai, "Privacy-Preserving Deep
    Learning via Additively Homomorphic Encryption", IEEE TIFS 13(5), 2018, section IV
    (packing gradients into Paillier plaintexts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, SupportsInt

import numpy as np
from numpy.typing import NDArray

from hre_torch.errors import ChecksumError, SlotOverflowError, TaskError

__all__ = ["Packing"]

# Distance between the top slot and n/2, so that a stray carry still decodes as such.
_GUARD_BITS: Final = 8
# Sums and checksums are computed in int64.
_MOST_SUM_BITS: Final = 63


@dataclass(frozen=True)
class Packing:
    """The slot layout of one task.

    Args:
        modulus: n, the plaintext modulus.
        value_bits: b, sign included, 2 <= b <= 32.
        max_additions: K >= 1, how many packed plaintexts may be added.

    Raises:
        TaskError: not even one value fits, or sums would not fit int64.

    >>> packing = Packing(modulus=2**511 + 1, value_bits=16, max_additions=256)
    >>> packing.slot_bits, packing.values_per_plaintext
    (24, 18)
    >>> m = packing.pack(np.array([5, -7], dtype=np.int32))
    >>> packing.unpack([3 * m[0]], n_values=2, expected_count=3).tolist()
    [15, -21]
    """

    modulus: int = field(repr=False)
    value_bits: int
    max_additions: int

    def __post_init__(self) -> None:
        if not 2 <= self.value_bits <= 32:
            raise TaskError(
                f"value_bits is {self.value_bits}, but must lie between 2 and 32."
            )
        if self.max_additions < 1:
            raise TaskError(
                f"max_additions is {self.max_additions}, but must be at least 1."
            )
        if self.values_per_plaintext < 1:
            raise TaskError(
                f"A modulus of {self.modulus.bit_length()} bits has no room for one "
                f"value of {self.slot_bits} bits beside its count and checksum; lower "
                "value_bits or max_additions, or take a larger profile."
            )
        if self.checksum_bits > _MOST_SUM_BITS:
            raise TaskError(
                f"Checksums would need {self.checksum_bits} bits, more than the "
                f"{_MOST_SUM_BITS} of exact sums; lower value_bits or max_additions."
            )

    @cached_property
    def limit(self) -> int:
        """The largest magnitude of one value, 2^(b-1) - 1."""
        return int(2 ** (self.value_bits - 1) - 1)

    @cached_property
    def slot_bits(self) -> int:
        """W = b + ceil(log2 K), the width of the count slot and of every value slot."""
        return self.value_bits + _ceil_log2(self.max_additions)

    @cached_property
    def values_per_plaintext(self) -> int:
        """The largest v with W + (W + ceil(log2 v)) + v W <= bits(n) - 8; 0 if none."""
        room = self.modulus.bit_length() - _GUARD_BITS - 2 * self.slot_bits
        v = max(room // self.slot_bits, 0)
        while v > 0 and _ceil_log2(v) + v * self.slot_bits > room:
            v -= 1
        return v

    @cached_property
    def checksum_bits(self) -> int:
        """C = W + ceil(log2 v), the width of the checksum slot."""
        return self.slot_bits + _ceil_log2(self.values_per_plaintext)

    def plaintexts(self, n_values: int) -> int:
        """Return how many plaintexts carry `n_values` values."""
        return -(-n_values // self.values_per_plaintext)

    def pack(self, values: NDArray[np.int32]) -> list[int]:
        """Pack values, each plaintext with count 1 and the checksum of its values.

        Args:
            values: shape (n_values,), -limit <= q <= limit; a last plaintext that is
                not full is padded with zeros.

        Returns:
            `plaintexts(n_values)` signed integers, |m| < n/2.

        Raises:
            SlotOverflowError: a value exceeds its `value_bits`.
        """
        # Two comparisons and no abs(): the smallest int32 has no positive twin.
        outside = (values > self.limit) | (values < -self.limit)
        if outside.any():
            raise SlotOverflowError(
                f"{np.count_nonzero(outside)} values exceed +-{self.limit}, the first "
                f"at index {np.flatnonzero(outside)[0]}; quantise to "
                f"{self.value_bits} bits before packing."
            )
        rows = self.plaintexts(values.size)
        table = np.zeros((rows, self.values_per_plaintext), dtype=np.int64)
        table.reshape(-1)[: values.size] = values
        checksums = table.sum(axis=1).tolist()
        # Biased by half a slot, every digit is non-negative and the slots are plain
        # bit fields; the same bias is taken away from the whole integer afterwards.
        digits = _join_fields(table + (1 << (self.slot_bits - 1)), self.slot_bits)
        width, below, bias = self.slot_bits, self._values_offset, self._values_bias
        return [
            ((int.from_bytes(row, "little") - bias) << below) + (checksum << width) + 1
            for row, checksum in zip(digits, checksums, strict=True)
        ]

    def unpack(
        self,
        residues: Sequence[SupportsInt],
        n_values: int,
        expected_count: int,
    ) -> NDArray[np.int64]:
        """Read a sum of packed plaintexts and check its two service slots.

        Args:
            residues: `plaintexts(n_values)` integers, taken modulo n.
            n_values: how many values were packed.
            expected_count: how many plaintexts were added, 1 <= count <= K.

        Returns:
            The sums, shape (n_values,), |sum| <= expected_count * limit.

        Raises:
            SlotOverflowError: more than K additions, or a sum that left its slot.
            ChecksumError: a plaintext is missing, or a count or checksum is wrong.
        """
        if not 1 <= expected_count <= self.max_additions:
            raise SlotOverflowError(
                f"A sum of {expected_count} plaintexts was asked for, but slots are "
                f"sized for 1 to {self.max_additions}; release fewer uploads at once."
            )
        if len(residues) != self.plaintexts(n_values):
            raise ChecksumError(
                f"{len(residues)} plaintexts arrived, but {n_values} values take "
                f"{self.plaintexts(n_values)}."
            )
        counts, checksums, fields = self._split(residues)
        table = _split_fields(fields, self.slot_bits, self.values_per_plaintext)
        table -= 1 << (self.slot_bits - 1)
        self._check_service_slots(counts, checksums, table, expected_count)
        values = table.reshape(-1)[:n_values]
        if values.size and np.abs(values).max() > expected_count * self.limit:
            raise SlotOverflowError(
                f"A sum exceeds what {expected_count} values of {self.value_bits} bits "
                "can add up to; somebody sent a value out of range."
            )
        return values

    @cached_property
    def _values_offset(self) -> int:
        return self.slot_bits + self.checksum_bits

    @cached_property
    def _values_bias(self) -> int:
        half = 1 << (self.slot_bits - 1)
        width = self.slot_bits
        return sum(half << (i * width) for i in range(self.values_per_plaintext))

    def _split(
        self, residues: Sequence[SupportsInt]
    ) -> tuple[list[int], list[int], list[bytes]]:
        """Cut each plaintext into count, checksum and biased value bits."""
        width, wide = self.slot_bits, self.checksum_bits
        count_half, checksum_half = 1 << (width - 1), 1 << (wide - 1)
        bias = count_half + (checksum_half << width)
        bias += self._values_bias << self._values_offset
        value_bits = self.values_per_plaintext * width
        n_bytes = -(-value_bits // 8)
        counts, checksums, fields = [], [], []
        for index, residue in enumerate(residues):
            m = int(residue) % self.modulus
            biased = (m - self.modulus if 2 * m > self.modulus else m) + bias
            values = biased >> self._values_offset
            if values < 0 or values.bit_length() > value_bits:
                raise SlotOverflowError(
                    f"Plaintext {index} is wider than its slots: a sum left the top "
                    "slot, or this is not a packed plaintext."
                )
            counts.append((biased & ((1 << width) - 1)) - count_half)
            checksums.append(((biased >> width) & ((1 << wide) - 1)) - checksum_half)
            fields.append(values.to_bytes(n_bytes, "little"))
        return counts, checksums, fields

    @staticmethod
    def _check_service_slots(
        counts: list[int],
        checksums: list[int],
        table: NDArray[np.int64],
        expected_count: int,
    ) -> None:
        sums = table.sum(axis=1).tolist()
        rows = zip(counts, checksums, sums, strict=True)
        for index, (count, checksum, total) in enumerate(rows):
            if count != expected_count:
                raise ChecksumError(
                    f"Plaintext {index} counts {count} additions, but {expected_count} "
                    "were announced."
                )
            if checksum != total:
                raise ChecksumError(
                    f"The values of plaintext {index} do not add up to its checksum; "
                    "a sum left its slot, or an upload was not packed honestly."
                )


def _ceil_log2(x: int) -> int:
    """Return ceil(log2 x) for x >= 1, and 0 for x = 0."""
    return max(x - 1, 0).bit_length()


def _join_fields(digits: NDArray[np.int64], width: int) -> list[bytes]:
    """Lay the low `width` bits of each digit end to end, one byte string per row."""
    rows, columns = digits.shape
    n_bytes = -(-width // 8)
    octets = digits.astype("<u8").view(np.uint8).reshape(rows, columns, 8)
    bits = np.unpackbits(octets[:, :, :n_bytes].reshape(-1), bitorder="little")
    bits = bits.reshape(rows, columns, 8 * n_bytes)[:, :, :width]
    packed = np.packbits(bits.reshape(rows, columns * width), axis=1, bitorder="little")
    return [row.tobytes() for row in packed]


def _split_fields(rows: list[bytes], width: int, columns: int) -> NDArray[np.int64]:
    """Undo `_join_fields`: shape (len(rows), columns), 0 <= digit < 2^width."""
    n_bytes = -(-width // 8)
    octets = np.frombuffer(b"".join(rows), dtype=np.uint8)
    octets = octets.reshape(len(rows), -(-columns * width // 8))
    bits = np.unpackbits(octets, axis=1, count=columns * width, bitorder="little")
    padded = np.zeros((len(rows), columns, 8 * n_bytes), dtype=np.uint8)
    padded[:, :, :width] = bits.reshape(len(rows), columns, width)
    digits = np.zeros((len(rows), columns, 8), dtype=np.uint8)
    digits[:, :, :n_bytes] = np.packbits(padded.reshape(-1), bitorder="little").reshape(
        len(rows), columns, n_bytes
    )
    return digits.view("<i8").reshape(len(rows), columns).astype(np.int64)
