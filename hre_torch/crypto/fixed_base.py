"""Tables for bases that are raised to ever new exponents modulo `n^2`.

`g` and the joint keys are raised to a fresh exponent for every block of every upload:
`shared_table` keeps one large table per base for the whole process. A recipient's keys
are raised whenever that recipient pulls: `recipient_table` keeps small tables for the
recipients seen last. For a base that changes see `variable_base`.

Tables are read at positions that depend on the exponent, so whoever shares the
processor's caches may learn something about it. They are meant for exponents that are
used once; that the semi-honest suite `paper` uses them for key generation as well is
part of its stated limits.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.modulus import Parameters
from hre_torch.errors import CryptoError, InvalidElementError

__all__ = [
    "JOINT_WINDOW",
    "RECIPIENT_WINDOW",
    "SERVER_WINDOW",
    "FixedBaseTable",
    "recipient_table",
    "recipient_tables",
    "shared_table",
    "table_bytes",
]

# Window sizes trade memory and building time against multiplications per power, at
# 3072 bits and 256-bit exponents: 7.2 MB and 32 (8), 4.1 MB and 37 (7), 2.4 MB and 43
# (6). Every participant uses the joint keys at every push, a server its own public
# keys at every pull, a recipient's keys are used by its own pulls only.
JOINT_WINDOW: Final = 8
SERVER_WINDOW: Final = 7
RECIPIENT_WINDOW: Final = 6

# Bounds on the memory of all tables of a kind; the tables used last are kept.
_SHARED_BYTES: Final = 1 << 30
_RECIPIENT_BYTES: Final = 1 << 28
_ONE_USE_WINDOW: Final = 1
"""Filling such a table costs little more than the squarings of a power."""
_LATELY: Final = 1000
"""Requests after which a recipient that has not come again makes room for another."""

# A table entry is two integers: an object header each (32 bytes), the allocator's
# own (16) and a list slot (8), besides the limbs.
_ENTRY_OVERHEAD: Final = 2 * (32 + 16 + 8)


class FixedBaseTable:
    """The powers `base^(d 2^(w i)) mod n^2` of one base, for every digit `d < 2^w`.

    A power is the product of one entry per digit of its exponent (Brickell, Gordon,
    McCurley, Wilson, Eurocrypt 1992). Each entry `x` is kept as a pair, its *residue*
    `t` and its *twist* `u`:

        x = t (1 + u n) mod n^2,    0 <= t, u < n.

    Because `(1 + u n)(1 + v n) = 1 + (u + v) n mod n^2`, twists are added, and a
    running product is multiplied by `t` alone, which is half as long as `x`: this takes
    about half the time of a full multiplication. A plaintext `m` joins the sum of
    twists, so encrypting it is free.

    Args:
        base: Element of `Z*_{n^2}`.
        n: Modulus `n`; powers are taken modulo `n^2`.
        exponent_bits: Exponents obey `0 <= e < 2^exponent_bits`.
        window: Digit width `w` in bits, at least 1.

    Raises:
        InvalidElementError: `base` is out of range or not invertible.
        CryptoError: `exponent_bits` or `window` is below 1.
    """

    __slots__ = (
        "_n",
        "_n_squared",
        "_residues",
        "_twists",
        "base",
        "exponent_bits",
        "window",
    )

    def __init__(self, base: mpz, n: mpz, exponent_bits: int, window: int) -> None:
        if exponent_bits < 1 or window < 1:
            raise CryptoError(
                f"a table for {exponent_bits}-bit exponents with window {window}; "
                "both must be 1 or more"
            )
        if not 0 < base < n * n or gmpy2.gcd(base, n) != 1:
            raise InvalidElementError(
                "the base of a table is outside 0 < x < n^2 or shares a factor with "
                "the modulus; decode elements with decode_elements before using them"
            )
        self.base = base
        self.exponent_bits = exponent_bits
        self.window = window
        self._n = n
        self._n_squared = n * n
        self._residues: list[mpz] = []
        self._twists: list[mpz] = []
        self._fill()

    def __repr__(self) -> str:
        return (
            f"FixedBaseTable(exponent_bits={self.exponent_bits}, window={self.window}, "
            f"memory_bytes={self.memory_bytes})"
        )

    def _fill(self) -> None:
        """Compute the rows, lowest digit first, one multiplication per entry.

        With `t s = q n + r`, the product of two pairs `(t, u)` and `(s, v)` is
        `(r, u + v + q/r)`. The inverse of `r` comes from a third running product, which
        costs less than an inversion.
        """
        n, divmod_ = self._n, gmpy2.f_divmod
        step_twist, step = divmod_(self.base, n)
        step_inverse = gmpy2.invert(step, n)
        step_twist = step_twist * step_inverse % n
        for low_bit in range(0, self.exponent_bits, self.window):
            residue, twist, inverse = mpz(1), mpz(0), mpz(1)
            for _ in range(1 << min(self.window, self.exponent_bits - low_bit)):
                self._residues.append(residue)
                self._twists.append(twist)
                quotient, residue = divmod_(residue * step, n)
                inverse = inverse * step_inverse % n
                twist = (twist + step_twist + quotient * inverse) % n
            # The row ends one past its last digit: at the base of the next row.
            step, step_twist, step_inverse = residue, twist, inverse

    @property
    def memory_bytes(self) -> int:
        """Estimated memory of the table in bytes."""
        return _memory_bytes(self._n, self.exponent_bits, self.window)

    def positions(self, exponent: int | mpz) -> list[int]:
        """Return where the entries lie whose product is `base^exponent`.

        They hold for every table of the same `exponent_bits` and `window`, so lanes
        that share an exponent share its positions. As secret as the exponent.

        Args:
            exponent: `0 <= e < 2^exponent_bits`.

        Raises:
            CryptoError: The exponent is out of range.
        """
        if not 0 <= exponent < 1 << self.exponent_bits:
            raise CryptoError(
                f"an exponent lies outside 0 <= e < 2^{self.exponent_bits}, which is "
                "what this table was built for; build a wider one"
            )
        rest, window = int(exponent), self.window
        mask = (1 << window) - 1
        found = []
        for row_start in range(
            0, -(-self.exponent_bits // window) << window, 1 << window
        ):
            found.append(row_start + (rest & mask))
            rest >>= window
        return found

    def multiply(
        self, factor: mpz, positions: Sequence[int], plaintext: int | mpz = 0
    ) -> mpz:
        """Return `factor (1 + plaintext n) base^e mod n^2`.

        Args:
            factor: Integer, taken modulo `n^2`.
            positions: `positions(e)` of this table or of one of the same shape.
            plaintext: Integer, taken modulo `n`.
        """
        n, n_squared = self._n, self._n_squared
        product = factor
        for residue in map(self._residues.__getitem__, positions):
            product = product * residue % n_squared
        twist = sum(map(self._twists.__getitem__, positions), mpz(plaintext))
        return (product + product * twist % n * n) % n_squared

    def power(self, exponent: int | mpz) -> mpz:
        """Return `base^exponent mod n^2`.

        Args:
            exponent: `0 <= e < 2^exponent_bits`.

        Raises:
            CryptoError: The exponent is out of range.
        """
        return self.multiply(mpz(1), self.positions(exponent))


class _TableCache:
    """The tables used last, as many as fit in a number of bytes; thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._tables: OrderedDict[tuple[mpz, mpz, int, int], FixedBaseTable] = (
            OrderedDict()
        )
        self._requests = 0
        self._used: dict[tuple[mpz, mpz, int, int], int] = {}
        self.renew_lock()

    def tables(
        self, bases: Sequence[mpz], params: Parameters, window: int
    ) -> list[FixedBaseTable]:
        """Return a table for each base, all of one window; see `recipient_tables`."""
        keys = [(base, params.n, params.exponent_bits, window) for base in bases]
        size = _memory_bytes(params.n, params.exponent_bits, window)
        with self._lock:
            self._requests += 1
            missing = [key for key in keys if key not in self._tables]
            if not self._make_room(len(missing) * size):
                window = _ONE_USE_WINDOW
                return [
                    FixedBaseTable(base, params.n, params.exponent_bits, window)
                    for base in bases
                ]
            self._used |= dict.fromkeys(keys, self._requests)
        return [self.table(base, params, window) for base in bases]

    def _make_room(self, size: int) -> bool:
        """Drop tables that nobody has asked for of late; return whether `size` fits."""
        while self._tables and self._bytes + size > self._most_bytes:
            oldest = next(iter(self._tables))
            if self._used.get(oldest, 0) + _LATELY > self._requests:
                return False
            self._bytes -= self._tables.pop(oldest).memory_bytes
            self._used.pop(oldest, None)
        return True

    def renew_lock(self) -> None:
        """Replace the lock: in a forked child, its holder may not exist."""
        self._lock = threading.Lock()

    def table(self, base: mpz, params: Parameters, window: int) -> FixedBaseTable:
        """Return the table of `base`, building it if it is not kept."""
        key = (base, params.n, params.exponent_bits, window)
        with self._lock:
            table = self._tables.get(key)
            if table is not None:
                self._tables.move_to_end(key)
                return table
            # Built under the lock: two threads that want one table build it once.
            table = FixedBaseTable(base, params.n, params.exponent_bits, window)
            self._tables[key] = table
            self._bytes += table.memory_bytes
            while self._bytes > self._most_bytes and len(self._tables) > 1:
                key, oldest = self._tables.popitem(last=False)
                self._used.pop(key, None)
                self._bytes -= oldest.memory_bytes
            return table


