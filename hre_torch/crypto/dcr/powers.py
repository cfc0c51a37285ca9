"""Powers of bases that change with every call, one by one and multiplied.

A block's head is raised to the `L` secret exponents of a server or a participant, once
per release: a table would cost more than it saves, but `powers_of_one_base` shares the
squarings between the exponents. The key transform server raises each element to one
exponent: `power_modulo_square` uses that the modulus is a square. For a base that
stays see `fixed_base`.

The order of multiplications depends on the exponents, as in any power that is not
made to run in constant time.

`product_of_powers` computes products of many powers, `prod_k b_k^x_k mod M`, for public
exponents.

A verifier raises every element of an upload to its own 128-bit weight and multiplies.
One power after another costs about 155 multiplications per element; sharing the work
between the elements costs about 27.

The method is that of Bos and Coster. Take the two largest exponents `x >= y` with
bases `b` and `c`, divide `x = q y + r`, and use

    b^x c^y = b^r (c b^q)^y

until one exponent is left. Uniform exponents lie close together, so `q` is nearly
always 1: one multiplication removes about `log2` of the number of bases in bits, there
are no tables, no windows to choose and no squarings. Counted for uniform exponents:

    bases  bits   Bos-Coster   buckets (Pippenger)   groups of bases (Straus)
       16   128          590                   980                        625
       55   128        1,470                 2,220                      1,780
      876   256       27,900                36,300                     45,400

The steps depend on the exponents alone. The lanes of an upload share their exponents,
so the steps are found once and replayed on each lane.

The order of multiplications shows the exponents to whoever can time them: never call
this with a secret exponent.

References:
    J. Bos, M. Coster, "Addition chain heuristics", CRYPTO 1989.
    P. de Rooij, "Efficient exponentiation using precomputation and vector addition
    chains", EUROCRYPT 1994, section 4 (the division step).
    N. Pippenger, "On the evaluation of powers and related problems", FOCS 1976.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import gmpy2
from gmpy2 import mpz, powmod

from hre_torch.errors import CryptoError, InvalidElementError

__all__ = [
    "power_modulo_square",
    "powers_of_one_base",
    "product_of_powers",
    "products_of_powers",
]

# More exponents in a group save products per bit and cost 2^(group + 1) afterwards;
# for 256-bit exponents 5 and 6 are best.
_LARGEST_GROUP: Final = 6
# With two exponents the buckets cost as much as they save.
_FEWEST_SHARED: Final = 3
_HEXADECIMAL: Final = "0123456789abcdef"


def power_modulo_square(base: mpz, exponent: mpz, n: mpz) -> mpz:
    """Return `base^exponent mod n^2`, a quarter faster than a general power.

    The two digits of `x = x_0 + x_1 n` are multiplied instead of `x`:

        x y = x_0 y_0 + (x_0 y_1 + x_1 y_0) n mod n^2,

    where `x_1 y_1` vanishes and both reductions are modulo `n`. The exponent is read
    in hexadecimal digits, highest first.

    Args:
        base: Integer, taken modulo `n^2`.
        exponent: Integer `e >= 0`.
        n: Modulus `n`, at least 2.

    Raises:
        CryptoError: The exponent is negative.
    """
    _check_not_negative([exponent])
    divmod_ = gmpy2.f_divmod
    base_high, base_low = divmod_(base % (n * n), n)
    lows, highs = [mpz(1)], [mpz(0)]
    for _ in range(15):
        quotient, low = divmod_(lows[-1] * base_low, n)
        highs.append((lows[-1] * base_high + highs[-1] * base_low + quotient) % n)
        lows.append(low)
    low, high = lows[0], highs[0]
    for digit in map(_HEXADECIMAL.index, f"{int(exponent):x}"):
        for _ in range(4):
            quotient, square = divmod_(low * low, n)
            high = (2 * low * high + quotient) % n
            low = square
        if digit:
            quotient, product = divmod_(low * lows[digit], n)
            high = (low * highs[digit] + high * lows[digit] + quotient) % n
            low = product
    return low + high * n


def powers_of_one_base(base: mpz, exponents: Sequence[mpz], n: mpz) -> list[mpz]:
    """Return `base^e mod n^2` for every `e` in `exponents`.

    The squares `base^(2^i)` are computed once, as residue and twist (see
    `fixed_base.FixedBaseTable`), so that multiplying by one costs half. Exponents are
    taken in groups of up to six: each square goes into the bucket of exactly those
    exponents of the group that have bit `i`, and products of buckets give the powers.
    Sixteen 256-bit powers cost 1,250 multiplications, most of them halved, where
    sixteen separate ones cost 4,900.

    Args:
        base: Integer coprime to `n`, taken modulo `n^2`.
        exponents: Integers `e >= 0`; one or two are raised one by one.
        n: Modulus `n`, at least 2.

    Raises:
        CryptoError: An exponent is negative.
        InvalidElementError: `base` shares a factor with `n`.

    References:
        N. Pippenger, "On the evaluation of powers and related problems", FOCS 1976.
    """
    _check_not_negative(exponents)
    if gmpy2.gcd(base, n) != 1:
        raise InvalidElementError(
            "a base to be raised shares a factor with the modulus; decode elements "
            "with decode_elements before using them"
        )
    count = len(exponents)
    if count < _FEWEST_SHARED:
        return [gmpy2.powmod(base, exponent, n * n) for exponent in exponents]
    bits = max(1, *(exponent.bit_length() for exponent in exponents))
    squares = _squares(base, bits, n)
    groups = -(-count // _LARGEST_GROUP)
    edges = [count * group // groups for group in range(groups + 1)]
    return [
        power
        for start, end in pairwise(edges)
        for power in _powers_of_group(squares, exponents[start:end], n)
    ]


def _squares(base: mpz, count: int, n: mpz) -> list[tuple[mpz, mpz]]:
    """Return `base^(2^i)` as residue `t` and twist `u`, `x = t (1 + u n)`.

    With `t^2 = q n + r`, the square of `(t, u)` is `(r, 2u + q/r)`, and `1/r` is the
    square of `1/t`.
    """
    divmod_ = gmpy2.f_divmod
    high, residue = divmod_(base, n)
    inverse = gmpy2.invert(residue, n)
    twist = high * inverse % n
    squares = []
    for _ in range(count):
        squares.append((residue, twist))
        quotient, residue = divmod_(residue * residue, n)
        inverse = inverse * inverse % n
        twist = (2 * twist + quotient * inverse) % n
    return squares


def _powers_of_group(
    squares: Sequence[tuple[mpz, mpz]], exponents: Sequence[mpz], n: mpz
) -> list[mpz]:
    """Return the powers of one group from the squares of the base, lowest first.

    Bucket `k` collects the squares wanted by exactly those exponents whose bit is set
    in `k`, the first exponent being the highest bit. The upper half of the buckets then
    multiplies to the first power and, folded onto the lower half, leaves the same
    problem with one exponent fewer. Twists are added on the way and applied at the end.
    """
    n_squared = n * n
    products = [mpz(1)] * (1 << len(exponents))
    twists = [mpz(0)] * len(products)
    rows = [f"{int(exponent):0{len(squares)}b}"[::-1] for exponent in exponents]
    for (residue, twist), column in zip(squares, zip(*rows, strict=True), strict=True):
        wanted_by = int("".join(column), 2)
        if wanted_by:
            products[wanted_by] = products[wanted_by] * residue % n_squared
            twists[wanted_by] += twist
    powers = []
    while len(products) > 1:
        half = len(products) // 2
        power = mpz(1)
        for product in products[half:]:
            power = power * product % n_squared
        twist = sum(twists[half:], mpz(0))
        powers.append((power + power * twist % n * n) % n_squared)
        products = [x * y % n_squared for x, y in _folded(products)]
        twists = [x + y for x, y in _folded(twists)]
    return powers


def _folded(items: Sequence[mpz]) -> Iterable[tuple[mpz, mpz]]:
    """Pair the items of the lower half with those of the upper half."""
    half = len(items) // 2
    return zip(items[:half], items[half:], strict=True)


def _check_not_negative(exponents: Sequence[mpz]) -> None:
    """Raise if an exponent is negative; the message does not say which."""
    if any(exponent < 0 for exponent in exponents):
        raise CryptoError("an exponent is negative; invert the base instead")


class _Step(NamedTuple):
    """One step of a chain: `base[target] *= base[source] ^ quotient`."""

    source: int
    target: int
    quotient: int


def product_of_powers(
    bases: Sequence[mpz], exponents: Sequence[mpz], modulus: mpz
) -> mpz:
    """Return `prod_k bases[k]^exponents[k] mod modulus`.

    Args:
        bases: `K` integers, any residues.
        exponents: `K` public integers, each at least 0.
        modulus: At least 2.

    Returns:
        A residue `0 <= x < modulus`; 1 when there is no base.

    Raises:
        CryptoError: The lengths differ or an exponent is negative.
    """
    if not bases and not exponents:
        return mpz(1)
    return products_of_powers([(base,) for base in bases], exponents, modulus)[0]


def products_of_powers(
    rows: Sequence[Sequence[mpz]], exponents: Sequence[mpz], modulus: mpz
) -> list[mpz]:
    """Return `prod_k rows[k][j]^exponents[k] mod modulus` for every column `j`.

    Args:
        rows: `K >= 1` rows of equally many bases; a base that is absent is given as 1.
        exponents: `K` public integers, each at least 0: one for a whole row.
        modulus: At least 2.

    Returns:
        One residue for each column.

    Raises:
        CryptoError: There is no row, the rows or the lengths differ, or an exponent is
            negative.
    """
    if len(rows) != len(exponents) or len({len(row) for row in rows}) != 1:
        raise CryptoError(
            f"a product of powers of {len(rows)} rows by {len(exponents)} exponents; "
            "expected as many exponents as rows, at least one, and rows of one length"
        )
    if any(exponent < 0 for exponent in exponents):
        raise CryptoError(
            "a product of powers with a negative exponent; invert the base instead"
        )
    steps, survivor, exponent = _chain([int(exponent) for exponent in exponents])
    results = []
    # Column by column, because the bases of one column fit the processor's cache.
    for column in map(list, zip(*rows, strict=True)):
        for source, target, quotient in steps:
            base = column[source]
            if quotient != 1:
                base = powmod(base, quotient, modulus)
            column[target] = column[target] * base % modulus
        results.append(powmod(column[survivor], exponent, modulus))
    return results


def _chain(exponents: Sequence[int]) -> tuple[list[_Step], int, int]:
    """Return the steps that leave one base, its index, and its exponent.

    Every step divides the largest exponent by the next one, as Euclid does, so the
    steps end and the exponent left over is the greatest common divisor of all.
    """
    steps = []
    # heapq keeps the smallest item first, hence the signs.
    heap = [(-exponent, index) for index, exponent in enumerate(exponents)]
    heapq.heapify(heap)
    largest, source = heapq.heappop(heap)
    while heap and heap[0][0] != 0:
        divisor, target = heap[0]
        quotient, remainder = divmod(-largest, -divisor)
        steps.append(_Step(source, target, quotient))
        largest, source = heapq.heapreplace(heap, (-remainder, source))
    return steps, source, -largest
