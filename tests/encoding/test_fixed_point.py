from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hre_torch.encoding import (
    FixedPoint,
    NearestRounding,
    StochasticRounding,
    make_rounding,
)
from hre_torch.errors import NonFiniteError, TaskError

any_finite = arrays(
    np.float64,
    st.integers(0, 20),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)
formats = st.builds(FixedPoint, st.integers(0, 52), st.integers(2, 32))


@given(any_finite, formats)
def test_nearest_quantisation_agrees_with_exact_fractions(values, fixed):
    expected = [
        max(-fixed.limit, min(fixed.limit, round(Fraction(x) * 2**fixed.fraction_bits)))
        for x in values.tolist()
    ]
    assert fixed.quantise(values).tolist() == expected


@given(any_finite, formats, st.integers(0, 2**32))
def test_no_quantised_value_exceeds_the_symmetric_limit(values, fixed, seed):
    for rounding in (NearestRounding(), StochasticRounding(seed)):
        quantised = fixed.quantise(values, rounding)
        assert quantised.dtype == np.int32
        assert all(abs(int(q)) <= fixed.limit for q in quantised)


@given(any_finite, formats, st.integers(0, 2**32))
def test_stochastic_rounding_picks_one_of_the_two_neighbours(values, fixed, seed):
    quantised = fixed.quantise(values, StochasticRounding(seed))
    for x, q in zip(values.tolist(), quantised.tolist(), strict=True):
        exact = Fraction(x) * 2**fixed.fraction_bits
        exact = max(Fraction(-fixed.limit), min(Fraction(fixed.limit), exact))
        assert abs(exact - q) < 1


def test_stochastic_rounding_is_right_on_average():
    values = np.full(200_000, 0.3)
    mean = StochasticRounding(7)(values).mean()
    # Five standard deviations of a mean of Bernoulli(0.3) draws.
    assert abs(mean - 0.3) < 5 * np.sqrt(0.21 / values.size)


def test_stochastic_rounding_repeats_bit_for_bit_with_the_same_seed():
    values = np.linspace(-3, 3, 1000)
    one, two, other = (StochasticRounding(seed) for seed in (1, 1, 2))
    assert [one(values).tolist() for _ in range(3)] == [
        two(values).tolist() for _ in range(3)
    ]
    assert one(values).tolist() != other(values).tolist()


def test_stochastic_rounding_draws_afresh_at_every_call():
    rounding, values = StochasticRounding(1), np.full(1000, 0.5)
    assert rounding(values).tolist() != rounding(values).tolist()


def test_stochastic_rounding_resumes_from_its_number_of_calls():
    values = np.linspace(-3, 3, 1000)
    whole = StochasticRounding(5)
    whole(values)
    resumed = StochasticRounding(5, calls=whole.calls)
    copied = pickle.loads(pickle.dumps(whole))
    expected = whole(values).tolist()
    assert resumed(values).tolist() == expected
    assert copied(values).tolist() == expected


def test_ties_go_to_the_even_neighbour():
    fixed = FixedPoint(fraction_bits=0)
    assert fixed.quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [
        *(0, 2, 2, 0, -2)
    ]


def test_values_at_the_limit_are_kept_and_beyond_it_clipped():
    fixed = FixedPoint()
    step = 2.0**-16
    values = np.array([32767, 32767.4, 32768, 1e300, -32767, -32768, -1e300]) * step
    assert fixed.quantise(values).tolist() == [32767] * 4 + [-32767] * 3


@given(st.lists(st.integers(-(2**53), 2**53), max_size=20), formats)
def test_to_float_is_exact_up_to_53_bits(integers, fixed):
    floats = fixed.to_float(np.array(integers, dtype=np.int64))
    assert [Fraction(x) for x in floats.tolist()] == [
        Fraction(q, 2**fixed.fraction_bits) for q in integers
    ]


@given(formats, st.data())
def test_quantising_what_was_dequantised_changes_nothing(fixed, data):
    numbers = st.integers(-fixed.limit, fixed.limit)
    integers = np.array(data.draw(st.lists(numbers, max_size=20)), dtype=np.int64)
    for rounding in (NearestRounding(), StochasticRounding(0)):
        assert fixed.quantise(fixed.to_float(integers), rounding).tolist() == (
            integers.tolist()
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_counted_and_located(bad):
    values = np.array([1.0, 2.0, bad, 3.0, bad])
    with pytest.raises(NonFiniteError, match=r"2 of 5 values .* first at index 2"):
        FixedPoint().quantise(values)


@pytest.mark.parametrize("bits", [(-1, 16), (53, 16), (16, 1), (16, 33)])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(TaskError, match="_bits is"):
        FixedPoint(*bits)


def test_roundings_are_built_by_name():
    assert isinstance(make_rounding("nearest"), NearestRounding)
    assert repr(make_rounding("stochastic", 3)) == "StochasticRounding(seed=3, calls=0)"


def test_an_unknown_rounding_is_refused_by_name():
    with pytest.raises(TaskError, match="'up'; choose one of nearest, stochastic"):
        make_rounding("up")
