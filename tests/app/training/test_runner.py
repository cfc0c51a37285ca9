"""A recipe runs the same way whoever carries its updates, and tells what happens."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from hre_torch.app.data.load import load_data
from hre_torch.app.models import MODELS
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.evaluation import weights_file
from hre_torch.app.training.runner import Runner
from hre_torch.errors import (
    DataError,
    RecipeError,
    SpoiledReleaseWarning,
    TaskError,
)
from hre_torch.protocol.suite import SealedBody


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_size=200)


@pytest.fixture
def run(toy_recipe, digits):
    """Run the toy recipe with changes; return the finished runner and its records."""

    def finished(*changes):
        records = []
        with Runner(load_recipe(toy_recipe(*changes)), digits) as runner:
            runner.listeners.append(records.append)
            for _ in runner.steps():
                pass
        return runner, records

    return finished


def weights_of(runner):
    return [learner.session.released().tolist() for learner in runner.learners]


def of_kind(records, event):
    return [record for record in records if record["event"] == event]


@pytest.mark.parametrize("suite", ["paper", "phong", "gated", "hybrid"])
def test_a_suite_gives_the_weights_of_plain_in_every_bit(run, suite):
    changes = ("min_contributions=3", "max_additions=32")
    plain, _ = run("suite=plain", *changes)
    encrypted, _ = run(f"suite={suite}", *changes)
    assert weights_of(encrypted) == weights_of(plain)
    assert weights_file(encrypted.released_model()) == weights_file(
        plain.released_model()
    )


def spoil_first_upload(learner, suite):
    """Change a word under a checksum, or mask one with more than noise."""
    cipher = learner.session._participant._cipher
    encrypt = cipher.encrypt

    def spoiled(values):
        cipher.encrypt = encrypt
        body = encrypt(values)
        words = np.frombuffer(body.parts[-1], "<u4" if suite == "hybrid" else "<i8")
        changed = words.copy()
        changed[-1] += 300
        return SealedBody((*body.parts[:-1], changed.tobytes()), body.prove)

    cipher.encrypt = spoiled


@pytest.mark.parametrize("suite", ["plain", "hybrid"])
def test_a_spoiled_release_is_counted_and_its_list_is_told(toy_recipe, digits, suite):
    records = []
    recipe = load_recipe(
        toy_recipe(f"suite={suite}", "min_contributions=3", "max_additions=32")
    )
    with Runner(recipe, digits) as runner:
        runner.listeners.append(records.append)
        spoil_first_upload(runner.learners[2], suite)
        with pytest.warns(SpoiledReleaseWarning):
            list(runner.steps())
        names = [learner.name for learner in runner.learners]
        assert runner.totals()["rejected"] == 1
        assert len({each.session.model_digest for each in runner.learners}) == 1
    told = of_kind(records, "rejection")
    assert sorted(record["participant"] for record in told) == names
    for record in told:
        assert (record["version"], record["rejected"]) == (1, 1)
        assert record["spent"] == 1
        assert record["contributors"] == record["in_all_rejected"] == names


def test_a_run_repeats_bit_for_bit_and_another_seed_changes_it(run):
    first, again, other = run(), run(), run("train.seed=1")
    assert weights_of(first[0]) == weights_of(again[0])
    assert weights_of(first[0]) != weights_of(other[0])


def test_worker_processes_change_nothing(run):
    assert weights_of(run("workers=2")[0]) == weights_of(run()[0])


def test_everybody_ends_with_the_same_released_weights(run):
    runner, _ = run()
    versions = {learner.session.version for learner in runner.learners}
    assert versions == {runner.federation.servers.version}
    first, *others = weights_of(runner)
    assert all(weights == first for weights in others)


def test_training_learns_the_digits(run):
    runner, _ = run("suite=plain", "train.epochs=30")
    assert runner.score.accuracy > 0.8


def test_everybody_takes_its_epochs_and_the_fast_are_ready_first(run):
    runner, records = run()
    assert runner.global_step == runner.total_steps == 3 * 2 * 4
    steps = {r["participant"]: r["local_step"] for r in of_kind(records, "push")}
    assert steps == {"p0": 8, "p1": 8, "p2": 8}
    done = {r["participant"]: r["simulated_time"] for r in of_kind(records, "push")}
    assert done["p1"] < done["p0"] < done["p2"]


def test_pushes_and_pulls_come_when_the_recipe_says(run):
    _, records = run("train.push_every=4", "train.pull_every=3")
    pushed = [r["local_step"] for r in of_kind(records, "push") if r["loss"]]
    assert set(pushed) == {4, 8}
    pulled = [r["local_step"] for r in of_kind(records, "pull")]
    assert set(pulled) == {3, 6, 8}


def test_evaluations_come_when_the_recipe_says_and_once_at_the_end(run):
    _, records = run("train.evaluate_every=0.5")
    epochs = [record["epoch"] for record in of_kind(records, "evaluation")]
    assert epochs == [0.5, 1.0, 1.5, 2.0]
    assert all(0 <= r["accuracy"] <= 1 for r in of_kind(records, "evaluation"))


def test_the_last_records_agree_with_the_totals(run):
    runner, records = run()
    totals = runner.totals()
    assert len(of_kind(records, "push")) == totals["pushes"]
    assert len(of_kind(records, "pull")) == totals["pulls"]
    assert len(of_kind(records, "release")) == totals["releases"] > 0
    last = of_kind(records, "evaluation")[-1]
    assert last["bytes_up"] == totals["bytes_up"]
    assert last["bytes_down"] == totals["bytes_down"]
    newest = {r["participant"]: r["bytes_up"] for r in of_kind(records, "pull")}
    assert sum(newest.values()) == totals["bytes_up"]


def test_a_release_tells_whose_updates_it_has_and_how_old_their_bases_were(run):
    _, records = run()
    releases = of_kind(records, "release")
    assert [r["version"] for r in releases] == list(range(1, len(releases) + 1))
    for record in releases:
        assert len(record["contributors"]) >= 2
        assert len(record["staleness"]) == record["contributions"]
        assert all(0 <= s < record["version"] for s in record["staleness"])
    assert any(max(record["staleness"]) > 0 for record in releases)


def test_global_steps_and_times_never_run_backwards(run):
    _, records = run()
    for key in ("global_step", "simulated_time", "seconds"):
        values = [record[key] for record in records]
        assert values == sorted(values)


def test_phases_cover_training_exchange_and_servers(run):
    runner, records = run()
    assert {"train", "quantise", "encrypt", "submit", "fetch", "open", "load"} <= set(
        runner.book.milliseconds("p0")
    )
    assert {"check", "add", "first_phase", "second_phase"} <= set(
        runner.book.milliseconds("servers")
    )
    assert of_kind(records, "phases")[-1]["phases"] == runner.book.milliseconds(
        "servers"
    )
    spent = sum(t.seconds for p in runner.book.totals.values() for t in p.values())
    assert spent == pytest.approx(runner.seconds, rel=0.3)


@pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")
def test_back_pressure_ends_in_no_loss_of_local_steps(run):
    runner, records = run(
        "max_additions=2",
        "train.push_every=1",
        "train.pull_every=50",
    )
    assert runner.totals()["held_back"] > 0
    assert runner.global_step == runner.total_steps
    assert of_kind(records, "evaluation")


def test_torch_is_left_as_it_was(run):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    run("suite=plain")
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_dropout_draws_from_the_seed_of_the_recipe(run):
    changes = ("suite=plain", "model.name=with_dropout", "model.options.hidden=[8]")
    assert weights_of(run(*changes)[0]) == weights_of(run(*changes)[0])


def test_weights_are_saved_under_the_names_of_the_module(run):
    runner, _ = run(
        "suite=plain",
        "model.name=with_norm",
        "buffers=mean",
        "model.options.hidden=[8]",
    )
    saved = safetensors.torch.load(weights_file(runner.released_model()))
    assert set(saved) == set(with_norm([8]).state_dict())
    released = runner.learners[0].session.released()
    trained = torch.tensor(released[: 64 * 8]).double() / 2**16
    assert torch.equal(saved["1.weight"].flatten().double(), trained.float().double())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["min_contributions=4"], TaskError, "between 1 and the number of"),
        (["train.batch_size=100"], DataError, "less than one batch"),
        (["suite=hybrid"], TaskError, "at least 3"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    toy_recipe, digits, changes, error, message
):
    with pytest.raises(error, match=message):
        Runner(load_recipe(toy_recipe(*changes)), digits)


@MODELS.register("with_dropout")
def with_dropout(hidden):
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, hidden[0]),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(hidden[0], 10),
    )


@MODELS.register("with_norm")
def with_norm(hidden):
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, hidden[0]),
        torch.nn.BatchNorm1d(hidden[0]),
        torch.nn.Linear(hidden[0], 10),
    )


def test_who_goes_for_good_pushes_no_more_and_the_others_go_on(run):
    runner, records = run("train.dropouts=[{participant: 1, after: 0.5}]")
    steps = [learner.optimizer.progress.local_steps for learner in runner.learners]
    assert steps == [8, 4, 8]
    assert runner.global_step == runner.total_steps == 20
    pushed = [r["local_step"] for r in of_kind(records, "push")]
    gone = [r for r in of_kind(records, "push") if r["participant"] == "p1"]
    assert max(r["local_step"] for r in gone) <= 4 < max(pushed)
    here = [runner.learners[0], runner.learners[2]]
    assert {learner.session.version for learner in here} == {
        runner.federation.servers.version
    }


def test_who_is_away_for_a_while_takes_all_steps_but_later(run):
    usual, before = run()
    runner, records = run("train.dropouts=[{participant: 1, after: 0.5, away: 50.0}]")
    assert runner.global_step == usual.global_step
    late, early = (
        max(r["simulated_time"] for r in of_kind(each, "push") if r["participant"] == n)
        for each, n in ((records, "p1"), (before, "p1"))
    )
    assert late == pytest.approx(early + 50.0)


def test_dropouts_that_name_nobody_are_refused(toy_recipe):
    with pytest.raises(RecipeError, match="numbered from 0 to 2"):
        load_recipe(toy_recipe("train.dropouts=[{participant: 3, after: 0.5}]"))
