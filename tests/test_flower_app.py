"""The app of `recipes/flower`: Flower's own processes, ours beside them."""

from __future__ import annotations

import os
import sqlite3

import numpy as np
import pytest

from hre_torch.deployment.connection import read_weights
from tests.flower_site import Flower, furnish_recipe

pytest.importorskip("flwr", reason="needs the extra `flower`")
pytestmark = [pytest.mark.flower, pytest.mark.servers]
NAMES = ["p0", "p1", "p2", "p3"]


@pytest.fixture
def make_site(tmp_path):
    """Make a site for a recipe and start its servers: `make_site(recipe, names)`."""
    sites = []

    def make(recipe, names, *changes):
        site = furnish_recipe(tmp_path, recipe, names, *changes)
        sites.append(site)
        site.start("kts", "dsp")
        site.wait_ready()
        return site

    yield make
    for site in sites:
        for role in list(site.processes):
            site.stop(role)


def ends(records):
    return [record for record in records if record["event"] == "session end"]


def test_flower_starts_sessions_and_sees_numbers_only(make_site):
    site = make_site("digits_mlp.yaml", NAMES[:3], "train.epochs=4")
    database = site.folder / "superlink.db"
    with Flower(site, "--database", str(database)) as flower:
        for name in NAMES[:3]:
            flower.start_node(name)
        done = ends(flower.run("participants=3").wait_end(120))
    assert len(done) == 3
    assert min(end["accuracy"] for end in done) > 0.3
    assert {end["version"] for end in done} == {max(end["version"] for end in done)}
