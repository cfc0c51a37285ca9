from __future__ import annotations

import math
import random

import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.dcr.powers import (
    product_of_powers,
    products_of_powers,
)
from hre_torch.errors import CryptoError

MODULUS = mpz((1 << 127) - 1) * mpz((1 << 89) - 1)

residues = st.integers(0, int(MODULUS) - 1).map(mpz)
exponents = st.one_of(st.integers(0, 3), st.integers(0, 1 << 128)).map(mpz)


def naive(bases, powers, modulus):
    """Multiply one power after another with Python's own arithmetic."""
    product = math.prod(
        pow(int(base), int(power), int(modulus))
        for base, power in zip(bases, powers, strict=True)
    )
    return product % modulus


@given(st.lists(st.tuples(residues, exponents), max_size=12))
def test_a_product_equals_one_power_after_another(pairs):
    bases = [base for base, _ in pairs]
    powers = [power for _, power in pairs]
    assert product_of_powers(bases, powers, MODULUS) == naive(bases, powers, MODULUS)


@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_every_column_is_its_own_product(data, count, width):
    rows = data.draw(
        st.lists(st.tuples(*[residues] * width), min_size=count, max_size=count)
    )
    powers = data.draw(st.lists(exponents, min_size=count, max_size=count))
    columns = list(zip(*rows, strict=True))
    assert products_of_powers(rows, powers, MODULUS) == [
        product_of_powers(column, powers, MODULUS) for column in columns
    ]


@pytest.mark.parametrize("count", [1, 2, 16, 55, 300])
def test_many_bases_with_weights_of_128_bits_give_the_right_product(count):
    draw = random.Random(count)
    bases = [mpz(draw.randrange(MODULUS)) for _ in range(count)]
    powers = [mpz(draw.getrandbits(128)) for _ in range(count)]
    assert product_of_powers(bases, powers, MODULUS) == naive(bases, powers, MODULUS)


def test_a_product_over_nothing_is_one():
    assert product_of_powers([], [], MODULUS) == 1


def test_exponents_that_are_all_zero_give_one():
    assert product_of_powers([mpz(5), mpz(7)], [mpz(0), mpz(0)], MODULUS) == 1


def test_exponents_far_apart_take_few_steps_and_stay_exact():
    bases, powers = [mpz(3), mpz(5), mpz(7)], [mpz(1) << 4096, mpz(1), mpz(0)]
    assert product_of_powers(bases, powers, MODULUS) == naive(bases, powers, MODULUS)


def test_equal_exponents_give_the_power_of_the_product():
    bases = [mpz(3), mpz(5), mpz(7), mpz(11)]
    assert product_of_powers(bases, [mpz(9)] * 4, MODULUS) == pow(1155, 9, MODULUS)


def test_the_bases_of_the_caller_stay_as_they_were():
    bases = [mpz(3), mpz(5)]
    product_of_powers(bases, [mpz(10), mpz(7)], MODULUS)
    assert bases == [3, 5]


def test_a_negative_exponent_is_refused():
    with pytest.raises(CryptoError, match="negative exponent"):
        product_of_powers([mpz(3), mpz(5)], [mpz(1), mpz(-1)], MODULUS)


def test_more_exponents_than_bases_are_refused():
    with pytest.raises(CryptoError, match="1 rows by 2 exponents"):
        product_of_powers([mpz(3)], [mpz(1), mpz(2)], MODULUS)


def test_rows_of_different_length_are_refused():
    with pytest.raises(CryptoError, match="rows of one length"):
        products_of_powers([[mpz(3)], [mpz(3), mpz(5)]], [mpz(1), mpz(2)], MODULUS)
