from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hre_torch.app.models import build_model
from hre_torch.app.recipes import Recipe, load_recipe
from hre_torch.errors import RecipeError

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

MINIMAL = """
model: {name: digits_mlp}
data: {name: digits}
train: {epochs: 1}
"""


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return path


def message_of(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_the_six_recipes_are_shipped():
    assert [path.stem for path in SHIPPED] == [
        "cifar_cnn",
        "cifar_resnet18",
        "cifar_resnet20",
        "digits_mlp",
        "mnist_cnn",
        "mnist_mlp",
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_names_a_model_that_can_be_built(path):
    recipe = load_recipe(path)
    assert path.stem.endswith(recipe.model.name)
    build_model(recipe.model.name, recipe.train.seed, **recipe.model.options)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_has_one_speed_per_participant(path):
    recipe = load_recipe(path)
    assert len(recipe.train.speeds) == recipe.participants


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_averages_because_it_pushes_several_steps(path):
    recipe = load_recipe(path)
    assert recipe.train.push_every > 1
    assert recipe.combination == "mean"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_explains_itself_before_its_first_key(path):
    assert path.read_text().startswith("# ")


def test_what_is_left_out_has_defaults(minimal):
    recipe = load_recipe(minimal)
    assert (recipe.participants, recipe.value_bits, recipe.fraction_bits) == (4, 16, 16)
    assert recipe.data.split == "iid"
    assert recipe.min_contributions is None


def test_an_override_changes_one_key(minimal):
    changed = load_recipe(minimal, ["train.lr=0.05"])
    assert changed.train.lr == 0.05
    assert changed.model == load_recipe(minimal).model


def test_the_last_of_several_overrides_wins(minimal):
    assert load_recipe(minimal, ["participants=5", "participants=6"]).participants == 6


def test_an_override_may_hold_a_section(minimal):
    for override in ("data.split={dirichlet: 0.5}", "data.split.dirichlet=0.5"):
        assert load_recipe(minimal, [override]).data.split.dirichlet == 0.5


def test_fractions_of_an_epoch_and_small_numbers_are_read_as_numbers(minimal):
    train = load_recipe(minimal, ["train.epochs=0.5", "train.lr=1e-3"]).train
    assert (train.epochs, train.lr) == (0.5, 0.001)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_recipe_written_as_yaml_reads_back_unchanged(path, tmp_path):
    recipe = load_recipe(path, ["data.split={dirichlet: 0.5}", "clip=1.5"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert load_recipe(copy) == recipe


def test_a_recipe_cannot_be_changed(minimal):
    recipe = load_recipe(minimal)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.participants = 5
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.lr = 0.1


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("particpants=3", "particpants", "participants"),
        ("trian.lr=1", "trian", "train"),
        ("train.momentun=0.9", "train.momentun", "momentum"),
        ("data.splt=iid", "data.splt", "split"),
        ("model.option={}", "model.option", "options"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_nearest_spelling(
    minimal, override, key, nearest
):
    message = message_of(minimal, override)
    assert f"unknown key '{key}': did you mean '{nearest}'? Allowed: " in message


@pytest.mark.parametrize(
    ("override", "key", "nearest", "allowed"),
    [
        ("data.name=digit", "data.name", "digits", "cifar10, digits, imagefolder"),
        ("train.optimizer=adamm", "train.optimizer", "adam", "adagrad, adam, adamw"),
        ("train.schedule=cosin", "train.schedule", "cosine", "cosine, none, onecycle"),
        ("combine=meen", "combine", "mean", "mean, sum, weighted"),
        ("train.precision=float16", "train.precision", "bfloat16", "bfloat16, float32"),
    ],
)
def test_a_wrong_word_is_named_with_what_is_allowed_and_the_nearest_spelling(
    minimal, override, key, nearest, allowed
):
    message = message_of(minimal, override)
    assert f"{key} is " in message
    assert f"did you mean '{nearest}'? Allowed: {allowed}" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("participants=0", "participants is 0, but must be greater than or equal to 1"),
        ("participants=4.5", "participants is 4.5, but must be a valid integer"),
        ("participants=five", "participants is 'five', but must be a valid integer"),
        ("value_bits=33", "value_bits is 33, but must lie between 2 and 32"),
        ("train.lr=0", "train.lr is 0, but must be greater than 0"),
        ("train.lr=abc", "train.lr is 'abc', but must be a valid number"),
        ("train.momentum=1", "train.momentum is 1, but must be less than 1"),
        ("clip=-1", "clip is -1.0; it must be a positive number"),
        ("train.epochs=null", "train.epochs is None, but must be a valid number"),
        ("train.speeds=[1, 0]", "train.speeds.1 is 0, but must be greater than 0"),
        ("train.memory_format=1", "train.memory_format is 1, but must be 'contiguous'"),
        ("data.augment=perhaps", "data.augment is 'perhaps', but must be"),
        ("data.split={dirichlet: 0}", "data.split.dirichlet is 0, but must be greater"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(minimal, override, expected):
    assert expected in message_of(minimal, override)


def test_every_mistake_is_listed_at_once(minimal):
    message = message_of(minimal, "participants=0", "train.momentun=1", "combine=avg")
    for key in ("participants is 0", "unknown key 'train.momentun'", "combine is"):
        assert key in message


def test_a_missing_section_is_named(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("model: {name: digits_mlp}\ntrain: {epochs: 1}\n")
    assert "missing key 'data'" in message_of(path)


@pytest.mark.parametrize("override", ["participants", "=3", ""])
def test_an_override_without_a_key_or_value_is_refused(minimal, override):
    assert "is not of the form key=value" in message_of(minimal, override)


def test_a_missing_file_is_named(tmp_path):
    assert f"there is no recipe {tmp_path / 'none.yaml'}" in message_of(
        tmp_path / "none.yaml"
    )


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "a: ${b}\n"])
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    assert str(path) in message_of(path)


def test_no_message_is_the_validators_raw_dump(minimal):
    for override in ("participants=x", "train.lr=0", "extra=1", "combine=avg"):
        message = message_of(minimal, override)
        assert "errors.pydantic.dev" not in message
        assert "[type=" not in message


def test_recipes_compare_by_content(minimal):
    assert load_recipe(minimal) == Recipe.model_validate(
        {
            "model": {"name": "digits_mlp"},
            "data": {"name": "digits"},
            "train": {"epochs": 1},
        }
    )


def test_speeds_and_sizes_are_one_for_each_or_one_for_all():
    path = Path(__file__).parents[2] / "recipes" / "digits_mlp.yaml"
    assert load_recipe(path, ["train.speeds=null"]).speeds == [1.0] * 4
    one = load_recipe(path, ["train.speeds=[2.0]", "data.sizes=[3.0]"])
    assert (one.speeds, one.sizes) == ([2.0] * 4, [3.0] * 4)
    each = load_recipe(path, ["participants=2", "train.speeds=[1, 2]"])
    assert (each.speeds, each.sizes) == ([1.0, 2.0], None)


@pytest.mark.parametrize("given", ["[1.0, 2.0]", "[1, 2, 3, 4, 5]"])
def test_speeds_and_sizes_of_another_length_are_refused_with_the_number(given):
    path = Path(__file__).parents[2] / "recipes" / "digits_mlp.yaml"
    recipe = load_recipe(path, [f"train.speeds={given}", f"data.sizes={given}"])
    with pytest.raises(RecipeError, match=r"train.speeds has .*there are 4 partic"):
        _ = recipe.speeds
    with pytest.raises(RecipeError, match=r"data.sizes has .*there are 4 partic"):
        _ = recipe.sizes


def test_a_onecycle_schedule_counts_as_momentum_and_suits_adagrad(minimal):
    names = ["train.schedule=onecycle", "train.momentum=0", "train.push_every=1"]
    assert load_recipe(minimal, names).combination == "mean"
    recipe = load_recipe(minimal, [*names, "train.optimizer=adagrad"])
    assert recipe.combination == "sum"
    optimizer = recipe.train.make_optimizer([torch.nn.Parameter(torch.ones(1))])
    assert recipe.train.make_scheduler(optimizer, steps=3) is not None
