"""Group elements and proofs as bytes, and what a non-interactive proof hashes.

**Proofs.** The verifier of a proof would choose weights and a challenge at random. A
`Transcript` hashes them instead, from the whole statement and from the prover's
commitments, so that they are as unpredictable to the prover, and everybody can repeat
them (A. Fiat, A. Shamir, "How to prove yourself", CRYPTO 1986). Whatever a proof is
about must be in the hash: a statement that is bound only in part can be chosen
afterwards to fit.

A proof is a list of group elements (commitments), then a list of integers (responses),
each fixed-width and big-endian, each integer below a bound that both sides know. So a
proof has exactly one encoding, and one that was altered anywhere is another proof.

**Elements.** An element of `Z*_{n^2}` travels as a fixed-width big-endian integer of
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

import hashlib
from collections.abc import Sequence
from typing import Final

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.errors import InvalidElementError, ProofError

__all__ = [
    "CHALLENGE_BITS",
    "WEIGHT_BITS",
    "Transcript",
    "decode_elements",
    "decode_proof",
    "encode_elements",
    "encode_proof",
    "proof_length",
]


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


# A cheater passes with probability about 2^-127; 256 bits would double the work.
CHALLENGE_BITS: Final = 128
WEIGHT_BITS: Final = 128
_SEED_BYTES: Final = 32


class Transcript:
    """Weights and challenge of one statement.

        seed = H(label, params.digest, statement...),  x_k = the k-th 128 bits of
        H("weights", seed, name),  ch = H("challenge", seed, commitments)

    where `H` is SHAKE-256 over its arguments, each after its length as 8 bytes.

    Args:
        label: Kind of proof; a proof of one kind never passes as another.
        params: Group; its digest binds `n`, `g`, lanes and exponent width.
        statement: Everything else that the proof is about, canonically encoded.
    """

    __slots__ = ("_params", "_seed")

    def __init__(self, label: bytes, params: Parameters, *statement: bytes) -> None:
        self._params = params
        self._seed = _squeeze(_SEED_BYTES, label, params.digest, *statement)

    def weights(self, name: bytes, count: int) -> list[mpz]:
        """Return `count` weights `0 <= x_k < 2^128`.

        Args:
            name: What is weighted; other names give independent weights.
            count: Number of weights. A longer list starts with the shorter one.
        """
        width = WEIGHT_BITS // 8
        octets = _squeeze(count * width, b"weights", self._seed, name)
        return [
            mpz.from_bytes(octets[start : start + width], "big")
            for start in range(0, len(octets), width)
        ]

    def challenge(self, commitments: Sequence[mpz]) -> mpz:
        """Return the challenge `0 <= ch < 2^128` that answers the commitments."""
        encoded = encode_elements(commitments, self._params)
        octets = _squeeze(CHALLENGE_BITS // 8, b"challenge", self._seed, encoded)
        return mpz.from_bytes(octets, "big")


def proof_length(n_elements: int, bounds: Sequence[mpz], params: Parameters) -> int:
    """Return the bytes of a proof of `n_elements` and one integer per bound."""
    return n_elements * params.element_bytes + sum(map(_width, bounds))


def encode_proof(
    elements: Sequence[mpz],
    integers: Sequence[mpz],
    bounds: Sequence[mpz],
    params: Parameters,
) -> bytes:
    """Return the bytes of a proof.

    Args:
        elements: Commitments, `0 < x < n^2`.
        integers: Responses, `0 <= x < bound`.
        bounds: Exclusive upper bound of each response; fixes its width.
        params: Fixes the width of an element.
    """
    return encode_elements(elements, params) + b"".join(
        integer.to_bytes(_width(bound), "big")
        for integer, bound in zip(integers, bounds, strict=True)
    )


def decode_proof(
    proof: bytes, n_elements: int, bounds: Sequence[mpz], params: Parameters
) -> tuple[list[mpz], list[mpz]]:
    """Return the commitments and the responses of a proof.

    Args:
        proof: Bytes from outside.
        n_elements: Number of commitments.
        bounds: Exclusive upper bound of each response.
        params: Fixes the width of an element.

    Raises:
        ProofError: Wrong length, a commitment is no unit modulo `n^2`, or a response
            reaches its bound.
    """
    expected = proof_length(n_elements, bounds, params)
    if len(proof) != expected:
        raise ProofError(
            f"a proof of {len(proof)} bytes, expected exactly {expected}; it is "
            "truncated, has trailing bytes, or was made for another shape or profile"
        )
    start = n_elements * params.element_bytes
    try:
        elements = decode_elements(
            proof[:start], n_elements, params, what="commitments of a proof"
        )
    except InvalidElementError as error:
        raise ProofError(str(error)) from error
    integers = []
    for index, bound in enumerate(bounds):
        stop = start + _width(bound)
        integer = mpz.from_bytes(proof[start:stop], "big")
        if integer >= bound:
            raise ProofError(
                f"response {index} of a proof reaches its bound, expected less; the "
                "sender is faulty or hostile, refuse the message"
            )
        integers.append(integer)
        start = stop
    return elements, integers


def _width(bound: mpz) -> int:
    """Return the bytes that hold every integer below `bound`."""
    return (int(bound - 1).bit_length() + 7) // 8


def _squeeze(length: int, *parts: bytes) -> bytes:
    """Return `length` octets of SHAKE-256 over the parts, each after its length."""
    sponge = hashlib.shake_256()
    for part in parts:
        sponge.update(len(part).to_bytes(8, "big") + part)
    return sponge.digest(length)
