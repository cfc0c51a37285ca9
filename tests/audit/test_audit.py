"""An audit verifies an honest run, however it came to its end, and nothing else."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hre_torch.audit import TRANSCRIPT, audit
from hre_torch.audit.manifest import MANIFEST, SUMMARY, WEIGHTS, read_manifest
from hre_torch.errors import HREError, RunDirectoryError, UnprotectedWarning
from hre_torch.recipes import load_recipe
from hre_torch.training.launch import Training
from tests.audit.conftest import SMALL, train

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{UnprotectedWarning.__module__}.{UnprotectedWarning.__name__}"
)


def verified(run, operator=None):
    report = audit(run, operator)
    return report.finished and not report.findings


@pytest.mark.parametrize("suite", ["plain", "paper", "hybrid"])
def test_an_honest_run_of_any_suite_is_verified(tmp_path, suite):
    scene = train(tmp_path, "run", f"suite={suite}", "min_contributions=3")
    report = audit(scene.run, scene.operator.public)
    assert (report.findings, report.notes) == ([], [])
    assert report.suite == suite
    assert report.uploads >= 3 * report.releases > 0


def test_averaged_buffers_are_among_the_released_weights(tmp_path):
    scene = train(tmp_path, "run", "suite=plain", "buffers=mean")
    assert verified(scene.run)


QUICK = ("suite=plain", "min_contributions=3", "train.epochs=2")


def stopped_after(training, event):
    """Have a run stop once something has happened."""
    training.runner.listeners.append(
        lambda record: record["event"] == event and training.stop.set()
    )
    assert training.run() is None


def test_a_resumed_run_is_verified_under_the_same_operator(tmp_path):
    with Training.start(
        load_recipe("digits_mlp", [*SMALL, *QUICK]), tmp_path / "run"
    ) as training:
        operator = training.runner.federation.operator
        stopped_after(training, "release")
    with Training.resume(tmp_path / "run") as training:
        assert training.runner.federation.operator.public == operator.public
        assert training.run() is not None
    assert verified(tmp_path / "run", operator.public)


@pytest.mark.parametrize("torn", [b"", b"\0", b"\0\0\1\0half a record"])
def test_a_killed_run_is_unfinished_and_verified_once_it_was_resumed(tmp_path, torn):
    with Training.start(
        load_recipe("digits_mlp", [*SMALL, *QUICK]), tmp_path / "run"
    ) as training:
        stopped_after(training, "release")
        # What lies on the disk now is what a kill leaves.
        killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    with (killed / TRANSCRIPT).open("ab") as file:
        file.write(torn)
    report = audit(killed)
    assert (report.findings, report.finished) == ([], False)
    assert report.uploads > 0
    assert "the run has not ended" in report.notes[0]
    with Training.resume(killed) as training:
        training.run()
    assert verified(killed)


@pytest.mark.parametrize("last", [WEIGHTS, MANIFEST])
def test_a_run_that_was_killed_while_it_ended_is_resumed(tmp_path, monkeypatch, last):
    def killed(path, data, mode=0o644):
        path.write_bytes(data)
        if path.name == last:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with (
        Training.start(load_recipe("digits_mlp", [*SMALL, *QUICK]), run) as training,
        monkeypatch.context() as patch,
    ):
        patch.setattr("hre_torch.training.run_directory.replace_file", killed)
        patch.setattr("hre_torch.audit.manifest.replace_file", killed)
        with pytest.raises(KeyboardInterrupt):
            training.run()
    assert (run / last).is_file()
    assert not audit(run).finished
    (run / f".{SUMMARY}.unfinished").write_bytes(b"half")
    with Training.resume(run) as training:
        training.run()
    assert verified(run)


def test_files_that_came_later_are_listed_and_change_nothing(scene):
    (scene.run / "report").mkdir()
    for name in ("report.html", "accuracy.png"):
        (scene.run / "report" / name).write_text("drawn later")
    report = audit(scene.run)
    assert report.findings == []
    names = [note.split(":")[0] for note in report.notes]
    assert names == ["report/accuracy.png", "report/report.html"]


def test_a_file_that_tensorboard_appends_to_later_is_still_verified(scene):
    files = [name for name in read_manifest(scene.run).files if "events" in name]
    for name in files:
        with (scene.run / name).open("ab") as file:
            file.write(b"more")
    assert verified(scene.run)


def test_names_that_are_no_text_can_be_signed_and_audited(tmp_path):
    with Training.start(
        load_recipe("digits_mlp", [*SMALL, *QUICK]), tmp_path / "run"
    ) as training:
        (tmp_path / "run" / "\udcff.txt").write_text("mine")
        training.run()
    assert verified(tmp_path / "run")
    (tmp_path / "run" / "\udcff.txt").write_text("yours")
    assert "\\udcff.txt" in audit(tmp_path / "run").findings[0]


def test_a_directory_with_a_file_that_cannot_be_read_says_how_to_end(
    tmp_path, monkeypatch
):
    def unreadable(*arguments):
        raise PermissionError(13, "Permission denied", "notes.txt")

    run = tmp_path / "run"
    with (
        Training.start(load_recipe("digits_mlp", [*SMALL, *QUICK]), run) as training,
        monkeypatch.context() as patch,
    ):
        patch.setattr("hre_torch.audit.manifest.SignedFile.of", unreadable)
        with pytest.raises(RunDirectoryError, match=r"notes\.txt.*--resume"):
            training.run()
    with Training.resume(run) as training:
        training.run()
    assert verified(run)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_bit_of_any_file_is_found(scene, data):
    path = data.draw(st.sampled_from(sorted(scene.run.glob("*.*"))))
    whole = path.read_bytes()
    changed = bytearray(whole)
    position = data.draw(st.integers(0, len(whole) - 1))
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(changed))
    try:
        findings = audit(scene.run).findings
    except HREError as error:
        findings = [str(error)]
    finally:
        path.write_bytes(whole)
    assert any(path.name in finding for finding in findings)


def test_what_is_no_run_directory_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="holds no transcript"):
        audit(tmp_path)
    (tmp_path / TRANSCRIPT).write_bytes(b"something else")
    assert "it is no transcript" in audit(tmp_path).findings[0]
