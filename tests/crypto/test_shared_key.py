from __future__ import annotations

import pickle

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.dcr.shared_key import SharedKey, add_ciphertexts
from hre_torch.crypto.entropy import Entropy
from hre_torch.errors import (
    ConfigurationError,
    CryptoError,
    DecryptionError,
    KeyFileError,
    SlotOverflowError,
)

KEY = SharedKey.generate(512)
N = KEY.n
PLAINTEXTS = st.integers(1 - N, N - 1)


class UnitEntropy(Entropy):
    """Serves given units and keeps a count of those it served."""

    def __init__(self, *units):
        self.units = [mpz(unit) for unit in units]

    def unit(self, modulus):
        return self.units.pop(0)


@given(st.lists(PLAINTEXTS, max_size=3))
def test_decryption_returns_the_residues_that_were_encrypted(plaintexts):
    assert KEY.decrypt(KEY.encrypt(plaintexts)) == [m % N for m in plaintexts]


@given(PLAINTEXTS, PLAINTEXTS)
def test_a_product_of_ciphertexts_opens_to_the_sum(x, y):
    total = add_ciphertexts(KEY.encrypt([x]), KEY.encrypt([y]), N)
    assert KEY.decrypt(total) == [(x + y) % N]


def cases(name: str, values: dict[str, object]) -> pytest.MarkDecorator:
    """Run a test with each value, under its name: values of a fresh key have none."""
    return pytest.mark.parametrize(name, values.values(), ids=values.keys())


@cases(
    "plaintext",
    {
        "0": 0,
        "1": 1,
        "n//3": N // 3,
        "n//2": N // 2,
        "n-n//3": N - N // 3,
        "n-1": N - 1,
        "-1": -1,
        "1-n": 1 - N,
        "-n//2": -(N // 2),
    },
)
def test_plaintexts_at_every_edge_survive(plaintext):
    assert KEY.decrypt(KEY.encrypt([plaintext])) == [plaintext % N]


@cases("plaintext", {"0": 0, "1": 1, "12345": 12345, "n//2": N // 2, "n-1": N - 1})
def test_encryption_is_the_formula_of_paillier(plaintext):
    (ciphertext,) = KEY.encrypt([plaintext], entropy=UnitEntropy(987654321))
    assert ciphertext == (1 + plaintext * N) * pow(987654321, N, N * N) % (N * N)


@cases("plaintext", {"n": N, "-n": -N, "n*n": N * N})
def test_a_plaintext_larger_than_the_modulus_is_refused(plaintext):
    with pytest.raises(SlotOverflowError, match="-n < m < n"):
        KEY.encrypt([plaintext])


def test_randomness_comes_from_the_entropy_once_per_ciphertext():
    entropy = UnitEntropy(2, 3, 5)
    assert len(set(KEY.encrypt([7, 7, 7], entropy=entropy))) == 3
    assert not entropy.units


def test_equal_plaintexts_have_different_ciphertexts():
    assert len(set(KEY.encrypt([1] * 8))) == 8


@cases("ciphertext", {"0": 0, "-1": -1, "n*n": N * N, "n": N, "n*n-n": N * N - N})
def test_a_number_that_is_no_ciphertext_does_not_open(ciphertext):
    with pytest.raises(DecryptionError):
        KEY.decrypt([ciphertext])


def test_uploads_of_different_length_do_not_add():
    with pytest.raises(CryptoError, match="1 ciphertexts cannot be added to 2"):
        add_ciphertexts([1], [1, 2], N)


@pytest.mark.parametrize("bits", [256, 258, 512])
def test_a_generated_modulus_has_exactly_the_bits_asked_for(bits):
    assert SharedKey.generate(bits).n.bit_length() == bits


@pytest.mark.parametrize("bits", [0, 254, 257, -512, 8194])
def test_an_odd_or_small_number_of_bits_is_refused(bits):
    with pytest.raises(ConfigurationError, match="even number"):
        SharedKey.generate(bits)


def test_both_primes_come_from_the_entropy():
    drawn = []

    class CountingEntropy(Entropy):
        def bits(self, count):
            drawn.append(count)
            return super().bits(count)

    SharedKey.generate(256, entropy=CountingEntropy())
    assert drawn == [128, 128]


def test_a_second_prime_equal_to_the_first_is_drawn_again():
    answers = [mpz(1), mpz(1), mpz(2**100)]

    class RepeatingEntropy(Entropy):
        def bits(self, count):
            return answers.pop(0)

    assert not gmpy2.is_square(SharedKey.generate(256, entropy=RepeatingEntropy()).n)
    assert not answers


def test_a_prime_that_runs_past_its_length_is_drawn_again():
    answers = [mpz(2) ** 128 - 1, mpz(1), mpz(2**100)]

    class OverflowingEntropy(Entropy):
        def bits(self, count):
            return answers.pop(0)

    assert SharedKey.generate(256, entropy=OverflowingEntropy()).n.bit_length() == 256


def test_a_key_survives_its_bytes_and_a_worker_process():
    (ciphertext,) = KEY.encrypt([42])
    for copy in (SharedKey.from_bytes(KEY.to_bytes()), pickle.loads(pickle.dumps(KEY))):
        assert copy.n == N
        assert copy.decrypt([ciphertext]) == [42]


@cases(
    "data",
    {
        "nothing": b"",
        "an octet less": KEY.to_bytes()[:-1],
        "two octets less": KEY.to_bytes()[:-2],
        "two octets more": KEY.to_bytes() + b"\x00\x00",
        "a prime twice": KEY.to_bytes()[:32] * 2,
        "zeros": bytes(64),
    },
)
def test_bytes_that_are_not_two_primes_of_one_length_are_refused(data):
    with pytest.raises(KeyFileError):
        SharedKey.from_bytes(data)


def test_the_repr_shows_nothing_of_the_key():
    assert repr(KEY) == "SharedKey(<secret>, bits=512)"


def test_a_key_too_long_to_be_checked_in_time_is_refused_by_its_length():
    with pytest.raises(KeyFileError, match=r"1026 bytes, expected .* 1024 bytes"):
        SharedKey.from_bytes(b"\x91" * 1026)
