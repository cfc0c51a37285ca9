"""The command line composes; what goes wrong is one message and exit code 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hre_torch
from hre_torch.cli import app
from hre_torch.crypto.dcr.modulus import load_profile

ROOT = Path(hre_torch.__file__).parents[1]
COMMAND = [sys.executable, "-c", "from hre_torch.cli import main; main()"]


@pytest.fixture
def hre(monkeypatch, tmp_path):
    """Run a command in an empty folder; return what it did."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


def test_the_version_is_that_of_the_package(hre):
    result = hre("--version")
    assert result.exit_code == 0
    assert result.stdout == f"hre-torch {hre_torch.__version__}\n"


def test_the_help_names_every_command(hre):
    shown = hre("--help").stdout
    for command in ("train", "estimate", "report", "keygen"):
        assert command in shown


def test_train_writes_a_run_directory(hre, toy_recipe, tmp_path):
    result = hre("train", toy_recipe(), "--out", "run", "--no-tensorboard")
    assert result.exit_code == 0
    assert "suite paper protects: against the DSP alone" in result.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "recipe.yaml",
        "manifest.json",
        "metrics.jsonl",
        "summary.json",
        "transcript.bin",
        "weights.safetensors",
    }
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["suite"] == "paper"
    assert summary["test_accuracy"] > 0
    assert "test accuracy" in result.stdout
    assert "hre-torch report run" in result.stderr


def test_train_writes_to_runs_where_nothing_is_said(hre, toy_recipe, tmp_path):
    assert hre("train", toy_recipe("suite=plain")).exit_code == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("toy-")
    assert (made / "summary.json").exists()


def test_overrides_reach_the_resolved_recipe(hre, toy_recipe, tmp_path):
    hre(
        "train", toy_recipe(), "-o", "suite=plain", "-o", "train.epochs=1", "--out", "r"
    )
    resolved = (tmp_path / "r" / "recipe.yaml").read_text()
    assert "suite: plain" in resolved
    assert "epochs: 1.0" in resolved


@pytest.mark.parametrize("suite", ["plain", "phong"])
def test_a_suite_that_does_not_protect_is_loud_about_it(hre, toy_recipe, suite):
    result = hre("train", toy_recipe(f"suite={suite}"), "--out", "run")
    assert result.exit_code == 0
    assert f"warning: suite '{suite}' is for comparison only" in result.stderr


@pytest.mark.parametrize("suite", ["paper", "hybrid"])
def test_compare_plain_says_that_every_bit_is_equal(hre, toy_recipe, tmp_path, suite):
    recipe = toy_recipe(f"suite={suite}", "min_contributions=3")
    result = hre("train", recipe, "--out", "run", "--compare", "plain")
    assert result.exit_code == 0
    assert "equal in every bit" in result.stdout
    assert "ratio" in result.stdout
    assert "warning" not in result.stderr
    assert (tmp_path / "run-plain" / "summary.json").exists()


def test_estimate_writes_nothing(hre, toy_recipe, tmp_path):
    recipe = toy_recipe()
    before = set(tmp_path.iterdir())
    result = hre("estimate", recipe)
    assert result.exit_code == 0
    assert "all cryptography" in result.stdout
    assert set(tmp_path.iterdir()) == before


def test_report_draws_figures_of_a_run(hre, toy_recipe, tmp_path):
    hre("train", toy_recipe("suite=plain"), "--out", "run")
    result = hre("report", "run")
    assert result.exit_code == 0
    for line in result.stdout.splitlines():
        assert (tmp_path / line).is_file()
    assert (tmp_path / "run" / "report" / "report.html").is_file()


def test_keygen_params_makes_a_profile_that_loads(hre, tmp_path):
    out = tmp_path / "mine.json"
    arguments = ("--bits", 256, "--name", "mine-insecure", "--out", out)
    sizes = ("--lanes", 2, "--exponent-bits", 64)
    result = hre("keygen", "params", *arguments, *sizes)
    assert result.exit_code == 0, result.output
    profile = load_profile(out)
    assert profile.modulus_bits == 256
    assert profile.digest.hex() in result.stdout


