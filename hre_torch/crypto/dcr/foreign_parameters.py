"""The checks on a modulus, and on what its profile claims, that others made.

Nobody without the factors can prove that `n` is a product of two safe primes. What
can be refuted is refuted here, cheaply, before a modulus is used for anything.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import gmpy2
from gmpy2 import mpz

from hre_torch.errors import ModulusError

__all__ = ["check_claims", "check_modulus", "security_of"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# NIST SP 800-57 Part 1 Rev. 5, table 2: modulus bits and symmetric strength. Smaller
# moduli count as nothing: 829 bits have been factored in public.
_STRENGTH: Final = ((15360, 256), (7680, 192), (3072, 128), (2048, 112))
_LEAST_SECURITY: Final = 112
# A block's lane count travels as one byte.
_MOST_LANES: Final = 255
# A larger modulus would turn the checks below into a way to stall a server.
_MOST_MODULUS_BITS: Final = 16384
_SMALL_FACTOR_BITS: Final = 20
# Finds p, q with |p - q| up to about 2^9.5 n^(1/4), far beyond what a generator that
# draws p and q independently can ever hit; the steps cost a few milliseconds.
_FERMAT_STEPS: Final = 1 << 16


def security_of(modulus_bits: int, exponent_bits: int) -> int:
    """Return the strength in bits that modulus and exponents give together.

    The weaker of two attacks counts: factoring `n` (NIST SP 800-57 Part 1 Rev. 5,
    table 2; 0 below 2048 bits), and finding a short exponent of `w` bits in about
    `2^(w/2)` steps (Pollard's kangaroos).
    """
    factoring = next((s for bits, s in _STRENGTH if modulus_bits >= bits), 0)
    return min(factoring, exponent_bits // 2)


def check_claims(
    name: str, modulus_bits: int, lanes: int, exponent_bits: int, security_bits: int
) -> None:
    """Raise unless name, lanes, widths and claimed strength fit together.

    Arguments are those of `Parameters`.

    Raises:
        ModulusError: The name is malformed, a number is out of range, the claim is
            more than the sizes give, or a weak profile does not say "insecure".
    """
    if not _NAME.fullmatch(name):
        raise ModulusError(
            f"the profile name {name!r} is not allowed; use up to 64 of a-z, 0-9, '.', "
            "'_', '-', starting with a letter or digit"
        )
    if not 1 <= lanes <= _MOST_LANES:
        raise ModulusError(f"{lanes} lanes, expected 1 to {_MOST_LANES}")
    if not 2 <= exponent_bits <= modulus_bits:
        raise ModulusError(
            f"exponents of {exponent_bits} bits, expected 2 to {modulus_bits}, the "
            "length of the modulus"
        )
    strength = security_of(modulus_bits, exponent_bits)
    if not 0 <= security_bits <= strength:
        raise ModulusError(
            f"a claim of {security_bits} bits of security, but a modulus of "
            f"{modulus_bits} and exponents of {exponent_bits} bits give {strength}; "
            f"claim 0 to {strength}"
        )
    if security_bits < _LEAST_SECURITY and "insecure" not in name:
        raise ModulusError(
            f"the profile {name!r} has {security_bits} bits of security, expected "
            f"{_LEAST_SECURITY} or more (2048-bit modulus, 224-bit exponents); a "
            "weaker one must carry 'insecure' in its name"
        )


@functools.lru_cache(maxsize=16)
def check_modulus(n: mpz, bits: int) -> None:
    """Raise unless `n` could be a product of two large unknown primes.

    Passing proves little: only whoever made `n` knows that it has two factors and
    that they are gone. Failing proves that `n` is broken.

    Args:
        n: Foreign modulus.
        bits: Length that `n` must have exactly.

    Raises:
        ModulusError: `n` has another length, is even, prime, a perfect power, has a
            factor below 2^20, or its two factors lie so close that Fermat's method
            finds them.
    """
    advice = "; use a shipped profile or one made by `hre-torch keygen params`"
    if n < 3 or n.bit_length() != bits or bits > _MOST_MODULUS_BITS:
        raise ModulusError(
            f"the modulus has {n.bit_length()} bits, expected exactly {bits} and at "
            f"most {_MOST_MODULUS_BITS}{advice}"
        )
    if gmpy2.is_even(n):
        raise ModulusError(f"the modulus is even, so 2 divides it{advice}")
    if gmpy2.is_prime(n, 40):
        raise ModulusError(
            f"the modulus is prime, so anybody can decrypt; expected a product{advice}"
        )
    if gmpy2.is_power(n):
        raise ModulusError(
            "the modulus is a perfect power, so a root factors it; expected two "
            f"different primes{advice}"
        )
    if gmpy2.gcd(_small_primes_product() % n, n) != 1:
        raise ModulusError(
            f"the modulus has a factor below 2^{_SMALL_FACTOR_BITS}; expected two "
            f"large primes{advice}"
        )
    if _has_close_factors(n):
        raise ModulusError(
            "the modulus is a product of two close primes, which Fermat's method "
            f"finds; expected primes drawn independently{advice}"
        )


@functools.cache
def _small_primes_product() -> mpz:
    """Return the product of all primes below 2^20, about 1.5 million bits."""
    return gmpy2.primorial(1 << _SMALL_FACTOR_BITS)


def _has_close_factors(n: mpz) -> bool:
    """Return whether Fermat's method finds `n = s^2 - d^2` in `_FERMAT_STEPS` steps.

    With `s = (p + q)/2` the search starts at `ceil(sqrt n)` and needs about
    `(p - q)^2 / (8 sqrt n)` steps.
    """
    root = gmpy2.isqrt(n) + 1
    difference = root * root - n
    for _ in range(_FERMAT_STEPS):
        if gmpy2.is_square(difference):
            return True
        difference += 2 * root + 1
        root += 1
    return False
