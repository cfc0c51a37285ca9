"""What a non-interactive proof hashes, and the bytes it travels as.

The verifier of a proof would choose weights and a challenge at random. A `Transcript`
hashes them instead, from the whole statement and from the prover's commitments, so that
they are as unpredictable to the prover, and everybody can repeat them (A. Fiat,
A. Shamir, "How to prove yourself", CRYPTO 1986). Whatever a proof is about must be in
the hash: a statement that is bound only in part can be chosen afterwards to fit.

A proof is a list of group elements (commitments), then a list of integers (responses),
each fixed-width and big-endian, each integer below a bound that both sides know. So a
proof has exactly one encoding, and one that was altered anywhere is another proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from gmpy2 import mpz

from hre_torch.crypto.elements import decode_elements, encode_elements
from hre_torch.crypto.modulus import Parameters
from hre_torch.errors import InvalidElementError, ProofError

__all__ = [
    "CHALLENGE_BITS",
    "WEIGHT_BITS",
    "Transcript",
    "decode_proof",
    "encode_proof",
    "proof_length",
]

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
