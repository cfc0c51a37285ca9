"""A participant that somebody else starts: its files, one session at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hre_torch.app.node import NodeFiles, open_session
from hre_torch.errors import AggregatorError, ConfigurationError
from tests.sites import furnish

NODE = {
    "key": "/a/alice.key",
    "roster": "/a/roster.json",
    "passphrase": "/a/passphrase",
    "recipe": "/a/recipe.yaml",
}


def test_a_node_names_its_own_files_and_the_run_names_the_dsp():
    files = NodeFiles.of(NODE | {"initial": "/a/i.npy"}, {"dsp": "http://dsp"})
    assert files.dsp == "http://dsp"
    assert files.key == Path("/a/alice.key")
    assert files.initial == Path("/a/i.npy")
    assert files.state is None


def test_a_node_may_know_better_where_the_dsp_is():
    files = NodeFiles.of(NODE | {"dsp": "http://near"}, {"dsp": "http://far"})
    assert files.dsp == "http://near"


def test_what_a_nodes_settings_lack_is_named():
    with pytest.raises(ConfigurationError, match="lack roster, recipe"):
        NodeFiles.of(
            {"key": "k", "passphrase": "p", "roster": ""}, {"dsp": "http://dsp"}
        )


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    return furnish(tmp_path_factory.mktemp("site"), "plain", ["v0", "v1", "v2"])


def simulated(site, number):
    run = {"dsp": site.url("dsp"), "simulation-folder": str(site.folder)}
    return NodeFiles.of({"partition-id": number, "num-partitions": 3}, run)


def test_virtual_participants_take_their_places_in_the_roster(furnished):
    assert simulated(furnished, 1).key == furnished.folder / "v1.key"
    assert simulated(furnished, 1).state == furnished.folder / "v1.state"
    with pytest.raises(ConfigurationError, match="the roster has 3 participants"):
        simulated(furnished, 3)


def test_a_simulation_without_numbers_is_refused(furnished):
    with pytest.raises(ConfigurationError, match="neither `key` nor `partition-id`"):
        simulated(furnished, None)


@pytest.fixture
def running(furnished):
    furnished.start("kts", "dsp")
    furnished.wait_ready()
    yield furnished
    for role in list(furnished.processes):
        furnished.stop(role)


@pytest.mark.servers
@pytest.mark.filterwarnings("ignore::hre_torch.errors.UnprotectedWarning")
def test_sessions_follow_each_other_one_at_a_time_and_nothing_is_lost(running):
    """One pushes and ends; the servers tell the next one where it stands."""
    files = simulated(running, 0)
    update = np.full(62, 3, dtype=np.int32)
    with open_session(files) as session:
        session.push(update)
        with (
            pytest.raises(AggregatorError, match="is open on this machine already"),
            open_session(files),
        ):
            raise AssertionError("two sessions with one key")
    for number in (1, 2):
        with open_session(simulated(running, number)) as session:
            session.push(update)
    with open_session(files) as session:
        session.catch_up()
        assert session.version == 1
        assert (session.released() == np.arange(62) + 3 * 3).all()
        assert session.push(update) > 0
