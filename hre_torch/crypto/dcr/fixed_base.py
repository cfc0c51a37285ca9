"""Tables for bases that are raised to ever new exponents modulo `n^2`.

`g` and the joint keys are raised to a fresh exponent for every block of every upload:
`shared_table` keeps one large table per base for the whole process. A recipient's keys
are raised whenever that recipient pulls: `multiply_powers` keeps small tables for the
recipients that come again. For a base that changes see `variable_base`.

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
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.errors import CryptoError, InvalidElementError

__all__ = [
    "JOINT_WINDOW",
    "RECIPIENT_BYTES",
    "RECIPIENT_WINDOW",
    "SERVER_WINDOW",
    "FixedBaseTable",
    "limit_recipient_tables",
    "multiply_powers",
    "recipient_bytes",
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

RECIPIENT_BYTES: Final = 1 << 30
"""Memory that the tables of all recipients together may take, unless a server is told
otherwise: those of about 40 recipients at 2048 or 3072 bits."""

_SHARED_BYTES: Final = 1 << 30
"""Memory of all other tables; those used last are kept."""

_TABLES_AT_ONCE: Final = 2
"""Tables built in one use, from a recipient's second on. A table costs what ten powers
without it cost: none is built for who comes once, and nobody waits for all of them."""
_LATELY: Final = 1000
"""Visits of others after which a recipient makes room for another."""

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
        self.renew_lock()

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
                _, oldest = self._tables.popitem(last=False)
                self._bytes -= oldest.memory_bytes
            return table


@dataclass(slots=True)
class _Recipient:
    """What is kept of a recipient, in the order in which recipients last came.

    Attributes:
        uses: how often its powers were asked for.
        last_visit: number of its last visit among those of all recipients.
        tables: of its first lanes; none when it has come once.
        building: whether some thread is at them.
    """

    uses: int = 0
    last_visit: int = 0
    tables: tuple[FixedBaseTable, ...] = ()
    building: bool = False


class _RecipientTables:
    """The tables of recipients that come again, within one budget; thread-safe.

    A recipient whose tables do not fit takes nobody's place who came of late: a crowd
    would push each other's tables out before they are used a second time.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._visits = 0
        self._latest: tuple[mpz, mpz, int] | None = None
        self._known: OrderedDict[tuple[mpz, mpz, int], _Recipient] = OrderedDict()
        self.renew_lock()

    def renew_lock(self) -> None:
        """Replace the lock: in a forked child, its holder may not exist."""
        self._lock = threading.Lock()
        for recipient in self._known.values():
            recipient.building = False
        self._bytes = sum(map(_bytes_of, self._known.values()))

    def tables(
        self, bases: Sequence[mpz], params: Parameters
    ) -> tuple[FixedBaseTable, ...]:
        """Return tables of the first bases, as many as there are by now."""
        size = _memory_bytes(params.n, params.exponent_bits, RECIPIENT_WINDOW)
        with self._lock:
            recipient = self._visited((bases[0], params.n, params.exponent_bits))
            kept = recipient.tables[: len(bases)]
            if [table.base for table in kept] != list(bases[: len(kept)]):
                # Somebody else's first key: the tables stay with who came first.
                return ()
            missing = bases[len(kept) :][:_TABLES_AT_ONCE]
            if not missing or recipient.building or recipient.uses == 1:
                return kept
            if not self._make_room(len(missing) * size, recipient):
                return kept
            recipient.building = True
            self._bytes += len(missing) * size
        tables = kept
        try:
            # Without the lock: other recipients need not wait for this.
            for base in missing:
                table = FixedBaseTable(
                    base, params.n, params.exponent_bits, RECIPIENT_WINDOW
                )
                tables = (*tables, table)
        finally:
            with self._lock:
                recipient.tables, recipient.building = tables, False
                self._bytes -= (len(kept) + len(missing) - len(tables)) * size
        return tables

    def _visited(self, key: tuple[mpz, mpz, int]) -> _Recipient:
        """Note that a recipient came; blocks in a row are one visit."""
        recipient = self._known.setdefault(key, _Recipient())
        self._known.move_to_end(key)
        self._visits += key != self._latest
        self._latest = key
        recipient.uses += 1
        recipient.last_visit = self._visits
        return recipient

    def _make_room(self, size: int, keep: _Recipient) -> bool:
        """Drop tables that nobody has asked for of late; return whether `size` fits."""
        for recipient in self._known.values():
            if self._bytes + size <= self.most_bytes:
                break
            if recipient.last_visit + _LATELY > self._visits:
                break
            if recipient is not keep and not recipient.building:
                self._bytes -= _bytes_of(recipient)
                recipient.tables, recipient.uses = (), 0
        return self._bytes + size <= self.most_bytes


