from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.ring_parameters import (
    RingParameters,
    choose_ring_parameters,
    effective_width,
)
from hre_torch.errors import TaskError


@pytest.mark.parametrize(("b", "K"), [(16, 64), (15, 128), (20, 3), (12, 128), (22, 1)])
def test_these_pairs_fit(b, K):
    assert RingParameters(b, K).limit == 2 ** (b - 1) - 1


@pytest.mark.parametrize(("b", "K"), [(16, 65), (15, 129), (20, 5), (22, 2)])
def test_one_addition_too_many_does_not_fit(b, K):
    with pytest.raises(TaskError, match=f"value_bits={b} with K={K} does not fit"):
        RingParameters(b, K)


@given(b=st.integers(12, 22), K=st.integers(1, 3000))
def test_what_fits_never_wraps_and_what_does_not_fit_could(b, K):
    largest = 2**10 * K * (2 ** (b - 1) - 1) + 512
    try:
        RingParameters(b, K)
    except TaskError:
        assert largest >= 2**31
    else:
        assert largest < 2**31


def test_the_symmetric_range_is_what_makes_64_additions_of_16_bits_fit():
    assert 2**10 * 64 * 2**15 == 2**31


def test_the_remedy_names_both_ways_out():
    with pytest.raises(TaskError, match="use value_bits=15 or K=64"):
        RingParameters(16, 128)


def test_the_remedy_for_far_too_many_additions_is_fewer():
    with pytest.raises(TaskError, match="use K=64, or fewer additions"):
        RingParameters(16, 10_000)


@pytest.mark.parametrize("b", [0, 11, 23])
def test_bits_out_of_range_are_refused(b):
    with pytest.raises(TaskError, match="use 12 to 22 bits"):
        RingParameters(b, 1)
    with pytest.raises(TaskError, match="use 12 to 22 bits"):
        choose_ring_parameters(1000, value_bits=b)


def test_no_additions_are_refused():
    with pytest.raises(TaskError, match="at least 1"):
        RingParameters(16, 0)


@pytest.mark.parametrize(
    ("given_b", "given_K", "b", "K"),
    [
        (None, None, 16, 64),
        (16, None, 16, 64),
        (15, None, 15, 128),
        (14, None, 14, 139),
        (20, None, 20, 4),
        (None, 3, 16, 3),
        (None, 64, 16, 64),
        (None, 65, 15, 65),
        (None, 128, 15, 128),
        (None, 139, 14, 139),
        (13, 100, 13, 100),
    ],
)
def test_the_chooser_trades_bits_against_additions(given_b, given_K, b, K):
    chosen = choose_ring_parameters(10**7, value_bits=given_b, max_additions=given_K)
    assert chosen == RingParameters(b, K)


def test_the_chooser_refuses_too_much_noise():
    with pytest.raises(TaskError, match=r"too much noise.*Use K=139 or less"):
        choose_ring_parameters(10**7, value_bits=14, max_additions=140)


def test_the_chooser_refuses_what_does_not_fit():
    with pytest.raises(TaskError, match="use value_bits=15 or K=64"):
        choose_ring_parameters(1000, value_bits=16, max_additions=65)


def test_the_chooser_refuses_an_empty_update():
    with pytest.raises(TaskError, match="0 values"):
        choose_ring_parameters(0)


@given(n=st.integers(1, 10**9), b=st.integers(12, 22))
def test_what_is_chosen_fails_at_most_once_in_2_to_the_40_releases(n, b):
    chosen = choose_ring_parameters(n, value_bits=b)
    assert chosen.failure_log2(n) <= -40


def test_the_failure_bound_exceeds_the_true_gaussian_tail():
    n, K = 10**7, 128
    parameters = RingParameters(15, K)
    tail = math.erfc(512 / (4.6 * math.sqrt(2 * K)))
    true = math.log2(parameters.words(n) * tail)
    assert true < parameters.failure_log2(n) < true + 5
    assert -46 < parameters.failure_log2(n) < -45


@pytest.mark.parametrize(
    ("n_values", "blocks", "words"),
    [(0, 0, 0), (1, 1, 2048), (2045, 1, 2048), (2046, 2, 2052), (109_386, 54, 109_548)],
)
def test_words_are_values_and_three_per_block_and_the_first_block_is_whole(
    n_values, blocks, words
):
    assert RingParameters().blocks(n_values) == blocks
    assert RingParameters().words(n_values) == words


def test_a_million_values_take_at_most_4_05_bytes_each():
    assert 4 * RingParameters().words(10**6) / 10**6 <= 4.05


def test_the_residual_limit_is_ten_deviations():
    assert RingParameters().residual_limit(1) == 46
    assert RingParameters().residual_limit(64) == 368


def test_the_mean_square_of_honest_noise_stays_below_its_limit():
    # Chernoff's bound for a sum of 2048 squares, which the docstring rounds up.
    assert -2048 * (0.5 - math.log(1.5)) / 2 / math.log(2) < -139
    assert RingParameters().mean_square_limit(64) == pytest.approx(1.5 * 64 * 4.6**2)
    assert 1024**2 / 12 / RingParameters(12, 139).mean_square_limit(139) > 19


@pytest.mark.parametrize(("h", "width"), [(2, 2.3), (3, 2.656), (10**6, 3.2527)])
def test_the_effective_width_grows_with_the_honest(h, width):
    assert effective_width(h) == pytest.approx(width, rel=1e-3)


def test_the_effective_width_is_that_of_the_theorem():
    eta, others = 4.6, 4.6 * math.sqrt(4)
    assert effective_width(5) == pytest.approx(
        (2 * (1 / eta**2 + 1 / others**2)) ** -0.5
    )


def test_the_modulus_is_inside_the_standard_at_the_effective_width():
    # Homomorphic Encryption Security Standard (2018): N = 2048, secret drawn from the
    # error distribution of width 8 / sqrt(2 pi), classical attacks.
    largest_log2_q = {128: 56, 192: 39, 256: 31}
    standard_width = 8 / math.sqrt(2 * math.pi)
    equivalent = 32 + math.log2(standard_width / effective_width(2))
    assert equivalent < 32.5 < largest_log2_q[192]


def test_the_smoothing_condition_of_the_theorem_holds():
    needed = math.sqrt(math.log(2 * 2048 * (1 + 2.0**63))) / math.pi
    assert effective_width(2) >= needed


def test_one_honest_contributor_is_refused():
    with pytest.raises(TaskError, match="at least 2"):
        effective_width(1)