_shared: Final = _TableCache(_SHARED_BYTES)
_recipients: Final = _TableCache(_RECIPIENT_BYTES)
os.register_at_fork(after_in_child=_shared.renew_lock)
os.register_at_fork(after_in_child=_recipients.renew_lock)


def shared_table(
    base: mpz, params: Parameters, window: int = JOINT_WINDOW
) -> FixedBaseTable:
    """Return the process-wide table of `g`, a joint key or a server's public key.

    Built at the first call. A process that forks workers builds its tables before, so
    that the workers share their memory.

    Args:
        base: Checked group element.
        params: Fixes the group and the exponents' width.
        window: Digit width in bits.
    """
    return _shared.table(base, params, window)


def recipient_table(
    base: mpz, params: Parameters, window: int = RECIPIENT_WINDOW
) -> FixedBaseTable:
    """Return the table of a recipient's public key; the ones used last are kept.

    Args:
        base: Checked group element.
        params: Fixes the group and the exponents' width.
        window: Digit width in bits.
    """
    return _recipients.table(base, params, window)


def recipient_tables(
    bases: Sequence[mpz], params: Parameters, window: int = RECIPIENT_WINDOW
) -> list[FixedBaseTable]:
    """Return tables of one recipient's public keys, all of one window.

    A crowd whose tables do not fit would push each other's out before they are used a
    second time, and filling a wide table costs ten times what it saves once. So who
    comes when there is no room gets narrow tables, for this one use; room is made by
    those that have not come for long.

    Args:
        bases: Checked group elements.
        params: Fixes the group and the exponents' width.
        window: Digit width in bits of tables that are kept.
    """
    return _recipients.tables(bases, params, window)


def table_bytes(params: Parameters, window: int) -> int:
    """Return the estimated memory in bytes of one table.

    Args:
        params: Fixes the modulus and the exponents' width.
        window: Digit width in bits.
    """
    return _memory_bytes(params.n, params.exponent_bits, window)


def _memory_bytes(n: mpz, exponent_bits: int, window: int) -> int:
    """Return the estimated bytes of a table: two residues modulo `n` per entry."""
    full_rows, last_bits = divmod(exponent_bits, window)
    entries = (full_rows << window) + ((1 << last_bits) if last_bits else 0)
    limb_bytes = 8 * -(-int(n.bit_length()) // 64)
    return entries * (2 * limb_bytes + _ENTRY_OVERHEAD)
