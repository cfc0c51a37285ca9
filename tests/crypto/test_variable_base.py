from __future__ import annotations

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.powers import power_modulo_square, powers_of_one_base
from hre_torch.errors import CryptoError, InvalidElementError

PARAMS = load_profile("toy-insecure")
EXPONENTS = st.integers(0, 2**80).map(mpz)


UNITS = st.integers(1, 2**1024).map(mpz).filter(lambda x: gmpy2.gcd(x, PARAMS.n) == 1)


@given(UNITS, st.lists(EXPONENTS, max_size=18))
def test_powers_of_one_base_are_those_of_powmod(base, exponents):
    expected = [gmpy2.powmod(base, e, PARAMS.n_squared) for e in exponents]
    assert powers_of_one_base(base, exponents, PARAMS.n) == expected


@given(st.integers(0, 2**1100).map(mpz), EXPONENTS)
def test_a_power_modulo_a_square_is_that_of_powmod(base, exponent):
    expected = gmpy2.powmod(base, exponent, PARAMS.n_squared)
    assert power_modulo_square(base, exponent, PARAMS.n) == expected


@pytest.mark.parametrize("count", range(20))
def test_equal_and_zero_exponents_keep_their_places(count):
    exponents = [mpz(index % 3) for index in range(count)]
    found = powers_of_one_base(mpz(5), exponents, PARAMS.n)
    assert found == [5 ** (index % 3) for index in range(count)]


def test_sixteen_zero_exponents_give_ones():
    assert powers_of_one_base(mpz(5), [mpz(0)] * 16, PARAMS.n) == [1] * 16


def test_a_negative_exponent_is_refused_without_being_shown():
    with pytest.raises(CryptoError, match="negative") as caught:
        powers_of_one_base(mpz(5), [mpz(1), mpz(-123456)], PARAMS.n)
    assert "123456" not in str(caught.value)
    with pytest.raises(CryptoError, match="negative"):
        power_modulo_square(mpz(5), mpz(-1), PARAMS.n)


@pytest.mark.parametrize("base", [0, PARAMS.n, 7 * PARAMS.n])
def test_a_base_that_shares_a_factor_with_the_modulus_is_refused(base):
    with pytest.raises(InvalidElementError, match="shares a factor"):
        powers_of_one_base(mpz(base), [mpz(1)] * 3, PARAMS.n)