BAD = [
    (["train"], "name a recipe"),
    (["train", "missing.yaml"], "there is no recipe missing.yaml"),
    (["train", "TOY", "-o", "suit=paper"], "did you mean 'suite'"),
    (["train", "TOY", "-o", "train.lr=fast"], "train.lr is 'fast'"),
    (["train", "TOY", "-o", "train.epochs=-1"], "train.epochs"),
    (["train", "TOY", "-o", "no equals sign"], "not of the form key=value"),
    (["train", "TOY", "-o", "suite=papr"], "did you mean 'paper'"),
    (["train", "TOY", "-o", "profile=rsa"], "rsa"),
    (["train", "TOY", "-o", "model.name=resnet"], "resnet"),
    (["train", "TOY", "-o", "model.options={width: 3}"], "has no such option"),
    (["train", "TOY", "-o", "min_contributions=4"], "min_contributions (t) is 4"),
    (["train", "TOY", "-o", "suite=gated"], "at least 3"),
    (["train", "TOY", "-o", "train.speeds=[0.0]"], "train.speeds"),
    (["train", "TOY", "-o", "train.speeds=[1, 2]"], "there are 3 participants"),
    (["train", "TOY", "-o", "train.batch_size=99"], "less than one batch"),
    (["train", "TOY", "-o", "data.train_size=9999"], "data.train_size is 9999"),
    (
        ["train", "TOY", "-o", "data.name=imagefolder", "-o", "data.root=nowhere"],
        "nowhere/train",
    ),
    (["train", "TOY", "--out", "full"], "is not empty"),
    (["train", "--resume", "nowhere"], "is not a run directory"),
    (["train", "--resume", "nowhere", "-o", "suite=plain"], "leave --out and -o away"),
    (["train", "TOY", "--resume", "x", "--out", "y"], "leave --out and -o away"),
    (["estimate", "TOY", "-o", "suite=papr"], "did you mean 'paper'"),
    (["report", "nowhere"], "is not a directory"),
    (
        ["keygen", "params", "--bits", "511", "--name", "x", "--out", "x.json"],
        "511 bits cannot be made",
    ),
    (["keygen", "params", "--name", "x", "--out", "full/x"], "exists already"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=[" ".join(words) for words, _ in BAD]
)
def test_bad_input_is_one_message_and_exit_code_2(
    hre, toy_recipe, tmp_path, arguments, message
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    recipe = str(toy_recipe())
    result = hre(*(recipe if word == "TOY" else word for word in arguments))
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_data_that_is_missing_names_the_files(hre, toy_recipe, monkeypatch, tmp_path):
    def offline(*arguments, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", offline)
    recipe = toy_recipe("data.name=mnist", "model.name=mnist_mlp", "data.root=here")
    result = hre("train", recipe)
    assert result.exit_code == 2
    assert "here/MNIST/raw/train-images-idx3-ubyte" in result.stderr


@pytest.mark.gate
def test_an_interrupted_run_says_how_to_go_on_and_does(hre, toy_recipe, tmp_path):
    recipe = toy_recipe("suite=plain", "train.epochs=3000")
    out = tmp_path / "a run"
    process = subprocess.Popen(
        [*COMMAND, "train", str(recipe), "--out", str(out)],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    for _ in range(600):
        if (out / "metrics.jsonl").is_file() and (out / "checkpoint").is_dir():
            break
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"hre-torch train --resume '{out}'" in shown
    assert "Traceback" not in shown
    saved = next((out / "checkpoint").iterdir())
    assert saved.stat().st_mode & 0o777 == 0o600
    refused = hre("train", toy_recipe("suite=paper"), "--resume", out)
    assert refused.exit_code == 2
    assert "is the run of another recipe" in refused.stderr


def test_a_run_that_was_stopped_at_once_is_resumed(hre, toy_recipe, monkeypatch):
    from hre_torch.app.training.launch import Training

    def impatient(training):
        raise KeyboardInterrupt

    recipe = toy_recipe("suite=plain")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", impatient)
        stopped = hre("train", recipe, "--out", "run", "--compare", "plain")
    assert stopped.exit_code == 130
    assert "hre-torch train --resume run --compare plain" in stopped.stderr
    resumed = hre("train", "--resume", "run", "--compare", "plain")
    assert resumed.exit_code == 0
    assert "equal in every bit" in resumed.stdout
    again = hre("train", "--resume", "run")
    assert again.exit_code == 2
    assert "is finished" in again.stderr
