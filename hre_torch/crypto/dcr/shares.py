"""Key transform by two shares, each under the recipient's key: suite `gated`.

The joint key is additive, `PK_j = g^(a_j + b_j)`, so that the mask `PK_j^r = T'^(a_j +
b_j)` of a block falls to two factors, and each server removes its own, from its own
product of heads `T'`, while it puts the recipient's key in its place:

    DSP    D_j = T_j T'^(-a_j) pk_j^rho,     g^rho
    KTS    E_j =     T'^(-b_j) pk_j^sigma,   g^sigma
    opened with k_j:   D_j E_j / (g^(rho + sigma))^k_j = 1 + m_j n

Neither server ever exponentiates a value that the other one chose, and the DSP's share
never reaches the KTS. For two parties and lanes of n-th residues this is the public key
switch of C. Mouchet, J. Troncoso-Pastoriza, J.-P. Bossuat, J.-P. Hubaux (PETS 2021).

Long-lived secret exponents `x` are never walked through themselves: every power splits
them anew into `u` and `x - u` with a fresh random `u`, 64 bits longer than `x`, so that
what a power shows of its exponents through time or caches says nothing about `x` unless
it shows both halves of the same power (exponent splitting: C. Clavier, M. Joye, CHES
2001). GMP's `mpz_powm_sec`, which needs no splitting, took 1.4 times as long for a
block of 16 lanes. Python is not constant-time in either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.dcr.encryption import Ciphertext, Exponents, of_lanes
from hre_torch.crypto.dcr.fixed_base import multiply_powers, shared_table
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.dcr.powers import powers_of_one_base
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import CryptoError, DecryptionError

__all__ = ["Share", "combine", "open_share", "share", "strip", "unmasked"]

# x - u is within 2^-64 of being independent of x.
_HIDING_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Share:
    """One server's factor of a block: `head` is `g^rho`, `lanes` are `D_1..D_l`."""

    head: mpz
    lanes: tuple[mpz, ...]


def strip(
    head: mpz, exponents: Exponents, lanes: int, params: Parameters
) -> tuple[mpz, ...]:
    """Return `T'^(-x_j)`, as `T'^(-u_j) T'^(u_j - x_j)` with fresh `u_j`, to be cached.

    Args:
        head: `T'`, a decoded element.
        exponents: the server's own `x_j`, shape (L,).
        lanes: `l`, `1 <= l <= L`.
        params: fixes the group.

    Raises:
        CryptoError: `lanes` is out of range.
    """
    secret = of_lanes(exponents.reveal(), lanes, params)
    bits = params.exponent_bits + _HIDING_BITS
    # The highest bit is set, so that u exceeds every x and all u are equally long.
    halves = [mpz(1) << bits | SYSTEM_ENTROPY.bits(bits) for _ in secret]
    inverse = gmpy2.invert(head, params.n_squared)
    left = powers_of_one_base(inverse, halves, params.n)
    rest = [half - x for half, x in zip(halves, secret, strict=True)]
    right = powers_of_one_base(head, rest, params.n)
    return tuple(a * b % params.n_squared for a, b in zip(left, right, strict=True))


def unmasked(
    block: Ciphertext, exponents: Exponents, params: Parameters
) -> tuple[mpz, ...]:
    """Return the DSP's `T_j T'^(-a_j)`, cacheable per release; never shown to anybody.

    Args:
        block: `T'`, `T_1..T_l`.
        exponents: `a_j`, shape (L,).
        params: fixes the group.
    """
    stripped = strip(block.head, exponents, len(block.lanes), params)
    return tuple(
        lane * factor % params.n_squared
        for lane, factor in zip(block.lanes, stripped, strict=True)
    )


def share(
    factors: Sequence[mpz],
    recipient: Sequence[mpz],
    params: Parameters,
    *,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> Share:
    """Return `factor_j pk_j^rho` and `g^rho`, `rho` fresh for this call.

    Costs fixed-base powers only.

    Args:
        factors: `T_j T'^(-a_j)` at the DSP, `T'^(-b_j)` at the KTS, shape (l,).
        recipient: `pk_j`, shape (L,).
        params: fixes the group and the exponents' width.
        entropy: source of `rho`.

    Raises:
        CryptoError: more lanes than keys.
    """
    keys = of_lanes(recipient, len(factors), params)
    rho = entropy.exponent(params.exponent_bits)
    return Share(
        head=shared_table(params.g, params).power(rho),
        lanes=multiply_powers(factors, keys, rho, params),
    )


def combine(x: Share, y: Share, params: Parameters) -> Share:
    """Return the product of both servers' shares of one block.

    Raises:
        CryptoError: they have different numbers of lanes.
    """
    if len(x.lanes) != len(y.lanes):
        raise CryptoError(
            f"shares of {len(x.lanes)} and {len(y.lanes)} lanes do not belong to one "
            "block; ask both servers again"
        )
    n_squared = params.n_squared
    return Share(
        head=x.head * y.head % n_squared,
        lanes=tuple(a * b % n_squared for a, b in zip(x.lanes, y.lanes, strict=True)),
    )


def open_share(combined: Share, k: Exponents, params: Parameters) -> list[int]:
    """Return the plaintexts `m_j` as residues `0 <= m_j < n`.

    `u_j = D_j E_j / V^k_j` is `1 + m_j n`, or its negative where somebody uploaded `-T`
    for `T`: a squared proof cannot tell, so the sign is normalised here and that upload
    counts as what it would have been.

    Args:
        combined: product of both shares.
        k: the recipient's exponents, shape (L,).
        params: fixes the group.

    Raises:
        DecryptionError: the block does not open under these exponents.
        CryptoError: more lanes than keys.
    """
    n, n_squared = params.n, params.n_squared
    masks = strip(combined.head, k, len(combined.lanes), params)
    plaintexts = []
    for element, mask in zip(combined.lanes, masks, strict=True):
        quotient, remainder = gmpy2.f_divmod(element * mask % n_squared, n)
        if remainder == 1:
            plaintexts.append(int(quotient))
        elif remainder == n - 1:
            plaintexts.append(int(-(quotient + 1) % n))
        else:
            raise DecryptionError("a downloaded block does not open under this key")
    return plaintexts
