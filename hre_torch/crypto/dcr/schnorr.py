"""Schnorr proofs in a group of hidden order: "I know the exponents of these powers".

A key card proves that its owner knows every `a_j` behind `h_j = g^a_j`. Without it a
server could wait for the other's `h_b`, publish `g^x / h_b`, and know the joint key.
One proof serves all lanes, with 128-bit weights `x_j` hashed from the statement:

    prover    C = g^w,  w secret and fresh
              ch = 128-bit hash of the statement and C
              z = w + ch sum_j x_j a_j       over the integers
    verifier  g^z = C (prod_j h_j^x_j)^ch    both sides squared

* Nobody knows the order of `g`, hence integers. `w` is 128 bits longer than what it
  masks, so `z` hides the secrets up to a distance of `2^-128`. A `w` used twice reveals
  them; it is drawn anew for every proof.
* Weights keep two false powers from cancelling each other.
* Both sides are squared, so `-h` passes for `h`. Other elements of order two would
  reveal the factors of `n`, and secret exponents are even, so a sign changes nothing.

That a batched response shows knowledge of *every* exponent in a group of hidden order
is argued, not proved here.

References:
    C. P. Schnorr, "Efficient signature generation by smart cards", Journal of
    Cryptology 4, 1991.
    M. Bellare, J. Garay, T. Rabin, "Fast batch verification for modular exponentiation
    and digital signatures", EUROCRYPT 1998 (small weights).
    M. Girault, G. Poupard, J. Stern, "On the fly authentication and signature schemes
    based on groups of unknown order", Journal of Cryptology 19, 2006 (responses over
    the integers).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gmpy2 import mpz, powmod

from hre_torch.crypto.dcr.fixed_base import FixedBaseTable
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.powers import product_of_powers
from hre_torch.crypto.dcr.transcript import (
    CHALLENGE_BITS,
    WEIGHT_BITS,
    Transcript,
    decode_proof,
    encode_elements,
    encode_proof,
    proof_length,
)
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import ProofError

__all__ = [
    "check_exponents",
    "check_powers",
    "check_squares",
    "generator_power",
    "inner_product",
    "knowledge_bytes",
    "mask_bits",
    "prove_knowledge",
    "response_bound",
    "verify_knowledge",
]

_LABEL: Final = b"hre_torch proof of knowledge 1"
# Surplus length of a mask over what it hides: the statistical distance is 2^-128.
_HIDING_BITS: Final = 128
# 2^24 heads at 3072 bits are 12 GB; the bound fixes the width of the table of `g`.
_MOST_POWERS: Final = 1 << 24
# At 3072 bits 6 MB and 110 half-length products per power, 0.6 ms in place of 6; to
# build the table takes as long as 12 powers without it.
_TABLE_WINDOW: Final = 6
_POWERS_BEFORE_TABLE: Final = 12


def prove_knowledge(
    secrets: Sequence[mpz],
    public: Sequence[mpz],
    params: Parameters,
    context: bytes,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> bytes:
    """Return a proof that the sender knows every exponent behind `public`.

    Args:
        secrets: `a_j`, each `0 <= a_j < 2^exponent_bits`.
        public: `g^a_j mod n^2`, as many; lane `j` is the `j`-th.
        params: Group and exponent width.
        context: Whose card this is: profile, identity and role, canonically encoded.
            The group, the public powers and their order are bound besides.
        entropy: Source of the mask.

    Returns:
        `C`, then `z`: `knowledge_bytes(len(public), params)` bytes.

    Raises:
        ProofError: The lengths differ, there is no secret, or one is out of range.
    """
    count = len(public)
    bound = response_bound(count, params)
    check_exponents(secrets, count, params)
    transcript = Transcript(_LABEL, params, context, encode_elements(public, params))
    weights = transcript.weights(b"lanes", count)
    mask = entropy.bits(mask_bits(count, params))
    commitment = generator_power(mask, params)
    challenge = transcript.challenge([commitment])
    response = mask + challenge * inner_product(weights, secrets)
    return encode_proof([commitment], [response], [bound], params)


def verify_knowledge(
    public: Sequence[mpz], proof: bytes, params: Parameters, context: bytes
) -> None:
    """Raise unless `proof` shows knowledge of every exponent behind `public`.

    Args:
        public: Elements `h_j` in the order of their lanes, decoded as nontrivial.
        proof: From `prove_knowledge` over the same group and context.
        params: Group and exponent width.
        context: Whose card this is, as the verifier sees it.

    Raises:
        ProofError: The proof is malformed, made for other keys or another context, or
            does not hold.
    """
    count = len(public)
    bound = response_bound(count, params)
    [commitment], [response] = decode_proof(proof, 1, [bound], params)
    transcript = Transcript(_LABEL, params, context, encode_elements(public, params))
    check_powers(
        public,
        transcript.weights(b"lanes", count),
        commitment,
        transcript.challenge([commitment]),
        response,
        params,
        what="knowledge of a key card's exponents",
    )


def knowledge_bytes(count: int, params: Parameters) -> int:
    """Return the length in bytes of a proof about `count` public powers."""
    return proof_length(1, [response_bound(count, params)], params)


def mask_bits(count: int, params: Parameters) -> int:
    """Return the width in bits of the mask `w` for `count` exponents.

    `ch sum_k x_k r_k` has 128 (challenge) + 128 (weight) + `exponent_bits` +
    `ceil(log2 count)` bits, and 128 more hide it.

    Raises:
        ProofError: `count` is not in 1 to 2^24.
    """
    if not 1 <= count <= _MOST_POWERS:
        raise ProofError(f"a proof about {count} powers, expected 1 to {_MOST_POWERS}")
    sum_bits = WEIGHT_BITS + params.exponent_bits + (count - 1).bit_length()
    return CHALLENGE_BITS + sum_bits + _HIDING_BITS


def response_bound(count: int, params: Parameters) -> mpz:
    """Return what every honest `z = w + ch R` stays below: `2^(mask_bits + 1)`."""
    return mpz(2) << mask_bits(count, params)


def generator_power(exponent: mpz, params: Parameters) -> mpz:
    """Return `g^exponent mod n^2` for a mask or a response.

    A process that needs a few of them, such as one that reads a roster, builds no table
    for it.
    """
    return _generator(params).power(exponent)


@dataclass(slots=True)
class _Generator:
    """Powers of `g`, from a table once there were enough of them."""

    params: Parameters
    powers: int = 0
    table: FixedBaseTable | None = None

    def power(self, exponent: mpz) -> mpz:
        params = self.params
        self.powers += 1
        if self.table is None and self.powers > _POWERS_BEFORE_TABLE:
            # Wide enough for every mask and response.
            width = mask_bits(_MOST_POWERS, params) + 1
            self.table = FixedBaseTable(params.g, params.n, width, _TABLE_WINDOW)
        if self.table is None:
            return powmod(params.g, exponent, params.n_squared)
        return self.table.power(exponent)


@functools.lru_cache(maxsize=4)
def _generator(params: Parameters) -> _Generator:
    return _Generator(params)


def inner_product(weights: Sequence[mpz], values: Sequence[mpz]) -> mpz:
    """Return `sum_k weights[k] values[k]` over the integers; lengths must agree."""
    products = (w * value for w, value in zip(weights, values, strict=True))
    return sum(products, mpz(0))


def check_exponents(exponents: Sequence[mpz], count: int, params: Parameters) -> None:
    """Raise unless there are `count` exponents, each `0 <= r < 2^exponent_bits`.

    Raises:
        ProofError: Names the index, never the exponent.
    """
    if len(exponents) != count:
        raise ProofError(
            f"{len(exponents)} secret exponents for {count} powers; expected one each"
        )
    for index, exponent in enumerate(exponents):
        if not 0 <= exponent < 1 << params.exponent_bits:
            raise ProofError(
                f"secret exponent {index} of {count} is outside 0 <= r < "
                f"2^{params.exponent_bits}, so a verifier would refuse its proof"
            )


def check_powers(
    elements: Sequence[mpz],
    weights: Sequence[mpz],
    commitment: mpz,
    challenge: mpz,
    response: mpz,
    params: Parameters,
    *,
    what: str,
) -> None:
    """Raise unless `g^z = C (prod_k elements[k]^weights[k])^ch`, both sides squared.

    Args:
        elements: Public powers of `g`, as claimed.
        weights: One weight for each.
        commitment: `C`.
        challenge: `ch`.
        response: `z`, below its `response_bound`.
        params: The group.
        what: What the proof is of, for the message.

    Raises:
        ProofError: The equation fails.
    """
    product = product_of_powers(elements, weights, params.n_squared)
    answer = commitment * powmod(product, challenge, params.n_squared)
    check_squares(generator_power(response, params), answer, params, what=what)


def check_squares(left: mpz, right: mpz, params: Parameters, *, what: str) -> None:
    """Raise unless `left^2 = right^2 mod n^2`.

    Raises:
        ProofError: The squares differ.
    """
    if (left - right) * (left + right) % params.n_squared != 0:
        raise ProofError(
            f"the proof of {what} does not hold; it was altered or made for another "
            "statement, or its sender is faulty or hostile: refuse the message"
        )
