"""Selective SGD, the plaintext baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.accuracy.shokri import SelectiveRun, SelectiveServer, largest
from hre_torch.app.data.load import load_data
from hre_torch.app.models import build_model
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.assembly import make_batches
from hre_torch.errors import RecipeError
from hre_torch.optim.flatten import FlatView


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_size=200)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_the_largest_values_are_selected(share):
    values = np.random.default_rng(3).normal(size=1000)
    chosen = largest(values, share)
    assert chosen.size == round(share * 1000)
    left = np.delete(np.abs(values), chosen)
    assert np.abs(values[chosen]).min() >= left.max(initial=0.0)


def test_the_newest_values_are_downloaded_first():
    server = SelectiveServer(np.zeros(4))
    server.upload(np.array([3]), np.array([1.0]))
    server.upload(np.array([1]), np.array([2.0]))
    places, values = server.download(0.5)
    assert places.tolist() == [1, 3]
    assert values.tolist() == [2.0, 1.0]
    assert server.download(0.25)[0].tolist() == [1]


def test_one_participant_that_shares_everything_trains_plain_sgd(toy_recipe, digits):
    recipe = load_recipe(
        toy_recipe("participants=1", "train.lr=0.1", "train.speeds=null")
    )
    run = SelectiveRun(recipe, digits, upload=1.0)
    run.train()
    (batches,) = make_batches(recipe, digits)
    model = build_model(recipe.model.name, recipe.train.seed, **recipe.model.options)
    optimizer = recipe.train.make_optimizer(model.parameters())
    for step in range(round(recipe.train.epochs * len(batches))):
        images, labels = batches.batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    ours = torch.from_numpy(run.server.weights)
    assert torch.allclose(ours, torch.from_numpy(FlatView.of(model).read()), atol=1e-6)


def test_a_tenth_learns_and_costs_a_tenth(toy_recipe, digits):
    recipe = load_recipe(toy_recipe("train.epochs=30"))
    tenth = SelectiveRun(recipe, digits, upload=0.1)
    everything = SelectiveRun(recipe, digits, upload=1.0)
    before = tenth.score().loss
    assert tenth.train().loss < before
    everything.train()
    assert 0.09 < tenth.octets_up / everything.octets_up < 0.11
    assert tenth.octets_down == everything.octets_down


def test_a_bound_holds_for_every_value(toy_recipe, digits):
    run = SelectiveRun(load_recipe(toy_recipe()), digits, upload=0.5, bound=1e-5)
    before = run.server.weights.copy()
    run.train()
    uploads = 3 * 8
    assert np.abs(run.server.weights - before).max() <= uploads * 1e-5 * (1 + 1e-9)


def test_shares_out_of_range_are_refused(toy_recipe, digits):
    recipe = load_recipe(toy_recipe())
    for wrong in ({"upload": 0.0}, {"upload": 1.1}, {"upload": 0.1, "bound": 0.0}):
        with pytest.raises(RecipeError, match="shares must be above 0"):
            SelectiveRun(recipe, digits, **wrong)
