"""The weights of FedAsync against its formulas."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.errors import UnsupportedError
from hre_torch.optim.staleness import Constant, Hinge, Polynomial

WEIGHTS = [Constant(), Polynomial(0.5), Polynomial(2.0), Hinge(10.0, 4), Hinge(0.5, 0)]


@pytest.mark.parametrize("weight", WEIGHTS, ids=repr)
def test_a_fresh_update_counts_in_full(weight):
    assert weight(0) == 1.0


@pytest.mark.parametrize("weight", WEIGHTS, ids=repr)
@given(st.integers(0, 10**6))
def test_weights_stay_in_range_and_never_grow(weight, staleness):
    assert 0.0 < weight(staleness + 1) <= weight(staleness) <= 1.0


def test_polynomial_follows_its_formula():
    assert Polynomial(0.5)(8) == pytest.approx(1 / 3)
    assert Polynomial(2.0)(1) == pytest.approx(1 / 4)


def test_hinge_is_flat_up_to_b_and_a_hyperbola_after_it():
    hinge = Hinge(a=10.0, b=4)
    assert [hinge(d) for d in range(5)] == [1.0] * 5
    assert hinge(6) == pytest.approx(1 / 21)


@pytest.mark.parametrize("weight", WEIGHTS, ids=repr)
def test_weights_survive_pickling(weight):
    assert pickle.loads(pickle.dumps(weight)) == weight


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Polynomial(0.0), "Polynomial.a"),
        (lambda: Hinge(a=-1.0), "Hinge.a"),
        (lambda: Hinge(b=-1), "Hinge.b"),
    ],
    ids=["polynomial a", "hinge a", "hinge b"],
)
def test_numbers_out_of_range_are_refused_by_name(make, name):
    with pytest.raises(UnsupportedError, match=name):
        make()
