"""The program: options, presets, files; clear refusals before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.options import parse, plan
from benchmarks.presets import PRESETS
from benchmarks.program import main
from hre_torch.errors import ConfigurationError, UnknownPluginError

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
VALUES = 60
KEYS = {
    "system",
    "phase",
    "values",
    "seconds",
    "peak_mib",
    "bytes",
    "bytes_per_value",
    "threads",
    "modulus_bits",
    "lanes",
}


def jobs(*arguments):
    return plan(parse(arguments))


@pytest.mark.gate
def test_one_command_writes_records_tables_and_plots(tmp_path):
    command = [sys.executable, str(RUN), "--suites", "hybrid,plain", "--peers", "phe"]
    command += ["--values", str(VALUES), "--profile", "toy-insecure", "--rounds", "1"]
    command += ["--train", "digits_mlp", "--train-suites", "plain"]
    command += ["--json", str(tmp_path / "r.json"), "--plots", str(tmp_path / "r")]
    command += ["--markdown", str(tmp_path / "r.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = json.loads((tmp_path / "r.json").read_text())["records"]
    assert all(set(record) >= KEYS for record in records)
    assert all(record["seconds"] > 0 for record in records)
    systems = {"hybrid", "plain", "phe", "phe-packed"}
    assert {record["system"] for record in records} == systems
    page = (tmp_path / "r.md").read_text()
    assert done.stdout == page + "\n"
    assert "| client_push | phe* |" in page
    assert "| train_step | plain |" in page
    pictures = {"r-bytes.png", "r-roles.png", "r-training.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures


def test_every_system_is_a_job_with_all_its_lengths():
    labels = [
        job.label
        for job in jobs("--suites", "hybrid,plain", "--peers", "", "--values", "9,5")
    ]
    assert labels == ["suite hybrid: 5, 9 values", "suite plain: 5, 9 values"]


def test_a_system_with_a_longest_length_is_left_out_beyond_it():
    planned = jobs(
        *("--suites", "hybrid,gated", "--peers", "", "--values", "5,9"),
        *("--max-values", "gated=5"),
    )
    assert [job.label for job in planned if "gated" in job.label] == [
        "suite gated: 5 values"
    ]
    assert len(planned) == 2


def test_a_peer_may_be_measured_on_a_sample_but_no_suite():
    planned = jobs(
        *("--suites", "hybrid", "--peers", "phe", "--values", "90"),
        *("--sample", "phe=10,hybrid=10"),
    )
    assert [job.workloads[0].sample for job in planned] == [None, 10, 10]


def test_every_course_is_trained_by_every_system_named():
    planned = jobs(
        *("--suites", "", "--peers", "", "--train", "digits_mlp,digits_mlp:5"),
        *("--train-suites", "hybrid,torch"),
    )
    assert [job.label for job in planned] == [
        "training digits_mlp, exchange every 1, hybrid",
        "training digits_mlp, exchange every 1, torch",
        "training digits_mlp, exchange every 5, hybrid",
        "training digits_mlp, exchange every 5, torch",
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_nothing_but_options_and_writes_into_results(preset):
    options = parse(["--preset", preset])
    assert options.json == RUN.parent / "results" / f"{preset}.json"
    assert options.markdown.name == f"{preset}.md"
    assert 109_386 in options.values
    spelt = [f"--{k.replace('_', '-')}={v}" for k, v in PRESETS[preset].items()]
    assert plan(parse(["--peers=phe", *spelt, "--peers=phe"]))


def test_an_option_wins_over_its_preset(tmp_path):
    out = tmp_path / "mine.json"
    options = parse(["--preset", "hybrid", "--values", "7", "--json", str(out)])
    assert (options.values, options.json) == ([7], out)
    assert options.suites == ["hybrid", "plain"]


def test_an_unknown_suite_or_peer_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownPluginError, match="did you mean 'paper'"):
        jobs("--suites", "papr", "--peers", "")
    with pytest.raises(UnknownPluginError, match="did you mean 'tenseal'"):
        jobs("--suites", "", "--peers", "tenseel")


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigurationError, match="nothing to measure"):
        jobs("--suites", "", "--peers", "")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--suites", "papr", "did you mean 'paper'"),
        ("--train", "mnist", "mnist_mlp"),
        ("--train-suites", "papr", "did you mean 'paper'"),
        ("--profile", "toy", "toy-insecure"),
        ("--threads", "10000", "choose between"),
        ("--rounds", "0", "must be at least 1"),
        ("--values", "0", "must be at least 1"),
        ("--sample", "phe=0", "must be at least 1"),
        ("--json", "no/such/folder/r.json", "there is no folder"),
        ("--plots", "no/such/folder/r", "there is no folder"),
    ],
)
def test_wrong_options_end_the_program_before_any_work(capsys, option, value, message):
    assert main(["--peers", "phe", option, value]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert message in seen.err
