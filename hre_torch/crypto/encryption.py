"""Additively homomorphic encryption in lanes, under a key that nobody holds alone.

Group elements live modulo `n^2`, plaintexts modulo `n`; `g` generates n-th residues. A
block of `l <= L` plaintexts `m_j` under the public keys `PK_j` is

    T' = g^r,    T_j = (1 + m_j n) PK_j^r    mod n^2,    r fresh.

Products of blocks encrypt sums, powers encrypt multiples. One randomness serves `L`
*different* keys (K. Kurosawa, PKC 2002; M. Bellare, A. Boldyreva, J. Staddon, PKC 2003)
and `L = 1` is the ciphertext of the paper (F. Tang et al., Electronics 8(4):411, 2019),
of the form of E. Bresson, D. Catalano, D. Pointcheval, ASIACRYPT 2003. Under the
short-exponent assumption (T. Koshiba, K. Kurosawa, PKC 2004) `r` may be much shorter
than `n`.

Every function is a pure function of blocks with picklable arguments, so that worker
processes can map over blocks. Elements are checked where they are decoded, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.crypto.fixed_base import shared_table
from hre_torch.crypto.lane_keys import of_lanes
from hre_torch.crypto.modulus import Parameters
from hre_torch.errors import CryptoError, SlotOverflowError

__all__ = ["Ciphertext", "add", "encrypt", "encrypt_with", "rerandomise", "scale"]


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A block: `head` is `T'`, `lanes` are `T_1..T_l` with `1 <= l <= L`."""

    head: mpz
    lanes: tuple[mpz, ...]


def encrypt(
    plaintexts: Sequence[int],
    joint: Sequence[mpz],
    params: Parameters,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> Ciphertext:
    """Return `T' = g^r` and `T_j = (1 + m_j n) PK_j^r` with a fresh `r`.

    Args:
        plaintexts: `m_j`, shape (l,), `1 <= l <= L`, `-n < m_j < n`; taken modulo `n`.
        joint: `PK_j`, shape (L,).
        params: Fixes the group and the exponents' width.
        entropy: Source of `r`.

    Raises:
        CryptoError: No plaintexts, more than `L`, or another number of keys than `L`.
        SlotOverflowError: A plaintext has more bits than the modulus.
    """
    r = entropy.exponent(params.exponent_bits)
    return encrypt_with(plaintexts, r, joint, params)


def encrypt_with(
    plaintexts: Sequence[int], r: mpz, joint: Sequence[mpz], params: Parameters
) -> Ciphertext:
    """Return `T' = g^r` and `T_j = (1 + m_j n) PK_j^r` for a given `r`.

    For provers, who need `r` once more. Never for two blocks with one `r`.

    Args:
        plaintexts: `m_j`, shape (l,), `1 <= l <= L`, `-n < m_j < n`; taken modulo `n`.
        r: fresh secret exponent, `0 < r < 2^exponent_bits`.
        joint: `PK_j`, shape (L,).
        params: Fixes the group and the exponents' width.

    Raises:
        CryptoError: No plaintexts, more than `L`, or another number of keys than `L`.
        SlotOverflowError: A plaintext has more bits than the modulus.
    """
    keys = of_lanes(joint, len(plaintexts), params)
    if not all(-params.n < plaintext < params.n for plaintext in plaintexts):
        raise SlotOverflowError(
            "a plaintext lies outside -n < m < n and would come back changed; pack "
            "fewer values into one plaintext"
        )
    shared = shared_table(params.g, params)
    positions = shared.positions(r)
    one = mpz(1)
    return Ciphertext(
        head=shared.multiply(one, positions),
        lanes=tuple(
            shared_table(key, params).multiply(one, positions, plaintext)
            for plaintext, key in zip(plaintexts, keys, strict=True)
        ),
    )


def add(x: Ciphertext, y: Ciphertext, params: Parameters) -> Ciphertext:
    """Return a ciphertext of the lane-wise sum modulo `n`.

    Raises:
        CryptoError: The blocks have different numbers of lanes.
    """
    if len(x.lanes) != len(y.lanes):
        raise CryptoError(
            f"a block of {len(x.lanes)} lanes cannot be added to one of "
            f"{len(y.lanes)}; add the same block of updates of one layout"
        )
    n_squared = params.n_squared
    return Ciphertext(
        head=x.head * y.head % n_squared,
        lanes=tuple(a * b % n_squared for a, b in zip(x.lanes, y.lanes, strict=True)),
    )


def scale(x: Ciphertext, factor: int, params: Parameters) -> Ciphertext:
    """Return a ciphertext of `factor` times every plaintext, modulo `n`.

    The result is as public as the factor: `factor = 0` gives the elements 1. Use
    `rerandomise` before showing it to anybody who knows `x`.

    Args:
        x: Block of invertible elements.
        factor: Any integer; its sign turns the plaintexts' sign.
        params: Fixes the group.
    """
    n_squared = params.n_squared
    return Ciphertext(
        head=gmpy2.powmod(x.head, factor, n_squared),
        lanes=tuple(gmpy2.powmod(lane, factor, n_squared) for lane in x.lanes),
    )


def rerandomise(
    x: Ciphertext,
    joint: Sequence[mpz],
    params: Parameters,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> Ciphertext:
    """Return a ciphertext of the same plaintexts that cannot be linked to `x`.

    Adds a fresh encryption of zeros: `T' g^r` and `T_j PK_j^r`.
    """
    zeros = encrypt([0] * len(x.lanes), joint, params, entropy=entropy)
    return add(x, zeros, params)
