"""The accuracy study: baselines, what is trained again and what is not, the page."""

from __future__ import annotations

import json

import pytest

from benchmarks.accuracy import program
from benchmarks.accuracy.baselines import alone, pooled
from benchmarks.accuracy.matrix import Case, Cell, cells_of, expected_seconds
from benchmarks.accuracy.page import markdown
from benchmarks.accuracy.selective import _schedule, selective
from benchmarks.accuracy.summary import Outcome, summarise
from benchmarks.accuracy.training import train_cell
from hre_torch.app.training.assembly import load_recipe_data

DIGITS = Case("digits_mlp", 4, None, 2)
METHODS = ("pooled", "federated", "selective 10 %", "selective 1 %", "alone")


@pytest.fixture(scope="module")
def digits():
    recipe = Cell(DIGITS, 0, "federated").recipe(None)
    return recipe, load_recipe_data(recipe)


def curve(case, method, *accuracies, seed=0):
    points = [[float(epoch), value] for epoch, value in enumerate(accuracies, start=1)]
    where = {"device": "cpu", "trained_on": "a computer"}
    record = {"curve": points, "seconds": 1.0, "recipe": "", **where}
    return Outcome(Cell(case, seed, method), record)


def test_selective_sgd_of_one_who_shares_everything_is_training_alone(digits):
    recipe, data = digits
    # In one turn there is no learning rate to change, so none may change elsewhere.
    train = recipe.train.model_copy(update={"push_every": 10**6, "schedule": "none"})
    one = recipe.model_copy(update={"participants": 1, "train": train})
    everything = selective(one, data, share=1.0)
    assert everything[-1].accuracy == pooled(one, data)[-1].accuracy


def test_who_shares_less_learns_something_else(digits):
    recipe, data = digits
    curves = [selective(recipe, data, share=share) for share in (0.01, 0.1, 1.0)]
    assert len({curve[-1].accuracy for curve in curves}) == 3


def test_selective_sgd_has_the_learning_rates_of_the_recipe(digits):
    recipe, _ = digits
    rates = {
        schedule: [
            step["lr"] / recipe.train.lr
            for step in _schedule(
                recipe.train.model_copy(update={"schedule": schedule}), 100
            )
        ]
        for schedule in ("none", "cosine", "onecycle")
    }
    assert rates["none"] == [1.0] * 100
    assert rates["cosine"][0] == 1.0
    assert rates["onecycle"][0] == pytest.approx(0.04)
    assert max(rates["onecycle"]) == pytest.approx(1.0, abs=0.01)
    assert rates["cosine"][-1] < 0.01
    assert rates["onecycle"][-1] < 0.01


def test_alone_is_the_first_participants_share(digits):
    recipe, data = digits
    assert alone(recipe, data)[-1].accuracy < pooled(recipe, data)[-1].accuracy
    assert alone(recipe, data)[-1].epoch == pytest.approx(recipe.train.epochs)


@pytest.mark.slow
def test_encrypted_and_plain_training_release_the_same_bits():
    record = train_cell(Cell(DIGITS, 0, "equality"), None, "cpu")
    assert record["equal"] is True


@pytest.fixture
def small(monkeypatch):
    """A matrix that trains within a second."""
    cells = [Cell(DIGITS, 0, method) for method in METHODS]
    monkeypatch.setattr(program, "cells_of", lambda matrix: cells)
    return cells


