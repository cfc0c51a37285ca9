"""Secret exponents and public keys in lanes.

Everybody in the protocol owns `L` exponents `x_j` and publishes `g^x_j`, one per lane
`j = 1..L`. A block's lanes share one randomness, which is safe exactly as long as the
keys of its lanes differ (K. Kurosawa, PKC 2002; M. Bellare, A. Boldyreva, J. Staddon,
PKC 2003): two lanes under one key give away the difference of their plaintexts, and
two lanes that share one *server's* exponent give the other server an equation between
them. So exponents are drawn per lane, and repeated ones are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.crypto.fixed_base import shared_table
from hre_torch.crypto.modulus import Parameters
from hre_torch.errors import CryptoError, InvalidElementError

__all__ = ["Exponents", "check_public_keys", "joint_keys", "of_lanes"]


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
