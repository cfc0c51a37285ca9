"""One participant of a recipe, in one go or part by part."""

from __future__ import annotations

import numpy as np
import pytest

from hre_torch import Federation, load_recipe
from hre_torch.deployment.participation import train_participant
from hre_torch.models import build_model
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