def test_a_study_is_written_once_and_goes_on_where_it_stopped(tmp_path, small, capsys):
    command = ["--reduced", "--out", str(tmp_path)]
    assert program.main(command) == 0
    names = {"accuracy.json", "accuracy.md", "accuracy.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "5 trainings, 0 done" in capsys.readouterr().out
    file = tmp_path / "accuracy.json"
    study = json.loads(file.read_text())
    kept = dict(study["cells"])
    lost = study["cells"].pop(small[0].key)
    file.write_text(json.dumps(study))
    assert program.main(command) == 0
    assert "5 trainings, 4 done" in capsys.readouterr().out
    again = json.loads(file.read_text())["cells"]
    trained = again.pop(small[0].key)
    del kept[small[0].key]
    assert again == kept
    assert trained["curve"] == lost["curve"]


def test_tables_are_written_of_what_is_there(tmp_path, small, capsys):
    command = ["--reduced", "--out", str(tmp_path), "--tables"]
    assert program.main(command) == 0
    assert "5 trainings, 0 done" in capsys.readouterr().out
    assert json.loads((tmp_path / "accuracy.json").read_text())["cells"] == {}


def test_trainings_of_another_machine_are_taken_over(tmp_path, small, capsys):
    there, here = tmp_path / "there", tmp_path / "here"
    assert program.main(["--reduced", "--out", str(there)]) == 0
    file = there / "accuracy.json"
    # A GPU's numbers are as good, whatever trains the rest.
    text = file.read_text().replace("device: cpu", "device: cuda")
    file.write_text(text.replace('"device": "cpu"', '"device": "cuda"'))
    capsys.readouterr()
    command = ["--reduced", "--out", str(here), "--take-over", str(file)]
    assert program.main(command) == 0
    assert "5 trainings, 5 done" in capsys.readouterr().out
    assert len(json.loads((here / "accuracy.json").read_text())["cells"]) == 5


def test_a_cell_of_another_recipe_is_trained_again(tmp_path, small, capsys):
    command = ["--reduced", "--out", str(tmp_path)]
    assert program.main(command) == 0
    file = tmp_path / "accuracy.json"
    study = json.loads(file.read_text())
    study["cells"][small[0].key]["recipe"] = "another"
    file.write_text(json.dumps(study))
    capsys.readouterr()
    assert program.main([*command, "--plan"]) == 0
    assert "5 trainings, 4 done" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "of a later time"}'])
def test_a_file_that_is_no_study_is_left_alone(tmp_path, small, capsys, text):
    file = tmp_path / "accuracy.json"
    file.write_text(text)
    assert program.main(["--reduced", "--out", str(tmp_path)]) == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_text() == text


def test_one_network_alone_is_trained_where_it_is_in_the_matrix(tmp_path, capsys):
    out = ["--out", str(tmp_path), "--plan", "--network"]
    assert program.main(["--full", *out, "cifar_cnn"]) == 0
    count = sum(cell.case.network == "cifar_cnn" for cell in cells_of("full"))
    assert f"full: {count} trainings" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        program.main(["--reduced", *out, "cifar_cnn"])
    assert "trains none of ['cifar_cnn']" in capsys.readouterr().err


def test_the_full_matrix_is_the_one_that_is_promised():
    cells = cells_of("full")
    cases = {cell.case for cell in cells if cell.method == "federated"}
    per_network = {}
    for case in cases:
        per_network.setdefault(case.network, set()).add((case.participants, case.split))
    mnist = {(p, split) for p in (4, 8, 30) for split in ("IID", "Dirichlet 0.3")}
    assert per_network == {
        "mnist_mlp": mnist,
        "mnist_cnn": mnist,
        "cifar_cnn": {(4, "IID"), (30, "IID")},
        "cifar_resnet20": {(4, "IID")},
    }
    assert {c.case.network for c in cells if c.method == "equality"} == set(per_network)
    assert len({cell.key for cell in cells}) == len(cells)
    for cell in {cell.case: cell for cell in cells}.values():
        recipe = cell.recipe(None)
        assert recipe.train.seed == cell.seed
        assert recipe.participants == cell.case.participants
    two_at_a_time = sum(expected_seconds(cell) for cell in cells) / 2
    assert two_at_a_time <= 10 * 3600


def test_a_promise_that_one_seed_breaks_is_broken():
    outcomes = [
        curve(DIGITS, "federated", 0.5, 0.9),
        curve(DIGITS, "federated", 0.5, 0.8, seed=1),
        curve(DIGITS, "selective 1 %", 0.85),
        curve(DIGITS, "selective 1 %", 0.82, seed=1),
        curve(DIGITS, "alone", 0.7),
        curve(DIGITS, "alone", 0.7, seed=1),
        curve(DIGITS, "pooled", 0.95),
    ]
    (row,) = summarise(outcomes)
    assert row.lead("selective 1 %") == pytest.approx(-2.0)
    assert row.lead("alone") == pytest.approx(10.0)
    assert str(row.methods["federated"]) == "85.00 ± 7.07"
    page = markdown(program.describe([]), outcomes, [row])
    assert "| -2.00 | +10.00 | NO |" in page
    assert "quoted from memory, not verified" in page
