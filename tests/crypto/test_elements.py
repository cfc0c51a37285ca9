from __future__ import annotations

import re

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.dcr.transcript import decode_elements, encode_elements
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.errors import InvalidElementError

TOY = load_profile("toy-insecure")
MINUS_ONE = TOY.n_squared - 1


def raw(*values: int) -> bytes:
    """Encode without any check, as a hostile sender would."""
    return b"".join(int(value).to_bytes(TOY.element_bytes, "big") for value in values)


units = st.integers(1, int(MINUS_ONE)).filter(lambda x: gmpy2.gcd(x, TOY.n) == 1)


@given(st.lists(units.map(mpz), max_size=5))
def test_decoding_undoes_encoding(elements):
    data = encode_elements(elements, TOY)
    assert decode_elements(data, len(elements), TOY, what="x") == elements


def test_an_encoding_is_fixed_width_and_big_endian():
    data = encode_elements([mpz(1), mpz(258)], TOY)
    assert len(data) == 2 * TOY.element_bytes
    assert data[TOY.element_bytes - 1] == 1
    assert data[-2:] == b"\x01\x02"


def test_real_sized_elements_survive_the_wire():
    params = load_profile("demo3072")
    elements = [SYSTEM_ENTROPY.unit(params.n_squared) for _ in range(20)]
    data = encode_elements(elements, params)
    assert len(data) == 20 * 768
    assert decode_elements(data, 20, params, what="x", nontrivial=True) == elements


@pytest.mark.parametrize("value", [0, TOY.n_squared, -1], ids=["0", "n^2", "-1"])
def test_encoding_refuses_what_no_computation_makes(value):
    with pytest.raises(InvalidElementError, match="element 1 of 2 is outside"):
        encode_elements([mpz(5), mpz(value)], TOY)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "is zero"),
        (TOY.n_squared, "is n^2 or more"),
        (TOY.n_squared + 1, "is n^2 or more"),
        (2 ** (8 * TOY.element_bytes) - 1, "is n^2 or more"),
        (TOY.n, "shares a factor"),
        (5 * TOY.n, "shares a factor"),
    ],
    ids=["0", "n^2", "n^2+1", "all-ones", "n", "5n"],
)
def test_a_foreign_element_outside_the_group_is_refused(value, reason):
    with pytest.raises(
        InvalidElementError, match=rf"heads: element 1 of 3 {re.escape(reason)}"
    ):
        decode_elements(raw(7, value, 9), 3, TOY, what="heads")


def test_an_element_that_shares_one_prime_with_the_modulus_is_refused():
    p, q = gmpy2.next_prime(mpz(2) ** 255), gmpy2.next_prime(mpz(2) ** 255 * 3 // 2)
    known = Parameters("known-insecure", p * q, 3, 64, 0, "tests")
    data = encode_elements([mpz(7), p, mpz(9)], known)
    with pytest.raises(InvalidElementError, match="element 1 of 3 shares a factor"):
        decode_elements(data, 3, known, what="heads")


@pytest.mark.parametrize("value", [1, MINUS_ONE], ids=["1", "n^2-1"])
def test_trivial_elements_are_refused_where_the_protocol_says_so(value):
    with pytest.raises(InvalidElementError, match="is 1 or n"):
        decode_elements(raw(7, value), 2, TOY, what="heads", nontrivial=True)


@pytest.mark.parametrize("value", [1, MINUS_ONE], ids=["1", "n^2-1"])
def test_trivial_elements_pass_where_they_are_harmless(value):
    assert decode_elements(raw(value), 1, TOY, what="lanes") == [value]


@pytest.mark.parametrize("change", [-TOY.element_bytes, -1, 1, TOY.element_bytes])
def test_a_wrong_length_is_refused(change):
    data = (raw(7, 8) + bytes(TOY.element_bytes))[: 2 * TOY.element_bytes + change]
    with pytest.raises(InvalidElementError, match="truncated, has trailing bytes"):
        decode_elements(data, 2, TOY, what="lanes")


def test_the_message_never_tells_the_value():
    value = TOY.n * 12345
    with pytest.raises(InvalidElementError) as caught:
        decode_elements(raw(value), 1, TOY, what="heads")
    assert str(value) not in str(caught.value)
    assert f"{value:x}" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=3 * TOY.element_bytes), st.integers(0, 4))
def test_arbitrary_bytes_decode_or_raise_the_typed_error(data, count):
    try:
        elements = decode_elements(data, count, TOY, what="noise")
    except InvalidElementError:
        return
    assert encode_elements(elements, TOY) == data
