"""Three layers that stay in step: parameters = image(base + local)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.errors import NonFiniteError
from hre_torch.optim.flatten import FlatView
from hre_torch.optim.local_model import LocalModel

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def fixed(values):
    """Return a base that never changes."""
    values = np.asarray(values, dtype=np.float64)
    return lambda place: values[place]


GRID = st.integers(-(2**18), 2**18).map(lambda integer: integer / 2**16)
CHANGES = st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(base=GRID, changes=CHANGES)
def test_after_absorbing_the_parameters_are_the_image_of_base_and_local(
    dtype, base, changes
):
    tensor = torch.zeros(1, dtype=dtype)
    model = LocalModel(FlatView([tensor]), fixed([base]))
    for change in changes:
        tensor.add_(change)
        before = tensor.clone()
        model.absorb()
        model.show()
        if dtype is torch.float64:
            assert torch.allclose(tensor, before, rtol=0.0, atol=2.0**-50)
        else:
            assert torch.equal(tensor, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(base=GRID)
def test_without_training_nothing_becomes_local(dtype, base):
    tensor = torch.zeros(1, dtype=dtype)
    model = LocalModel(FlatView([tensor]), fixed([base]))
    model.absorb()
    assert model.local.tolist() == [0.0]


def test_the_coarse_rounding_of_bfloat16_is_never_taken_for_training():
    tensor = torch.zeros(1, dtype=torch.bfloat16)
    base = np.array([1.0 + 2.0**-12])
    model = LocalModel(FlatView([tensor]), fixed(base))
    assert tensor.item() == 1.0
    tensor.add_(0.5)
    model.absorb()
    assert model.local.tolist() == [0.5]


def test_a_new_base_keeps_what_is_local():
    tensor = torch.zeros(2)
    known = np.zeros(2)
    model = LocalModel(FlatView([tensor]), lambda place: known[place])
    tensor.add_(0.25)
    model.absorb()
    known += [1.0, 2.0]
    model.show()
    assert tensor.tolist() == [1.25, 2.25]


def test_a_model_that_is_not_finite_is_put_back():
    tensor = torch.zeros(3)
    model = LocalModel(FlatView([tensor]), fixed(np.ones(3)))
    tensor.add_(0.5)
    model.absorb()
    tensor[1] = float("nan")
    tensor[2] = float("inf")
    with pytest.raises(NonFiniteError, match="2 of 3"):
        model.absorb()
    assert tensor.tolist() == [1.5, 1.5, 1.5]
    assert model.local.tolist() == [0.5, 0.5, 0.5]
