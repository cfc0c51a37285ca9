"""Group elements as bytes, and the checks that every element from outside passes.

An element of `Z*_{n^2}` travels as a fixed-width big-endian integer of
`Parameters.element_bytes` bytes. Decoding is the only door through which a foreign
number enters, so it checks what can be checked without the factors of `n`:

* the length is exact, nothing is missing and nothing trails;
* `0 < x < n^2`, so each element has exactly one encoding;
* `x` is invertible: one gcd for the whole batch, of the product modulo `n`;
* where the protocol says so, `x` is neither `1` nor `n^2 - 1`.

Whether `x` is an n-th residue cannot be tested: that is the decisional composite
residuosity problem on which the encryption rests. Nor does a Jacobi symbol help: for
safe primes `-1` has symbol `+1`.
"""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.modulus import Parameters
from hre_torch.errors import InvalidElementError

__all__ = ["decode_elements", "encode_elements"]


def encode_elements(elements: Sequence[mpz], params: Parameters) -> bytes:
    """Return the elements one after another, each fixed-width and big-endian.

    Args:
        elements: Integers `0 < x < n^2`.
        params: Fixes the width, `element_bytes` per element.

    Raises:
        InvalidElementError: An element is out of range; an honest computation modulo
            `n^2` never makes one.
    """
    width = params.element_bytes
    for index, element in enumerate(elements):
        if not 0 < element < params.n_squared:
            raise InvalidElementError(
                f"element {index} of {len(elements)} is outside 0 < x < n^2 and has no "
                "encoding; reduce it modulo n^2 first"
            )
    return b"".join(element.to_bytes(width, "big") for element in elements)


def decode_elements(
    data: bytes,
    count: int,
    params: Parameters,
    *,
    what: str,
    nontrivial: bool = False,
) -> list[mpz]:
    """Return `count` checked group elements.

    Args:
        data: Exactly `count * element_bytes` bytes.
        count: Number of elements, which the caller has bounded by the task.
        params: Fixes the width and the group.
        what: What the elements are, for messages: "upload heads".
        nontrivial: Also refuse `1` and `n^2 - 1`. For `T'`, `V` and public keys, whose
            powers would tell a listener an exponent's parity or nothing at all.

    Returns:
        The elements, each with `0 < x < n^2` and `gcd(x, n) = 1`.

    Raises:
        InvalidElementError: Names `what`, which element and why, never its value.
    """
    width = params.element_bytes
    if len(data) != count * width:
        raise InvalidElementError(
            f"{what}: {len(data)} bytes, expected {count * width} for {count} elements "
            f"of {width} bytes; the message is truncated, has trailing bytes, or was "
            "made with another profile"
        )
    elements = [
        mpz.from_bytes(data[start : start + width], "big")
        for start in range(0, len(data), width)
    ]
    _check_range(elements, params, what=what, nontrivial=nontrivial)
    _check_invertible(elements, params, what=what)
    return elements


def _check_range(
    elements: Sequence[mpz], params: Parameters, *, what: str, nontrivial: bool
) -> None:
    """Raise unless `0 < x < n^2`, and `x` is not `1` or `n^2 - 1` if so asked."""
    minus_one = params.n_squared - 1
    for index, element in enumerate(elements):
        if element == 0:
            flaw = "is zero"
        elif element > minus_one:
            flaw = "is n^2 or more"
        elif nontrivial and (element == 1 or element == minus_one):
            flaw = "is 1 or n^2 - 1"
        else:
            continue
        raise InvalidElementError(
            f"{what}: element {index} of {len(elements)} {flaw}; "
            "the sender is faulty or hostile, refuse the message"
        )


def _check_invertible(
    elements: Sequence[mpz], params: Parameters, *, what: str
) -> None:
    """Raise unless every element is coprime to `n`.

    `gcd(prod x mod n, n) = 1` holds exactly if each factor is coprime to `n`. Products
    modulo `n` are far cheaper than one gcd per element.
    """
    product = mpz(1)
    for element in elements:
        product = product * (element % params.n) % params.n
    if gmpy2.gcd(product, params.n) == 1:
        return
    index = next(i for i, x in enumerate(elements) if gmpy2.gcd(x, params.n) != 1)
    raise InvalidElementError(
        f"{what}: element {index} of {len(elements)} shares a factor with the modulus; "
        "the sender is faulty or hostile, refuse the message"
    )
