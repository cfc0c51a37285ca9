"""A run directory is read whole or refused with the file, the line and the remedy."""

from __future__ import annotations

import json

import pytest

from hre_torch.app.report.read import read_runs
from hre_torch.errors import RunDirectoryError


def _append(path, line):
    path.write_text(path.read_text() + line)


def test_runs_of_one_name_are_told_apart_by_their_parents(make_run):
    runs = read_runs([make_run("a/run"), make_run("b/run")])
    assert [run.label for run in runs] == ["a/run", "b/run"]


def test_a_directory_given_twice_is_read_once(make_run):
    directory = make_run()
    assert len(read_runs([directory, directory / "."])) == 1


def test_who_never_contributed_is_a_participant_too(make_run):
    run = make_run(epochs=1, events=False, participants=("p10", "p2"))
    assert read_runs([run])[0].participants == ("p2", "p10")


def test_events_of_an_unknown_kind_are_passed_over(make_run):
    run = make_run(epochs=1)
    known = read_runs([run])[0]
    _append(run / "metrics.jsonl", '{"event": "invented later", "x": 1}\n')
    assert read_runs([run])[0] == known


def test_a_loss_that_was_no_number_is_no_damage(make_run):
    run = make_run(epochs=1, events=False)
    record = {"event": "evaluation", "global_step": 1, "seconds": 1, "accuracy": 0.1}
    record |= {"loss": None, "bytes_up": 1, "bytes_down": 1}
    _append(run / "metrics.jsonl", json.dumps(record) + "\n")
    assert len(read_runs([run])[0].evaluations) == 1


def test_no_run_directory_at_all_is_refused():
    with pytest.raises(RunDirectoryError, match="No run directory was given"):
        read_runs([])


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a directory"):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "summary.json"])
def test_a_missing_file_is_named_with_the_remedy(make_run, name):
    run = make_run(epochs=1)
    (run / name).unlink()
    with pytest.raises(RunDirectoryError, match=f"{name} not found.*--resume"):
        read_runs([run])


def test_a_damaged_line_is_refused_by_its_number(make_run):
    run = make_run(epochs=1, events=False)
    _append(run / "metrics.jsonl", '{"event": "evaluation", "accu')
    with pytest.raises(RunDirectoryError, match="line 7 is damaged"):
        read_runs([run])


def test_a_record_without_its_keys_is_refused_by_the_key(make_run):
    run = make_run(epochs=1, events=False)
    _append(run / "metrics.jsonl", '{"event": "release", "version": 1}\n')
    with pytest.raises(RunDirectoryError, match=r"line 7 .* field `contributors`"):
        read_runs([run])


def test_metrics_that_do_not_start_are_refused(make_run):
    run = make_run(epochs=1)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(RunDirectoryError, match='"event": "start"'):
        read_runs([run])


def test_a_summary_without_its_keys_is_refused(make_run):
    run = make_run(epochs=1)
    (run / "summary.json").write_text('{"suite": "paper"}')
    with pytest.raises(RunDirectoryError, match=r"summary\.json is damaged.*`profile`"):
        read_runs([run])


def test_a_file_that_is_no_text_is_refused(make_run):
    run = make_run(epochs=1)
    (run / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunDirectoryError, match=r"recipe\.yaml cannot be read"):
        read_runs([run])
