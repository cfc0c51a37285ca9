"""A recipe whose network and data do not fit is refused before anything is made."""

from __future__ import annotations

import pytest

from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.assembly import load_recipe_data
from hre_torch.app.training.launch import Training
from hre_torch.errors import RecipeError


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["model.name=mnist_mlp"], r"cannot see an image of 'digits'.*\(1, 8, 8\)"),
        (["model.options.classes=3"], r"'digits' has 10 classes; set .*classes=10"),
        (["model.options.hidden=many"], r"cannot be built so"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(
    toy_recipe, tmp_path, changes, says
):
    recipe = load_recipe(toy_recipe(*changes))
    with pytest.raises(RecipeError, match=says):
        Training.start(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_outputs_than_classes_do_no_harm(toy_recipe):
    load_recipe_data(load_recipe(toy_recipe("model.options.classes=12")))
