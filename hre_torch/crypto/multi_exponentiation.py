"""Products of many powers, `prod_k b_k^x_k mod M`, for public exponents.

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
from collections.abc import Sequence
from typing import NamedTuple

from gmpy2 import mpz, powmod

from hre_torch.errors import CryptoError

__all__ = ["product_of_powers", "products_of_powers"]


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
