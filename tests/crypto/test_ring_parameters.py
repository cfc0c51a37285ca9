from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.rlwe.parameters import RingParameters
from hre_torch.errors import TaskError


@pytest.mark.parametrize(("b", "K"), [(16, 64), (12, 64), (20, 3), (22, 1)])
def test_these_pairs_fit(b, K):
    assert RingParameters(b, K).limit == 2 ** (b - 1) - 1


@pytest.mark.parametrize(("b", "K"), [(17, 33), (20, 5), (22, 2)])
def test_one_addition_too_many_does_not_fit(b, K):
    with pytest.raises(TaskError, match=f"value_bits={b} with K={K} does not fit"):
        RingParameters(b, K)


@given(b=st.integers(12, 22), K=st.integers(1, 64))
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
    with pytest.raises(TaskError, match="use value_bits=16 or K=4"):
        RingParameters(20, 64)


@given(b=st.integers(12, 22), K=st.integers(1, 64))
def test_both_ways_out_fit(b, K):
    try:
        RingParameters(b, K)
    except TaskError as error:
        bits, most = str(error).split("use value_bits=")[1].split(" or K=")
        RingParameters(int(bits), K)
        RingParameters(b, int(most))


@pytest.mark.parametrize("b", [0, 11, 23])
def test_bits_out_of_range_are_refused(b):
    with pytest.raises(TaskError, match="use 12 to 22 bits"):
        RingParameters(b, 1)


@pytest.mark.parametrize("b", [12, 15, 16])
@pytest.mark.parametrize("K", [0, 65, 128])
def test_fewer_than_1_or_more_than_64_additions_are_refused_however_few_bits(b, K):
    with pytest.raises(TaskError, match=f"K\\) is {K}, but .* adds 1 to 64.*use K=64"):
        RingParameters(b, K)


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
    assert RingParameters().residual_limit(1) == 60
    assert RingParameters().residual_limit(64) == 480


def test_the_mean_square_of_honest_noise_stays_below_its_limit():
    # Chernoff's bound for a sum of 2048 squares, which the docstring rounds up.
    assert -2048 * (0.5 - math.log(1.5)) / 2 / math.log(2) < -139
    assert RingParameters().mean_square_limit(64) == pytest.approx(1.5 * 64 * 6**2)
    assert 1024**2 / 12 / RingParameters().mean_square_limit(64) > 25
