from __future__ import annotations

import hashlib
import multiprocessing
import pickle

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.entropy import SYSTEM_ENTROPY, Entropy
from hre_torch.errors import ConfigurationError


class ScriptedEntropy(Entropy):
    """Serves a stream hashed from a label, so that a test can repeat a run."""

    def __init__(self, label: bytes) -> None:
        self.label = label
        self.calls = 0

    def octets(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(self.label + self.calls.to_bytes(8, "big")).digest(
            count
        )


class FixedEntropy(Entropy):
    """Serves given byte strings, one a call."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def octets(self, count: int) -> bytes:
        answer = self.answers.pop(0)
        assert len(answer) == count
        return answer


def draw_in_child(_: int) -> bytes:
    return SYSTEM_ENTROPY.octets(16)


@given(st.integers(1, 600))
def test_bits_stay_below_the_power_of_two(count):
    assert 0 <= SYSTEM_ENTROPY.bits(count) < mpz(1) << count


def test_bits_use_every_bit_of_their_width():
    seen = mpz(0)
    for _ in range(200):
        seen |= SYSTEM_ENTROPY.bits(13)
    assert seen == (1 << 13) - 1


@given(st.integers(1, 1 << 300))
def test_below_stays_below_its_bound(bound):
    assert 0 <= SYSTEM_ENTROPY.below(mpz(bound)) < bound


def test_below_draws_again_instead_of_reducing():
    entropy = FixedEntropy(b"\xe0", b"\xc0", b"\x40")
    # The top three bits count: 7 and 6 are too large for the bound 5, 2 is not.
    assert entropy.below(mpz(5)) == 2
    assert not entropy.answers


def test_below_reaches_each_residue_about_equally_often():
    entropy = ScriptedEntropy(b"residues")
    counts = [0] * 5
    for _ in range(5000):
        counts[int(entropy.below(mpz(5)))] += 1
    # Chi-square with 4 degrees of freedom exceeds 23.5 once in 10,000 runs.
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 23.5


def test_an_exponent_is_never_zero():
    entropy = FixedEntropy(b"\x00", b"\x05")
    assert entropy.exponent(8) == 5


def test_an_exponent_may_have_a_clear_top_bit():
    entropy = ScriptedEntropy(b"top")
    tops = {int(entropy.exponent(64) >> 63) for _ in range(64)}
    assert tops == {0, 1}


@given(st.integers(2, 300))
def test_an_even_exponent_is_even_and_not_zero(bits):
    drawn = SYSTEM_ENTROPY.even_exponent(bits)
    assert drawn % 2 == 0
    assert 2 <= drawn < mpz(1) << bits


@given(st.integers(2, 5000))
def test_a_unit_is_coprime_to_its_modulus(modulus):
    drawn = SYSTEM_ENTROPY.unit(mpz(modulus))
    assert 1 <= drawn < modulus
    assert gmpy2.gcd(drawn, modulus) == 1


def test_octets_have_the_length_asked_for():
    assert len(SYSTEM_ENTROPY.octets(33)) == 33


def test_a_subclass_that_overrides_octets_scripts_every_draw():
    def draws(entropy):
        modulus = mpz(10**40)
        return (
            entropy.bits(77),
            entropy.below(modulus),
            entropy.exponent(64),
            entropy.even_exponent(64),
            entropy.unit(modulus),
        )

    first, second = (draws(ScriptedEntropy(b"script")) for _ in range(2))
    assert first == second
    assert first != draws(ScriptedEntropy(b"other"))


# Python 3.12 and later warn about fork beside threads; the fork is what is tested.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_never_draw_the_same_bytes():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        drawn = pool.map(draw_in_child, range(64), chunksize=1)
    drawn += [draw_in_child(0) for _ in range(64)]
    assert len(set(drawn)) == len(drawn)


def test_an_entropy_holds_no_state_that_pickling_could_copy():
    assert not vars(SYSTEM_ENTROPY)
    assert isinstance(pickle.loads(pickle.dumps(SYSTEM_ENTROPY)), Entropy)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: SYSTEM_ENTROPY.octets(-1),
        lambda: SYSTEM_ENTROPY.bits(0),
        lambda: SYSTEM_ENTROPY.below(mpz(0)),
        lambda: SYSTEM_ENTROPY.exponent(0),
        lambda: SYSTEM_ENTROPY.even_exponent(1),
        lambda: SYSTEM_ENTROPY.unit(mpz(1)),
    ],
    ids=["octets", "bits", "below", "exponent", "even_exponent", "unit"],
)
def test_an_empty_range_is_refused(draw):
    with pytest.raises(ConfigurationError):
        draw()
