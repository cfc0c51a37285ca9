"""The app of `recipes/flower`: Flower's own processes, ours beside them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hre_torch.participant.connection import read_weights
from tests.flower_site import Flower, furnish_recipe

pytest.importorskip("flwr", reason="needs the extra `flower`")
pytestmark = [pytest.mark.flower, pytest.mark.servers]
NAMES = ["p0", "p1", "p2", "p3"]
# All of this may share one core, where training outruns the servers: it pushes less
# often than the recipe does, and waits for them.
RARELY = ("train.epochs=12", "train.push_every=10", "train.pull_every=10")


@pytest.fixture
def record(record_property):
    """Keep what was measured in the test report: `record(what, ends, started)`."""

    def keep(what, ends, started):
        seconds = time.monotonic() - started
        accuracies = [round(end["accuracy"], 4) for end in ends]
        text = f"{what}: accuracy {accuracies}, {seconds:.0f} s in all"
        record_property("measured", text)
        print(text)

    return keep


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


def test_flower_starts_sessions_and_sees_numbers_only(make_site):
    site = make_site("digits_mlp.yaml", NAMES[:3], "train.epochs=4")
    database = site.folder / "superlink.db"
    with Flower(site, "--database", str(database)) as flower:
        for name in NAMES[:3]:
            flower.start_node(name)
        ends = flower.run("participants=3").wait_end(400)
        seen = b"".join(file.read_bytes() for file in site.folder.glob("superlink.db*"))
    assert len(ends) == 3
    # Who ends first may not have seen a release yet.
    assert max(end["accuracy"] for end in ends) > 0.3
    # What Flower stores holds the replies, but neither weights nor what opens keys.
    assert b"accuracy" in seen
    secret = [(site.folder / f"{name}.key").read_bytes() for name in NAMES[:3]]
    weights = [read_weights(site.folder / f"{name}.npy") for name in NAMES[:3]]
    weights.append(read_weights(site.folder / "initial.npy"))
    for data in [*secret, *(each.tobytes() for each in weights)]:
        assert data[len(data) // 2 :][:24] not in seen
    for number in weights[0][weights[0] != 0][:50]:
        assert np.float64(number / 2**16).tobytes() not in seen
    assert str(site.folder / "p0.key").encode() not in seen


@pytest.mark.slow
@pytest.mark.data
def test_four_supernodes_train_mnist_to_97_percent(make_site, record):
    site = make_site("mnist_mlp.yaml", NAMES, *RARELY)
    started = time.monotonic()
    with Flower(site) as flower:
        for name in NAMES:
            flower.start_node(name)
        ends = flower.run("participants=4 background=false").wait_end(1500)
    record("MNIST, 4 SuperNodes", ends, started)
    assert len(ends) == 4
    assert min(end["accuracy"] for end in ends) >= 0.97


@pytest.mark.slow
@pytest.mark.data
def test_a_supernode_killed_in_the_middle_does_not_stop_the_others(make_site, record):
    site = make_site("mnist_mlp.yaml", NAMES, *RARELY)
    started = time.monotonic()
    with Flower(site) as flower:
        for name in NAMES:
            flower.start_node(name)
        run = flower.run("participants=4 patience=5.0 background=false")
        flower.wait_trained("p3", epochs=5, seconds=900)
        flower.kill("p3")
        ends = run.wait_end(1500)
    record("MNIST, one of 4 SuperNodes killed", ends, started)
    assert len(run.records("session dropped")) == 1
    assert len(ends) == 3
    assert min(end["accuracy"] for end in ends) >= 0.97


@pytest.mark.slow
def test_a_supernode_that_comes_back_is_started_again(make_site, record):
    site = make_site("digits_mlp.yaml", NAMES, "train.epochs=300")
    started = time.monotonic()
    with Flower(site) as flower:
        for name in NAMES:
            flower.start_node(name)
        run = flower.run("participants=4")
        flower.wait_trained("p3", epochs=20, seconds=120)
        flower.kill("p3")
        time.sleep(1)
        flower.start_node("p3")
        ends = run.wait_end(600)
    record("digits, one of 4 SuperNodes killed and started again", ends, started)
    assert len(run.records("session start")) == 5
    assert len(ends) == 4
    assert min(end["accuracy"] for end in ends) > 0.9


@pytest.mark.slow
def test_twenty_virtual_participants_take_turns_in_a_simulation(make_site, record):
    pytest.importorskip("ray", reason="needs `pip install 'flwr[simulation]'`")
    names = [f"v{number:02}" for number in range(20)]
    # Four run at a time, so no release may need more than four; one push each.
    changes = ("min_contributions=4", "train.push_every=4", "train.pull_every=4")
    site = make_site("digits_mlp.yaml", names, "train.epochs=3", *changes)
    started = time.monotonic()
    with Flower(site, "--simulation") as flower:
        run = flower.run(
            f'participants=20 turns=3 simulation-folder="{site.folder}"',
            "--federation-config",
            "num-supernodes=20 client-resources-num-cpus=1 init-args-num-cpus=4",
        )
        ends = run.wait_end(1200)
    record("digits, 20 virtual participants, 3 turns", ends, started)
    assert [turn["sessions"] for turn in run.records("turn end")] == [20, 20, 20]
    last = [end for end in ends if end["turn"] == 2]
    assert min(end["pushes"] for end in last) == max(end["pushes"] for end in last) == 3
    assert max(end["version"] for end in last) >= 12
