"""Encrypted training equals plain training bit for bit, on the shipped recipes.

The moduli are real ones (`rsa2048`), except for `phong`, whose every plaintext costs a
full-size power. What is shortened here runs at full size and length where it is slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hre_torch.app.data.load import Data
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.assembly import load_recipe_data
from hre_torch.app.training.runner import Runner

RECIPES = Path(__file__).parent.parent / "recipes"


def weights_after(
    recipe: str, changes: Sequence[str], data: Data | None, pushes: int
) -> list[torch.Tensor]:
    """Run a recipe until so many pushes were made; return everybody's parameters."""
    chosen = load_recipe(RECIPES / recipe, changes)
    data = load_recipe_data(chosen) if data is None else data
    with Runner(chosen, data) as runner:
        for _ in runner.steps():
            done = sum(each.session.statistics.pushes for each in runner.learners)
            if done >= pushes:
                break
        assert max(each.session.version for each in runner.learners) > 0
        return [
            parameter.detach().clone()
            for learner in runner.learners
            for parameter in learner.model.parameters()
        ]


def assert_equal(recipe: str, suites: dict[str, int], changes: Sequence[str]) -> None:
    data = load_recipe_data(load_recipe(RECIPES / recipe, changes))
    for suite, pushes in suites.items():
        same = (*changes, "min_contributions=3", "max_additions=64")
        plain = weights_after(recipe, [*same, "suite=plain"], data, pushes)
        other = weights_after(recipe, [*same, f"suite={suite}"], data, pushes)
        assert len(plain) == len(other) > 0
        assert all(torch.equal(x, y) for x, y in zip(plain, other, strict=True)), suite


EVERY_PUSH = 10**9
WITH_LANES = [
    pytest.param(suite, 8, marks=pytest.mark.gate) for suite in ("paper", "gated")
]


@pytest.mark.parametrize("suite", ["paper", "gated", "hybrid"])
def test_the_whole_digits_recipe(suite):
    assert_equal("digits_mlp.yaml", {suite: EVERY_PUSH}, ["train.epochs=1"])


def test_the_whole_digits_recipe_under_a_shared_key():
    changes = ["train.epochs=6", "profile=toy-insecure"]
    assert_equal("digits_mlp.yaml", {"phong": EVERY_PUSH}, changes)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["paper", "phong", "gated", "hybrid"])
def test_the_whole_digits_recipe_at_full_length(suite):
    assert_equal("digits_mlp.yaml", {suite: EVERY_PUSH}, [])


@pytest.mark.slow
def test_more_than_two_hundred_releases_of_hybrid():
    changes = [
        "train.epochs=48",
        "train.push_every=3",
        "train.pull_every=6",
        "train.batch_size=32",
        "min_contributions=3",
        "max_additions=64",
        "profile=toy-insecure",
    ]
    data = load_recipe_data(load_recipe(RECIPES / "digits_mlp.yaml", changes))
    found = {}
    for suite in ("plain", "hybrid"):
        chosen = load_recipe(RECIPES / "digits_mlp.yaml", [*changes, f"suite={suite}"])
        with Runner(chosen, data) as runner:
            for _ in runner.steps():
                pass
            first = runner.learners[0]
            assert first.session.version >= 200
            found[suite] = first.session.released()
    assert (found["plain"] == found["hybrid"]).all()


@pytest.mark.data
@pytest.mark.parametrize(
    ("suite", "pushes"), [*WITH_LANES, ("phong", 5), ("hybrid", 20)]
)
def test_the_first_pushes_of_the_mnist_recipe(data_root, suite, pushes):
    changes = [
        "train.push_every=2",
        "train.pull_every=2",
        f"data.root={data_root}",
        "data.train_size=2000",
        "model.options.hidden=[8]",
    ]
    if suite == "phong":
        changes.append("profile=toy-insecure")
    assert_equal("mnist_mlp.yaml", {suite: pushes}, changes)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("suite", "pushes"), [("paper", 20), ("phong", 5), ("gated", 20), ("hybrid", 20)]
)
def test_the_first_pushes_of_the_mnist_recipe_at_real_size(data_root, suite, pushes):
    changes = [f"data.root={data_root}", "train.pull_every=5"]
    assert_equal("mnist_mlp.yaml", {suite: pushes}, changes)


@pytest.mark.parametrize(("suite", "pushes"), [*WITH_LANES, ("hybrid", 20)])
def test_the_first_pushes_of_the_cifar_recipe(tmp_path, suite, pushes):
    compare_on_pictures(tmp_path, suite, pushes, width=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "pushes"), [("paper", 8), ("gated", 8), ("hybrid", 20)]
)
def test_the_first_pushes_of_the_cifar_recipe_at_real_size(tmp_path, suite, pushes):
    compare_on_pictures(tmp_path, suite, pushes, width=32)


def compare_on_pictures(tmp_path: Path, suite: str, pushes: int, width: int) -> None:
    # Coloured noise in the place of pictures: bits are compared, not accuracy.
    noise = torch.Generator().manual_seed(0)
    for part, count in (("train", 40), ("test", 4)):
        for label in ("bird", "ship"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                write_picture(folder / f"{number}.png", noise)
    changes = [
        "data.name=imagefolder",
        f"data.root={tmp_path}",
        "train.batch_size=4",
        "train.epochs=12",
        "train.push_every=1",
        "train.pull_every=2",
        f"model.options.width={width}",
    ]
    assert_equal("cifar_cnn.yaml", {suite: pushes}, changes)


def write_picture(path: Path, noise: torch.Generator) -> None:
    from torchvision.io import write_png

    pixels = torch.randint(0, 256, (3, 32, 32), generator=noise, dtype=torch.uint8)
    write_png(pixels, str(path))
