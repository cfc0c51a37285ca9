"""A run directory belongs to one recipe, and is whole at every moment."""

from __future__ import annotations

import json
import stat

import pytest

from hre_torch.app.data.load import load_data
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.run_directory import RunDirectory
from hre_torch.app.training.runner import Runner
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import RunDirectoryError

RECIPE = "suite: plain\nprofile: rsa2048\n"


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory.create(tmp_path / "run", RECIPE)
    yield made
    made.close()


@pytest.fixture
def state(toy_recipe):
    recipe = load_recipe(toy_recipe("suite=plain"))
    with Runner(recipe, load_data("digits", train_size=200)) as runner:
        return runner.state()


def finish(directory, summary):
    operator = SigningKey.generate()
    directory.finish(summary, b"weights", cfg=bytes(32), operator=operator)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_holds_the_resolved_recipe(directory):
    assert (directory.path / "recipe.yaml").read_text() == RECIPE


def test_an_empty_directory_may_be_used(tmp_path):
    assert RunDirectory.create(tmp_path, RECIPE).path == tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": "mine"}, "is not empty"),
        ({"recipe.yaml": "suite: paper\n"}, "holds the run of another recipe"),
        ({"recipe.yaml": RECIPE}, "interrupted run of this recipe.*--resume"),
        ({"recipe.yaml": RECIPE, "summary.json": "{}"}, "holds a finished run"),
    ],
)
def test_a_directory_with_anything_in_it_is_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RunDirectoryError, match=message):
        RunDirectory.create(tmp_path, RECIPE)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="not empty"):
        RunDirectory.create(tmp_path / "file", RECIPE)
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunDirectory.create(tmp_path / "file" / "below", RECIPE)


def test_what_is_no_run_directory_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunDirectoryError, match="is not a run directory"):
            RunDirectory.open(path)


def test_a_finished_run_cannot_be_resumed(directory):
    finish(directory, {"suite": "plain"})
    with pytest.raises(RunDirectoryError, match=r"finished.*nothing to resume"):
        RunDirectory.open(directory.path)


def test_the_directory_of_another_recipe_is_refused_by_the_key_that_differs(directory):
    directory.require(RECIPE)
    with pytest.raises(RunDirectoryError, match="'suite: plain', not 'suite: paper'"):
        directory.require(RECIPE.replace("plain", "paper"))
    with pytest.raises(RunDirectoryError, match="2 lines, not 3"):
        directory.require(RECIPE + "workers: 2\n")


def test_records_are_lines_of_json(directory):
    for step in range(3):
        directory.append({"event": "push", "global_step": step, "loss": float("nan")})
    directory.append({"event": "end"})
    lines = (directory.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["push"] * 3 + ["end"]
    assert json.loads(lines[0])["loss"] is None


def test_a_checkpoint_is_for_its_owners_eyes_only(directory, state):
    directory.write_checkpoint(state)
    folder = directory.path / "checkpoint"
    assert mode_of(folder) == 0o700
    assert [mode_of(path) for path in folder.iterdir()] == [0o600]


def test_a_checkpoint_is_read_back_as_it_was_written(directory, state):
    directory.write_checkpoint(state)
    again = RunDirectory.open(directory.path).read_checkpoint()
    assert again.schedule == state.schedule
    assert again.federation == state.federation
    assert again.learners.keys() == state.learners.keys()


def test_records_after_the_checkpoint_are_cut_off(directory, state):
    directory.append({"event": "push", "global_step": 1})
    directory.write_checkpoint(state)
    directory.append({"event": "push", "global_step": 2})
    directory.close()
    again = RunDirectory.open(directory.path)
    again.read_checkpoint()
    again.append({"event": "push", "global_step": 3})
    again.close()
    lines = (directory.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["global_step"] for line in lines] == [1, 3]


def test_a_checkpoint_before_the_first_new_record_keeps_the_old_ones(directory, state):
    directory.append({"event": "push", "global_step": 1})
    directory.write_checkpoint(state)
    again = RunDirectory.open(directory.path)
    again.write_checkpoint(again.read_checkpoint())
    again.read_checkpoint()
    assert (directory.path / "metrics.jsonl").read_text().count("push") == 1


def test_records_that_were_cut_behind_our_back_are_noticed(directory, state):
    directory.append({"event": "push"})
    directory.write_checkpoint(state)
    directory.close()
    (directory.path / "metrics.jsonl").write_text("")
    with pytest.raises(RunDirectoryError, match="was changed"):
        RunDirectory.open(directory.path).read_checkpoint()


def test_a_checkpoint_of_another_recipe_is_refused(directory, state):
    directory.write_checkpoint(state)
    directory.recipe_path.write_text(RECIPE.replace("plain", "paper"))
    with pytest.raises(RunDirectoryError, match="not the recipe that the checkpoint"):
        RunDirectory.open(directory.path).read_checkpoint()


def test_a_run_that_was_never_saved_says_so(directory):
    with pytest.raises(RunDirectoryError, match="before anything was saved"):
        RunDirectory.open(directory.path).read_checkpoint()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    directory, state, monkeypatch
):
    directory.write_checkpoint(state)
    before = (directory.path / "checkpoint" / "run.msgpack").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        directory.write_checkpoint(state)
    folder = directory.path / "checkpoint"
    assert [path.name for path in folder.iterdir()] == ["run.msgpack"]
    assert (folder / "run.msgpack").read_bytes() == before


def test_a_finished_run_keeps_weights_and_summary_and_no_keys(directory, state):
    directory.write_checkpoint(state)
    finish(directory, {"suite": "plain", "pushes": 3})
    assert directory.weights_path.read_bytes() == b"weights"
    summary = json.loads((directory.path / "summary.json").read_text())
    assert summary == {"suite": "plain", "pushes": 3}
    listed = json.loads((directory.path / "manifest.json").read_text())["files"]
    assert set(listed) == {"recipe.yaml", "summary.json", "weights.safetensors"}
    assert not (directory.path / "checkpoint").exists()
