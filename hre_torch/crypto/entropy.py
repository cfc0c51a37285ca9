"""The only source of secret randomness.

Keys, encryption exponents and blinding exponents all come from an `Entropy`. It reads
the operating system through `secrets` at every call and keeps nothing between calls,
so that two processes made by fork can never draw the same exponent: one encryption
exponent used twice gives away the difference of two plaintexts.

Generators of numpy and gmpy2 are seeded and predictable. They may round a gradient,
they may never make a secret.
"""

from __future__ import annotations

import secrets
from typing import Final

import gmpy2
from gmpy2 import mpz

from hre_torch.errors import ConfigurationError

__all__ = ["SYSTEM_ENTROPY", "Entropy"]


class Entropy:
    """Uniform secret integers, each built on `octets`.

    Every other method calls `octets` and nothing else, so a test that overrides this
    one method scripts all the randomness of a run.
    """

    def octets(self, count: int) -> bytes:
        """Return `count` uniform bytes of the operating system.

        Args:
            count: Number of bytes, at least 0.

        Raises:
            ConfigurationError: `count` is negative.
        """
        if count < 0:
            raise ConfigurationError(
                f"cannot draw {count} random bytes; ask for 0 or more"
            )
        return secrets.token_bytes(count)

    def bits(self, count: int) -> mpz:
        """Return a uniform integer `0 <= x < 2^count`.

        Args:
            count: Number of bits, at least 1.

        Raises:
            ConfigurationError: `count` is below 1.
        """
        if count < 1:
            raise ConfigurationError(
                f"cannot draw an integer of {count} random bits; ask for 1 or more"
            )
        surplus = -count % 8
        return mpz.from_bytes(self.octets((count + surplus) // 8), "big") >> surplus

    def below(self, bound: mpz) -> mpz:
        """Return a uniform integer `0 <= x < bound`.

        Draws again until the integer is small enough (fewer than two draws expected),
        because a remainder would favour the small residues.

        Args:
            bound: Exclusive upper bound, at least 1.

        Raises:
            ConfigurationError: `bound` is below 1.
        """
        if bound < 1:
            raise ConfigurationError(
                "cannot draw an integer below a bound that is zero or negative; "
                "the bound must be 1 or more"
            )
        if bound == 1:
            return mpz(0)
        length = mpz(bound - 1).bit_length()
        while (drawn := self.bits(length)) >= bound:
            pass
        return drawn

    def exponent(self, bits: int) -> mpz:
        """Return a uniform exponent `1 <= x < 2^bits`.

        The top bit is not forced: a short exponent is as hard to find as its range is
        wide, and forcing a bit halves the range. Zero is left out because `g^0 = 1`
        hides nothing and every decoder refuses it.

        Args:
            bits: Width of the range in bits, at least 1.
        """
        while (drawn := self.bits(bits)) == 0:
            pass
        return drawn

    def even_exponent(self, bits: int) -> mpz:
        """Return a uniform even exponent `2 <= x < 2^bits`.

        Secret keys are even so that an element and its negative have the same power,
        and a hostile sign cannot leak a key's parity.

        Args:
            bits: Width of the range in bits, at least 2.
        """
        return 2 * self.exponent(bits - 1)

    def unit(self, modulus: mpz) -> mpz:
        """Return a uniform `1 <= x < modulus` that is coprime to `modulus`.

        Args:
            modulus: Modulus of the group, at least 2.

        Raises:
            ConfigurationError: `modulus` is below 2.
        """
        if modulus < 2:
            raise ConfigurationError(
                "cannot draw a unit for a modulus below 2; it must be 2 or more"
            )
        while gmpy2.gcd(drawn := self.below(modulus), modulus) != 1:
            pass
        return drawn


# Stateless, so one instance serves every caller, thread and process.
SYSTEM_ENTROPY: Final = Entropy()
