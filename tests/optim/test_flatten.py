"""The flat vector: who is in it, its digest, and reading and writing it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from hre_torch.errors import LayoutError, UnsupportedError
from hre_torch.optim.flatten import (
    FlatView,
    Layout,
    mean_buffers,
    trainable_parameters,
)

MIXED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight


def test_a_module_and_its_list_of_parameters_have_the_same_digest():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    assert Layout.of(model).digest == Layout.of(list(model.parameters())).digest
    assert Layout.of(model).digest == Layout.of(model.parameters()).digest


def test_names_do_not_change_the_digest():
    plain = nn.Sequential(nn.Linear(3, 2))
    named = nn.ModuleDict({"head": nn.Linear(3, 2)})
    assert Layout.of(plain).digest == Layout.of(named).digest


@pytest.mark.parametrize(
    "other",
    [
        nn.Linear(2, 3),
        nn.Linear(3, 2, dtype=torch.bfloat16),
        nn.Linear(3, 2, bias=False),
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)),
    ],
    ids=["shape", "dtype", "fewer", "more"],
)
def test_shapes_dtypes_and_numbers_change_the_digest(other):
    assert Layout.of(nn.Linear(3, 2)).digest != Layout.of(other).digest


def test_order_changes_the_digest():
    weight, bias = nn.Linear(3, 2).parameters()
    assert Layout.of([weight, bias]).digest != Layout.of([bias, weight]).digest


def test_buffers_change_the_digest():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert Layout.of(model, "local").digest != Layout.of(model, "mean").digest


def test_frozen_parameters_are_left_out_of_module_and_list_alike():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert Layout.of(model).n_params == 3
    assert Layout.of(model).digest == Layout.of(model.parameters()).digest


def test_a_tied_parameter_counts_once():
    model = Tied()
    doubled = [model.first.weight, model.second.weight, model.second.bias]
    assert Layout.of(model).n_params == 16 + 4
    assert Layout.of(doubled).digest == Layout.of(model).digest


def test_a_model_without_trainable_parameters_is_refused():
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(LayoutError, match="requires_grad"):
        Layout.of(model)


def test_a_complex_parameter_is_refused_by_name():
    model = nn.Module()
    model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UnsupportedError, match="'phase' has dtype complex64"):
        Layout.of(model)


def test_a_parameter_without_values_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"'weight'.*forward pass"):
        Layout.of(nn.LazyLinear(2))
    with pytest.raises(UnsupportedError, match=r"'weight'.*meta device"):
        Layout.of(nn.Linear(3, 2, device="meta"))


def test_mean_takes_saved_floating_point_buffers_only():
    model = nn.BatchNorm1d(2)
    model.register_buffer("cache", torch.zeros(5), persistent=False)
    buffers = mean_buffers(model)
    assert [id(each) for each in buffers] == [
        id(model.running_mean),
        id(model.running_var),
    ]
    assert Layout.of(model, "mean").n_buffers == 4


def test_mean_buffers_need_the_module():
    with pytest.raises(LayoutError, match="module=model"):
        Layout.of(nn.BatchNorm1d(2).parameters(), "mean")


def test_an_unknown_way_with_buffers_is_refused():
    with pytest.raises(LayoutError, match="'local' or 'mean'"):
        Layout.of(nn.BatchNorm1d(2), "sum")


def test_values_are_read_in_the_order_of_the_module():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.fill_(3.0)
    view = FlatView.of(model)
    assert view.n_values == 3
    assert view.read().tolist() == [1.0, 2.0, 3.0]


def test_buffers_come_after_parameters():
    model = nn.BatchNorm1d(1)
    assert FlatView.of(model, "mean").read().tolist() == [1.0, 0.0, 0.0, 1.0]


def test_writing_changes_the_tensors_in_place_and_leaves_no_gradient():
    model = nn.Linear(2, 2)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    FlatView.of(model).write(np.arange(6, dtype=np.float64))
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    assert model.weight.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_the_memory_format_of_a_tensor_does_not_change_the_order():
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    strange = weight.clone(memory_format=torch.channels_last)
    assert FlatView([strange]).read().tolist() == list(range(24))
    FlatView([strange]).write(np.arange(24.0)[::-1].copy())
    assert strange.flatten().tolist() == list(range(23, -1, -1))


def test_scalars_and_empty_tensors_have_their_place():
    view = FlatView([torch.tensor(2.0), torch.empty(0), torch.ones(2)])
    assert view.read().tolist() == [2.0, 1.0, 1.0]
    view.write(np.array([5.0, 6.0, 7.0]))
    assert view.read().tolist() == [5.0, 6.0, 7.0]


@given(arrays(np.float64, 8, elements=st.floats(-60000, 60000)))
def test_image_is_what_reading_gives_after_writing(values):
    view = FlatView([torch.zeros(2, dtype=dtype) for dtype in MIXED])
    image = view.pieces[0].image(values)
    view.write(values)
    assert view.read().tobytes() == image.tobytes()
    assert view.pieces[0].image(image).tobytes() == image.tobytes()


def test_image_touches_no_tensor():
    tensor = torch.zeros(2)
    FlatView([tensor]).pieces[0].image(np.ones(2))
    assert tensor.tolist() == [0.0, 0.0]


def test_a_view_knows_its_tensors_by_identity():
    model = nn.Linear(2, 2)
    view = FlatView.of(model)
    assert model.weight in view
    assert model.weight.clone() not in view


def test_a_list_of_parameters_may_be_an_iterator():
    model = nn.Linear(2, 2)
    assert len(trainable_parameters(iter(model.parameters()))) == 2
    assert FlatView.of(model.parameters()).n_values == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_tensors_are_read_and_written_where_they_are():
    tensor = torch.zeros(3, device="cuda", dtype=torch.bfloat16)
    view = FlatView([tensor, torch.zeros(1)])
    view.write(np.array([1.0, 2.0, 3.0, 4.0]))
    assert tensor.is_cuda
    assert view.read().tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_pieces_cover_the_vector_in_order_whatever_their_size(most):
    tensors = [torch.arange(6.0).view(2, 3), torch.arange(4.0).view(2, 2).t()]
    view = FlatView(tensors, piece_values=most)
    places = [piece.place for piece in view.pieces]
    assert [p.start for p in places[1:]] == [p.stop for p in places[:-1]]
    assert view.read().tolist() == [0, 1, 2, 3, 4, 5, 0, 2, 1, 3]
    view.write(np.arange(10.0))
    assert view.read().tolist() == list(range(10))
    assert tensors[1].tolist() == [[6, 7], [8, 9]]
