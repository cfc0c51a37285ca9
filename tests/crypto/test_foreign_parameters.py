from __future__ import annotations

import dataclasses

import gmpy2
import pytest
from gmpy2 import mpz

from hre_torch.crypto.dcr.foreign_parameters import check_modulus, security_of
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.errors import ModulusError

TOY = load_profile("toy-insecure")
# Two far apart 256-bit primes whose product is a sound 512-bit modulus.
P = gmpy2.next_prime(mpz(2) ** 255 * 3 // 2)
Q = gmpy2.next_prime(mpz(2) ** 256 * 9 // 10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "Toy insecure"}, "is not allowed"),
        ({"name": ""}, "is not allowed"),
        ({"name": "../insecure"}, "is not allowed"),
        ({"lanes": 0}, "0 lanes"),
        ({"lanes": 256}, "256 lanes"),
        ({"exponent_bits": 1}, "exponents of 1 bits"),
        ({"exponent_bits": 513}, "exponents of 513 bits"),
        ({"security_bits": 1}, "claim of 1 bits"),
        ({"security_bits": -1}, "claim of -1 bits"),
        ({"name": "toy"}, "must carry 'insecure' in its name"),
    ],
)
def test_claims_that_do_not_fit_are_refused(change, reason):
    with pytest.raises(ModulusError, match=reason):
        dataclasses.replace(TOY, **change)


def test_short_exponents_make_a_long_modulus_insecure():
    strong = load_profile("rsa2048")
    with pytest.raises(ModulusError, match="give 80"):
        dataclasses.replace(strong, exponent_bits=160)
    with pytest.raises(ModulusError, match="must carry 'insecure'"):
        dataclasses.replace(strong, exponent_bits=160, security_bits=80)


@pytest.mark.parametrize(
    ("modulus_bits", "exponent_bits", "strength"),
    [
        (2047, 256, 0),
        (2048, 256, 112),
        (3071, 256, 112),
        (3072, 256, 128),
        (3072, 200, 100),
        (7680, 384, 192),
        (15360, 512, 256),
    ],
)
def test_strength_is_the_weaker_of_factoring_and_short_exponents(
    modulus_bits, exponent_bits, strength
):
    assert security_of(modulus_bits, exponent_bits) == strength


# Checks on a foreign modulus.


def test_a_sound_foreign_modulus_passes():
    check_modulus(P * Q, 512)


@pytest.mark.parametrize("bits", [511, 513])
def test_a_modulus_of_another_length_is_refused(bits):
    with pytest.raises(ModulusError, match="has 512 bits, expected exactly"):
        check_modulus(P * Q, bits)


def test_a_modulus_too_long_to_check_is_refused():
    with pytest.raises(ModulusError, match="at most 16384"):
        check_modulus((mpz(1) << 16385) - 1, 16385)


@pytest.mark.parametrize("n", [-15, 0, 1], ids=str)
def test_a_modulus_that_is_not_positive_is_refused(n):
    with pytest.raises(ModulusError, match="expected exactly"):
        check_modulus(mpz(n), mpz(n).bit_length())


def test_an_even_modulus_is_refused():
    with pytest.raises(ModulusError, match="is even"):
        check_modulus(P * Q - 1, 512)


def test_a_prime_modulus_is_refused():
    with pytest.raises(ModulusError, match="is prime"):
        check_modulus(P, 256)


@pytest.mark.parametrize("power", [2, 3, 5])
def test_a_perfect_power_is_refused(power):
    n = P**power
    with pytest.raises(ModulusError, match="perfect power"):
        check_modulus(n, n.bit_length())


@pytest.mark.parametrize("factor", [3, 65537, 1048573], ids=str)
def test_a_factor_below_two_to_the_twenty_is_refused(factor):
    n = factor * P
    with pytest.raises(ModulusError, match="factor below 2"):
        check_modulus(n, n.bit_length())


@pytest.mark.parametrize("distance", [2, 2**100, 2**136], ids=["next", "100", "136"])
def test_a_product_of_close_primes_is_refused(distance):
    n = P * gmpy2.next_prime(P + distance)
    with pytest.raises(ModulusError, match="Fermat"):
        check_modulus(n, n.bit_length())


def test_primes_at_an_honest_distance_pass():
    n = P * gmpy2.next_prime(P + mpz(2) ** 156)
    check_modulus(n, n.bit_length())