def _bytes_of(recipient: _Recipient) -> int:
    return sum(table.memory_bytes for table in recipient.tables)


_shared: Final = _TableCache(_SHARED_BYTES)
_recipients: Final = _RecipientTables(RECIPIENT_BYTES)
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


def multiply_powers(
    factors: Sequence[mpz], bases: Sequence[mpz], exponent: mpz, params: Parameters
) -> tuple[mpz, ...]:
    """Return `factor_j base_j^exponent mod n^2` for the keys of one recipient.

    Tables of a recipient that comes again are built bit by bit and kept, as long as
    they fit in the memory for them; see `limit_recipient_tables`.

    Args:
        factors: Integers, shape (l,).
        bases: The recipient's keys, checked group elements, shape (l,).
        exponent: `0 <= e < 2^exponent_bits`, used once.
        params: Fixes the group and the exponents' width.

    Raises:
        CryptoError: The exponent is out of range.
    """
    if not 0 <= exponent < 1 << params.exponent_bits:
        raise CryptoError(
            f"an exponent lies outside 0 <= e < 2^{params.exponent_bits}; draw it for "
            "these parameters"
        )
    n_squared = params.n_squared
    tables = _recipients.tables(bases, params)
    positions = tables[0].positions(exponent) if tables else []
    powers = []
    for factor, base, table in zip_longest(factors, bases, tables):
        if table is None:
            power = gmpy2.powmod(base, exponent, n_squared)
            powers.append(factor * power % n_squared)
        else:
            powers.append(table.multiply(factor, positions))
    return tuple(powers)


def limit_recipient_tables(most_bytes: int) -> None:
    """Set how much memory the tables of all recipients may take in this process.

    Worker processes take over the number, each for tables of its own. Tables that are
    there already stay until others need their room.

    Args:
        most_bytes: At least 0; with 0 no tables are built.

    Raises:
        CryptoError: The number is below 0.
    """
    if most_bytes < 0:
        raise CryptoError(
            f"{most_bytes} bytes for the tables of recipients; use 0 or more"
        )
    _recipients.most_bytes = most_bytes


def table_bytes(params: Parameters, window: int) -> int:
    """Return the estimated memory in bytes of one table.

    Args:
        params: Fixes the modulus and the exponents' width.
        window: Digit width in bits.
    """
    return _memory_bytes(params.n, params.exponent_bits, window)


def recipient_bytes(params: Parameters, lanes: int, recipients: int) -> int:
    """Return the estimated memory in bytes of the tables of some recipients.

    Those that do not fit in `RECIPIENT_BYTES` have none.

    Args:
        params: Fixes the modulus and the exponents' width.
        lanes: Lanes that an update uses, at least 1.
        recipients: How many come again and again.
    """
    each = table_bytes(params, RECIPIENT_WINDOW) * lanes
    return each * min(recipients, RECIPIENT_BYTES // each)


def _memory_bytes(n: mpz, exponent_bits: int, window: int) -> int:
    """Return the estimated bytes of a table: two residues modulo `n` per entry."""
    full_rows, last_bits = divmod(exponent_bits, window)
    entries = (full_rows << window) + ((1 << last_bits) if last_bits else 0)
    limb_bytes = 8 * -(-int(n.bit_length()) // 64)
    return entries * (2 * limb_bytes + _ENTRY_OVERHEAD)
