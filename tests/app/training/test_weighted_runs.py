"""Recipes whose participants have shares of different sizes, averaged by samples."""

from __future__ import annotations

import pytest

from hre_torch.app.data.load import load_data
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.estimate import estimate_recipe
from hre_torch.app.training.runner import Runner
from hre_torch.errors import RecipeError

UNEVEN = (
    "combine=weighted",
    "data.sizes=[6, 3, 1]",
    "data.split={dirichlet: 0.3}",
    "min_contributions=3",
    "max_additions=32",
)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_size=400)


def finished(recipe, digits, *, state=None, stop=None):
    """Run a recipe, from a state, to its end or for so many steps."""
    with Runner(recipe, digits, state=state) as runner:
        for _ in runner.steps():
            if runner.global_step == stop:
                break
        weights = [each.session.released().tolist() for each in runner.learners]
        return runner.score, weights, runner.state()


def test_an_encrypted_run_equals_the_plain_one(toy_recipe, digits):
    plain = load_recipe(toy_recipe("suite=plain", *UNEVEN))
    _, expected, _ = finished(plain, digits)
    assert all(weights == expected[0] for weights in expected)
    hybrid = load_recipe(toy_recipe("suite=hybrid", *UNEVEN))
    assert finished(hybrid, digits)[1] == expected


def test_uneven_shares_of_few_classes_train_together(toy_recipe, digits):
    every = ("train.push_every=10", "train.pull_every=10", "train.epochs=12")
    recipe = load_recipe(toy_recipe("suite=plain", *UNEVEN, *every))
    score, _, _ = finished(recipe, digits)
    assert score.accuracy > 0.4


def test_a_run_that_was_stopped_goes_on_bit_for_bit(toy_recipe, digits):
    recipe = load_recipe(toy_recipe("suite=plain", *UNEVEN))
    _, expected, _ = finished(recipe, digits)
    _, _, state = finished(recipe, digits, stop=37)
    assert any(kept.pending for kept in state.federation.sessions.values())
    assert finished(recipe, digits, state=state)[1] == expected


def test_weights_are_the_sizes_of_the_shares(toy_recipe, digits):
    recipe = load_recipe(toy_recipe("suite=plain", *UNEVEN))
    with Runner(recipe, digits) as runner:
        task = runner.federation.task
        weights = [each.optimizer._exchange._weight for each in runner.learners]
    assert task.config.max_samples == weights[0] == 240
    assert weights[1:] == [120, 40]


def test_an_estimate_knows_of_the_weight_and_of_single_releases(toy_recipe, digits):
    def predict(*changes):
        return estimate_recipe(load_recipe(toy_recipe(*changes)), digits)

    mean, weighted = predict("suite=plain"), predict("suite=plain", UNEVEN[0])
    assert weighted.upload_bytes == mean.upload_bytes + 8
    assert mean.bytes_down == mean.pulls * mean.download_bytes
    assert weighted.bytes_down == 3 * weighted.releases * weighted.download_bytes


def test_samples_without_weights_are_refused(toy_recipe):
    with pytest.raises(RecipeError, match="leave it out, or set combine"):
        load_recipe(toy_recipe("max_samples=5"))
