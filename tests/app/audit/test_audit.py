"""An audit verifies an honest run, however it came to its end, and nothing else."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hre_torch.app.audit import TRANSCRIPT, audit
from hre_torch.app.audit.manifest import (
    MANIFEST,
    RELEASED,
    SUMMARY,
    WEIGHTS,
    read_manifest,
    released_values,
)
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.launch import Training
from hre_torch.errors import (
    HREError,
    MessageError,
    RunDirectoryError,
    SpoiledReleaseWarning,
    UnprotectedWarning,
)
from hre_torch.protocol.suite import SealedBody
from tests.app.audit.conftest import SMALL, train
from tests.app.audit.tamperings import Scene, tell

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


def test_a_release_that_was_given_up_is_one_on_which_there_is_a_verdict(tmp_path):
    recipe = load_recipe("digits_mlp", [*SMALL, "suite=hybrid", "train.epochs=2"])
    with Training.start(recipe, tmp_path / "run") as training:
        cipher = training.runner.learners[0].session._participant._cipher
        encrypt = cipher.encrypt

        def spoiled(values):
            cipher.encrypt = encrypt
            body = encrypt(values)
            words = np.frombuffer(body.parts[-1], "<u4").copy()
            words[-1] += 300
            return SealedBody((*body.parts[:-1], words.tobytes()), body.prove)

        cipher.encrypt = spoiled
        with pytest.warns(SpoiledReleaseWarning):
            summary = training.run()
        operator = training.runner.federation.operator
    assert summary["rejected"] == 1
    assert verified(tmp_path / "run")
    scene = Scene(tmp_path / "run", tmp_path, bytes(32), operator)
    tell(scene, rejected=0)
    findings = audit(tmp_path / "run").findings
    assert (
        f"{SUMMARY}: rejected is 0, but the transcript has verdicts on 1 releases"
        in findings
    )


def test_weights_that_too_few_participants_vouch_for_are_noted(tmp_path):
    gone = [f"{{participant: {number}, after: 0.6}}" for number in (1, 2, 3)]
    scene = train(tmp_path, "run", f"train.dropouts=[{','.join(gone)}]")
    report = audit(scene.run)
    assert report.findings == []
    assert re.match(
        r"weights\.safetensors: nobody but the operator vouches for them: fewer than "
        r"c \+ 1 = 2 participants",
        report.notes[0],
    )


def test_weights_beyond_the_digits_of_their_type_are_noted(tmp_path):
    data = {"a": torch.tensor([300.0, 0.5]), "b": torch.tensor([1.0])}
    path = tmp_path / WEIGHTS
    save_file(data, path, metadata={RELEASED: '["a", "b"]'})
    assert released_values(path, 3, 16) is None
    assert released_values(path, 3, 15).tolist() == [300 << 15, 1 << 14, 1 << 15]
    with pytest.raises(MessageError, match="3 released weights, but the task has 4"):
        released_values(path, 4, 15)
    save_file({"a": torch.tensor([0.5, 0.3])}, path, metadata={RELEASED: '["a"]'})
    with pytest.raises(MessageError, match="weight 1 of 2 is no multiple of 2"):
        released_values(path, 2, 16)


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
        patch.setattr("hre_torch.app.training.run_directory.replace_file", killed)
        patch.setattr("hre_torch.app.audit.manifest.replace_file", killed)
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
        patch.setattr("hre_torch.app.audit.manifest.SignedFile.of", unreadable)
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


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
KEYS = st.sampled_from(["event", "summary", "recipe", "version", "bytes_up", "x"])
JSON = st.recursive(
    NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=9
)
RECORDS = st.dictionaries(KEYS, JSON | st.sampled_from(["start", "release", "end"]))
YAML = (
    "",
    "[1]",
    "x",
    "a: ${oc.env:HOME}",
    "{1: 2, a: 3}",
    "&a [*a]",
    "- {",
    "d: 2000-13-01",
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.fixed_dictionaries(
        {},
        optional={
            "summary.json": JSON.map(json.dumps),
            "manifest.json": RECORDS.map(json.dumps),
            "metrics.jsonl": st.lists(RECORDS.map(json.dumps)).map("\n".join),
            "recipe.yaml": st.sampled_from(YAML) | st.text(),
            "weights.safetensors": st.text(),
        },
    )
)
def test_whatever_is_in_the_files_the_audit_ends_with_findings(scene, texts):
    kept = {name: (scene.run / name).read_bytes() for name in texts}
    for name, text in texts.items():
        (scene.run / name).write_bytes(text.encode("utf-8", "replace"))
    try:
        findings = audit(scene.run).findings
    finally:
        for name, data in kept.items():
            (scene.run / name).write_bytes(data)
    assert bool(findings) == bool(texts)
    if MANIFEST not in texts:
        assert texts.keys() <= {finding.split(":")[0] for finding in findings}
