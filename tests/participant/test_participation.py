"""One participant of a recipe, in one go or part by part."""

from __future__ import annotations

import numpy as np
import pytest

from hre_torch import Federation, load_recipe
from hre_torch.app.models import build_model
from hre_torch.app.participation import propose_recipe, train_participant
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.errors import RecipeError
from hre_torch.protocol.suites import SUITES
from tests.flower_site import ROOT

CHANGES = [
    "suite=plain",
    "participants=1",
    "min_contributions=1",
    "train.epochs=0.2",
    "train.push_every=4",
    "train.pull_every=4",
]


@pytest.mark.filterwarnings("ignore::hre_torch.errors.HREWarning")
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_one_after_the_other_make_what_one_session_makes(parts):
    """The same batches at the same learning rates, up to what rounding leaves over."""
    recipe = load_recipe(ROOT / "recipes" / "digits_mlp.yaml", CHANGES)

    def trained(parts):
        model = build_model(recipe.model.name, recipe.train.seed)
        federation = Federation.local(
            model, participants=1, suite="plain", min_contributions=1, combine="mean"
        )
        session = federation.join("p0")
        start, told = session.released(), []
        for part in range(parts):
            done = train_participant(
                recipe, session, told.append, part=part, parts=parts
            )
        return done.weights - start, told

    whole, [record] = trained(1)
    pieces, records = trained(parts)
    assert len(records) == parts
    assert records[-1]["epoch"] == record["epoch"]
    assert np.abs(whole).max() > 500
    assert np.abs(whole - pieces).max() < 50


def test_a_task_of_weights_that_others_sign_needs_a_bound():
    weighted = (*CHANGES, "combine=weighted")
    path = ROOT / "recipes" / "digits_mlp.yaml"
    parameters = load_profile("toy-insecure")
    _, roster = SUITES.get("plain").setup(["p0"], parameters, operator=bytes(32))
    with pytest.raises(RecipeError, match="size of the largest data set"):
        propose_recipe(load_recipe(path, weighted), roster, parameters, "toy-insecure")
    bounded = load_recipe(path, [*weighted, "max_samples=1437"])
    config, _ = propose_recipe(bounded, roster, parameters, "toy-insecure")
    assert config.max_samples == config.max_weight == 1437


def test_a_participant_trains_with_the_size_of_its_own_data():
    changes = [*CHANGES, "combine=weighted", "max_samples=2000"]
    recipe = load_recipe(ROOT / "recipes" / "digits_mlp.yaml", changes)
    federation = Federation.local(
        build_model(recipe.model.name, recipe.train.seed),
        participants=1,
        suite="plain",
        min_contributions=1,
        combine="weighted",
        max_samples=2000,
    )
    session = federation.join("p0")
    pull, seen = session.pull, []

    def listening():
        opened = pull()
        seen.extend(each.weight / each.count for each in opened)
        return opened

    session.pull = listening
    train_participant(recipe, session, lambda record: None, own_data=True)
    assert set(seen) == {1437}
