"""The literal of a task: one place for names, types and defaults."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from hre_torch.app.recipes import Recipe
from hre_torch.errors import TaskError
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.task_options import TaskOptions
from tests.tasks import plain_config

NAMES = [field.name for field in dataclasses.fields(TaskOptions)]
TEXTS = ("suite", "profile")
FOUR = ("a", "b", "c", "d")


def test_a_recipe_has_every_option_at_its_top_level_with_the_same_default():
    for name in NAMES:
        assert Recipe.model_fields[name].default == getattr(TaskOptions(), name)


def test_a_tasks_numbers_have_no_defaults_of_their_own():
    optional = [f.name for f in msgspec.structs.fields(TaskConfig) if not f.required]
    assert optional == ["format"]


def test_what_nobody_chose_follows_from_suite_and_participants():
    config = plain_config(FOUR, 5)
    assert (config.max_additions, config.pending_limit) == (256, 25)
    assert (config.max_per_identity, config.staleness_bound) == (1, 50)
    assert plain_config(FOUR, 5, max_per_identity=2).pending_limit == 50
    assert plain_config(FOUR, 5, max_per_identity=9).pending_limit == 64
    assert plain_config(FOUR, 5, staleness_bound=1).pending_limit == 1
    assert (config.min_contributions, config.assumed_colluders) == (3, 1)
    for suite in ("plain", "hybrid"):
        assert TaskOptions(suite=suite).contributions(8) == 4
    assert TaskOptions(suite="plain").contributions(2) == 2
    assert plain_config(FOUR, 5, min_contributions=4).assumed_colluders == 2


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TEXTS])
def test_an_option_of_the_wrong_kind_is_refused_by_name(name):
    with pytest.raises(TaskError, match=f"{name} is"):
        TaskOptions(**{name: [1]})
