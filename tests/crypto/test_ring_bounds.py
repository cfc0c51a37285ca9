"""The figures behind eta = 6 and K <= 64, in exact or much longer arithmetic."""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from gmpy2 import mpz

from hre_torch.crypto.rlwe.parameters import (
    DELTA_BITS,
    MOST_ADDITIONS,
    RingParameters,
    effective_width,
    hint_epsilon_log2,
)
from hre_torch.crypto.rlwe.ring import RING_DIMENSION
from hre_torch.crypto.rlwe.sampling import ETA, TAIL_BOUND
from hre_torch.errors import TaskError

HALF_DELTA = 1 << (DELTA_BITS - 1)
DIGITS = 120
PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510"
    "58209749445923078164062862089986280348253421170679"
)
UNIT = 1 << 320
SLOT = 720


def log2(number: Decimal) -> float:
    with localcontext() as context:
        context.prec = DIGITS
        return float(number.ln() / Decimal(2).ln())


@functools.cache
def gaussian_sum(doublings: int) -> tuple[list[int], int]:
    """Bound the distribution of a sum of 2^doublings Gaussian numbers from above.

    Returns:
        Weights at scale 2^320, each rounded up, and the offset of 0 in them.
    """
    with localcontext() as context:
        context.prec = DIGITS
        width = 2 * Decimal(ETA) ** 2
        exact = [
            (Decimal(-x * x) / width).exp() for x in range(-TAIL_BOUND, TAIL_BOUND + 1)
        ]
        total = sum(exact)
        weights = [int(w / total * UNIT) + 1 for w in exact]
    for _ in range(doublings):
        # One product of large integers: every coefficient has a slot of 720 bits.
        slots = b"".join(w.to_bytes(90, "little") for w in weights)
        packed = mpz(int.from_bytes(slots, "little"))
        octets = int(packed * packed).to_bytes(180 * len(weights), "little")
        squares = (
            int.from_bytes(octets[i : i + 90], "little")
            for i in range(0, 90 * (2 * len(weights) - 1), 90)
        )
        weights = [square // UNIT + 1 for square in squares]
    return weights, len(weights) // 2


def tail_log2(doublings: int, least: int) -> float:
    """Return log2 of P(|sum| >= least), bounded from above."""
    weights, middle = gaussian_sum(doublings)
    return log2(Decimal(2 * sum(weights[middle + least :])) / Decimal(UNIT))


def test_the_distribution_of_a_sum_adds_up_to_one_and_has_its_width():
    for doublings in range(7):
        weights, middle = gaussian_sum(doublings)
        assert abs(Fraction(sum(weights), UNIT) - 1) < Fraction(1, 1 << 250)
        square = sum(w * (x - middle) ** 2 for x, w in enumerate(weights))
        assert square / UNIT == pytest.approx(ETA**2 * 2**doublings, rel=1e-12)


def test_a_release_of_10_to_the_7_values_decodes_wrongly_once_in_2_to_the_58():
    parameters = RingParameters(16, MOST_ADDITIONS)
    bound = parameters.failure_log2(10**7)
    assert -58.5 < bound < -57.5
    exact = tail_log2(6, HALF_DELTA) + math.log2(parameters.words(10**7))
    assert -62.5 < exact < bound


@pytest.mark.parametrize("doublings", [5, 6])
def test_the_failure_bound_exceeds_the_exact_tail(doublings):
    parameters = RingParameters(16, 2**doublings)
    exact = tail_log2(doublings, HALF_DELTA) + math.log2(parameters.words(10**6))
    assert exact < parameters.failure_log2(10**6)


@pytest.mark.parametrize("doublings", range(7))
def test_an_honest_sum_exceeds_ten_deviations_once_in_2_to_the_71_words(doublings):
    limit = RingParameters().residual_limit(2**doublings)
    assert tail_log2(doublings, limit + 1) < -71
    assert -71 + math.log2(RingParameters().words(10**7)) < -47


def test_ten_deviations_of_the_largest_sum_stay_below_half_a_step():
    assert RingParameters().residual_limit(MOST_ADDITIONS) < HALF_DELTA


def test_a_width_of_6_and_a_half_would_exceed_half_a_step():
    assert 10 * 6.5 * math.sqrt(MOST_ADDITIONS) > HALF_DELTA


def test_any_update_of_less_than_2_to_the_40_values_fails_once_in_2_to_the_40():
    assert RingParameters().failure_log2(2**40 - 2**32) < -40


@pytest.mark.parametrize(("h", "floor"), [(2, -116), (3, -159), (4, -180), (64, -240)])
def test_epsilon_is_that_of_the_smoothing_condition(h, floor):
    # eta_h >= sqrt(ln(2 N (1 + 1 / epsilon))) / pi, solved with 120 digits.
    with localcontext() as context:
        context.prec = DIGITS
        width_squared = Decimal(ETA) ** 2 * (h - 1) / (2 * h)
        ratio = (PI**2 * width_squared).exp() / (2 * RING_DIMENSION)
        epsilon = 1 / (ratio - 1)
    assert hint_epsilon_log2(h) == pytest.approx(log2(epsilon), abs=1e-9)
    assert floor - 1 < hint_epsilon_log2(h) < floor + 1


def test_epsilon_bounds_what_the_integers_miss_at_the_effective_width():
    # Smoothness itself: rho_{1/s}(Z^N minus 0) with s = eta_h sqrt(2 pi) / sqrt(2).
    with localcontext() as context:
        context.prec = DIGITS
        exponent = PI**2 * Decimal(ETA) ** 2 / 4
        theta = 1 + 2 * sum((-exponent * k * k).exp() for k in range(1, 4))
        missed = (RING_DIMENSION * theta.ln()).exp() - 1
    assert log2(missed) <= hint_epsilon_log2(2) < -116
    assert log2(missed) == pytest.approx(hint_epsilon_log2(2), abs=1e-6)


def test_thousands_of_blocks_lose_less_than_2_to_the_minus_100():
    blocks = RingParameters().blocks(10**8)
    assert hint_epsilon_log2(2) + math.log2(blocks + 1) < -100


@pytest.mark.parametrize(("h", "width"), [(2, 3.0), (3, 3.4641), (10**6, 4.2426)])
def test_the_effective_width_grows_with_the_honest(h, width):
    assert effective_width(h) == pytest.approx(width, rel=1e-3)


def test_the_effective_width_is_that_of_the_theorem():
    others = ETA * math.sqrt(4)
    assert effective_width(5) == pytest.approx(
        (2 * (1 / ETA**2 + 1 / others**2)) ** -0.5
    )


def test_the_modulus_is_inside_the_standard_at_the_effective_width():
    # Homomorphic Encryption Security Standard (2018): N = 2048, secret drawn from the
    # error distribution of width 8 / sqrt(2 pi), classical attacks.
    largest_log2_q = {128: 56, 192: 39, 256: 31}
    standard_width = 8 / math.sqrt(2 * math.pi)
    equivalent = 32 + math.log2(standard_width / effective_width(2))
    assert equivalent < 32.1 < largest_log2_q[192]


@pytest.mark.parametrize("of", [effective_width, hint_epsilon_log2])
def test_one_honest_contributor_is_refused(of):
    with pytest.raises(TaskError, match="at least 2"):
        of(1)
