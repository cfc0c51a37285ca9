"""`hre_torch/crypto/README.md` says what is computed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import hre_torch.crypto
from hre_torch.app.models import build_model
from hre_torch.app.recipes import load_recipe
from hre_torch.crypto.dcr.fixed_base import RECIPIENT_BYTES
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.rlwe.parameters import (
    RingParameters,
    effective_width,
    hint_epsilon_log2,
)
from hre_torch.crypto.rlwe.sampling import ETA, TAIL_BOUND
from hre_torch.optim.flatten import Layout
from hre_torch.protocol.suite import Workload
from hre_torch.protocol.suites import SUITES

PAGE = Path(hre_torch.crypto.__path__[0], "README.md").read_text(encoding="utf-8")
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def row(path: Path) -> str:
    """Compute the row of a recipe."""
    recipe = load_recipe(path)
    suite = SUITES.get("hybrid")
    with torch.device("meta"):
        model = build_model(
            recipe.model.name, recipe.train.seed, **recipe.model.options
        )
    layout = Layout.of(model.to_empty(device="cpu"), recipe.buffers)
    n_values = layout.n_params + layout.n_buffers + (recipe.combination == "weighted")
    t = recipe.min_contributions or suite.default_contributions(recipe.participants)
    c = t - 2 if recipe.assumed_colluders is None else recipe.assumed_colluders
    k = recipe.max_additions or suite.default_max_additions
    ring = RingParameters(recipe.value_bits, k)
    elements = ring.blocks(n_values) + 1
    epsilon = hint_epsilon_log2(t - c)
    cells = (
        f"`{path.stem}`",
        f"{n_values:,}",
        recipe.value_bits,
        k,
        t - c,
        f"{effective_width(t - c):.2f}",
        f"2^{epsilon:.0f}",
        f"{elements:,}",
        f"2^{epsilon + math.log2(elements):.0f}",
        f"2^{ring.failure_log2(n_values):.0f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_page_states_width_epsilon_and_failure_of_every_recipe(path):
    assert row(path) in PAGE.splitlines()


@pytest.mark.parametrize("profile", ["rsa2048", "demo3072"])
def test_the_page_states_the_memory_of_a_recipients_tables(profile):
    plan = SUITES.get("hybrid").plan(load_profile(profile), Workload(1000, 1, 16, 64))
    each = plan.recipient_bytes
    cells = profile, plan.plaintexts, each / 1e6, RECIPIENT_BYTES // each
    assert "| `{}` | {} | {:.1f} MB | {} |".format(*cells) in PAGE.splitlines()
    assert f"{RECIPIENT_BYTES >> 30} GiB per process" in PAGE


def test_the_page_states_the_width_and_where_it_is_cut_off():
    assert f"width eta = {ETA:.0f}, cut off at {TAIL_BOUND}" in PAGE
    assert (
        f"width {effective_width(3):.2f}, epsilon 2^{hint_epsilon_log2(3):.0f}" in PAGE
    )
