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

**Keys.** Everybody in the protocol owns `L` exponents `x_j` and publishes `g^x_j`, one
per lane `j = 1..L`. A block's lanes share one randomness, which is safe exactly as long
as the keys of its lanes differ (K. Kurosawa, PKC 2002; M. Bellare, A. Boldyreva, J.
Staddon, PKC 2003): two lanes under one key give away the difference of their
plaintexts, and two lanes that share one *server's* exponent give the other server an
equation between them. So exponents are drawn per lane, and repeated ones are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.dcr.fixed_base import shared_table
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import CryptoError, InvalidElementError, SlotOverflowError

__all__ = [
    "Ciphertext",
    "Exponents",
    "add",
    "check_public_keys",
    "encrypt",
    "encrypt_with",
    "joint_keys",
    "of_lanes",
    "rerandomise",
    "scale",
]


class Exponents:
    """The `L` secret exponents of one server or participant, one per lane.

    Args:
        values: `L` different even integers above 0. Even, so that an element and its
            negative have the same power; different, because two lanes under one key
            and one randomness give away the difference of their plaintexts.

    Raises:
        CryptoError: No exponents, or one is odd, not positive, or there twice.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[int | mpz]) -> None:
        kept = tuple(mpz(value) for value in values)
        if not kept or any(value <= 0 or gmpy2.is_odd(value) for value in kept):
            raise CryptoError(
                "secret exponents must be even integers above 0, one per lane; "
                "make them with Exponents.generate"
            )
        if len(set(kept)) != len(kept):
            raise CryptoError(
                "a secret exponent is used for two lanes; make one per lane with "
                "Exponents.generate"
            )
        self._values = kept

    @classmethod
    def generate(
        cls, params: Parameters, *, entropy: Entropy = SYSTEM_ENTROPY
    ) -> Exponents:
        """Return fresh exponents, `params.exponent_bits` wide, one per lane."""
        return cls(
            entropy.even_exponent(params.exponent_bits) for _ in range(params.lanes)
        )

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Exponents(<{len(self)} secret lanes>)"

    def public(self, params: Parameters) -> tuple[mpz, ...]:
        """Return `g^x_j` for every lane."""
        table = shared_table(params.g, params)
        return tuple(table.power(value) for value in self._values)

    def reveal(self) -> tuple[mpz, ...]:
        """Return the secret exponents, for arithmetic and for a key file only."""
        return self._values


def check_public_keys(keys: Sequence[mpz], params: Parameters, *, whose: str) -> None:
    """Raise unless the keys are one per lane and all different.

    Args:
        keys: Decoded, nontrivial elements.
        params: Fixes the number of lanes.
        whose: Name of their owner, for messages.

    Raises:
        InvalidElementError: Another number of keys, or one key for two lanes.
    """
    if len(keys) != params.lanes or len(set(keys)) != len(keys):
        raise InvalidElementError(
            f"{whose} has {len(keys)} public keys of which {len(set(keys))} differ, "
            f"expected {params.lanes} different ones; make the keys again"
        )


def joint_keys(
    exponents: Exponents, other_public: Sequence[mpz], params: Parameters
) -> tuple[mpz, ...]:
    """Return `PK_j = (g^y_j)^x_j`, which both servers compute and everyone compares.

    Args:
        exponents: `x_j`, the caller's own.
        other_public: `g^y_j`, the other server's public keys.
        params: Fixes the group and the lanes.

    Raises:
        InvalidElementError: The other server's keys are not one per lane, or repeat.
    """
    check_public_keys(other_public, params, whose="the other server")
    joint = tuple(
        gmpy2.powmod(public, exponent, params.n_squared)
        for public, exponent in zip(other_public, exponents.reveal(), strict=True)
    )
    check_public_keys(joint, params, whose="the pair of servers")
    return joint


def of_lanes(keys: Sequence[mpz], lanes: int, params: Parameters) -> Sequence[mpz]:
    """Return the keys or exponents that belong to a block's lanes, the first ones.

    Args:
        keys: One per lane of the profile, shape (L,).
        lanes: `l`, lanes of the block, `1 <= l <= L`.
        params: Fixes `L`.

    Raises:
        CryptoError: The block does not fit the profile, or the keys are not `L`.
    """
    if not 1 <= lanes <= params.lanes:
        raise CryptoError(
            f"a block of {lanes} lanes, expected 1 to {params.lanes} in profile "
            f"{params.name!r}; split the plaintexts into more blocks"
        )
    if len(keys) != params.lanes:
        raise CryptoError(
            f"{len(keys)} keys for the {params.lanes} lanes of profile "
            f"{params.name!r}; use keys made for it"
        )
    return keys[:lanes]


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
