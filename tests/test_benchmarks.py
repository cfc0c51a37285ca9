"""The benchmark program: honest records, checked sums, clear refusals."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import meter, table
from benchmarks.environment import describe
from benchmarks.measure import (
    Patience,
    Record,
    check_threads,
    measure,
    measure_apart,
)
from benchmarks.peers import PEERS
from benchmarks.run import find_systems, main
from benchmarks.suites import SuiteSystem
from benchmarks.system import System
from benchmarks.workload import Workload
from hre_torch.errors import (
    ConfigurationError,
    EncodingError,
    MissingExtraError,
    UnknownPluginError,
)

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"
VALUES = 60
TOY = Workload(values=VALUES, profile="toy-insecure")
ONCE = Patience(rounds=1)
SUITE_PHASES = [
    "encrypt",
    "check",
    "add",
    "first_phase",
    "first_phase_cached",
    "second_phase",
    "finish",
    "decrypt",
]
PEER_PHASES = ["encrypt", "check", "add", "finish", "decrypt"]
KEYS = {
    "system",
    "phase",
    "values",
    "seconds",
    "bytes_per_value",
    "threads",
    "modulus_bits",
    "lanes",
}
needs_tenseal = pytest.mark.skipif(
    find_spec("tenseal") is None, reason="the extra `bench` is not installed"
)


class Echo(System):
    """A system that adds in the clear, and lies by `error`."""

    def __init__(self, workload, *, error=0, measured_values=None):
        super().__init__(
            "echo",
            workload,
            modulus_bits=None,
            lanes=None,
            measured_values=measured_values,
        )
        self.error = error
        self.rounds = 0

    def round(self, updates, meter):
        self.rounds += 1
        for update in updates:
            with meter("encrypt") as reading:
                upload = update.tobytes()
            reading.bytes = len(upload)
        return [sum(updates) + self.error]


def record(**changes):
    fields = {
        "system": "paper",
        "phase": "encrypt",
        "values": 1000,
        "seconds": 0.5,
        "seconds_least": 0.5,
        "seconds_most": 0.5,
        "bytes_per_value": 6.0,
        "threads": 1,
        "modulus_bits": 3072,
        "lanes": 16,
        "profile": "demo3072",
        "readings": 5,
        "sampled": False,
        "measured_values": 1000,
    }
    return Record(**fields | changes)


def test_the_command_of_the_readme_writes_records_and_a_table(tmp_path):
    peers = "phe,tenseal" if find_spec("tenseal") else "phe"
    command = [sys.executable, str(RUN), "--suites", "paper,plain", "--peers", peers]
    command += ["--values", str(VALUES), "--profile", "toy-insecure", "--rounds", "1"]
    command += ["--threads", "1", "--json", str(tmp_path / "r.json")]
    command += ["--markdown", str(tmp_path / "r.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = json.loads((tmp_path / "r.json").read_text())["records"]
    assert all(set(record) >= KEYS for record in records)
    assert all(record["seconds"] > 0 for record in records)
    assert {record["values"] for record in records} == {VALUES}
    systems = {"paper", "plain", "phe", "phe-packed", *peers.split(",")}
    assert {record["system"] for record in records} == systems
    page = (tmp_path / "r.md").read_text()
    assert done.stdout == page + "\n"
    assert "| encrypt | phe* |" in page


@pytest.mark.parametrize("suite", ["paper", "phong", "plain"])
def test_every_suite_returns_the_sum_and_measures_each_phase_once_or_more(suite):
    records = measure(partial(SuiteSystem, suite), TOY, Patience(rounds=2))
    assert [record.phase for record in records] == SUITE_PHASES
    assert all(record.readings >= 2 for record in records)


@pytest.mark.parametrize("peer", ["phe", pytest.param("tenseal", marks=needs_tenseal)])
def test_every_peer_returns_the_sum_and_measures_each_phase(peer):
    for factory in PEERS.get(peer):
        records = measure(factory, TOY, ONCE)
        assert [record.phase for record in records] == PEER_PHASES
        assert all(record.bytes_per_value > 0 for record in records)


def test_modulus_and_lanes_are_those_of_the_ciphertexts():
    def of(suite):
        record, *_ = measure(partial(SuiteSystem, suite), TOY, ONCE)
        return record.modulus_bits, record.lanes

    assert of("paper") == (512, 3)
    assert of("phong") == (512, 1)
    assert of("plain") == (None, None)


def test_two_cores_are_used_through_worker_processes(monkeypatch):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one core")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    workload = Workload(VALUES, "toy-insecure", threads=2)
    records = measure_apart(partial(SuiteSystem, "paper"), workload, ONCE)
    assert {record.threads for record in records} == {2}


def test_a_wrong_sum_stops_the_run():
    with pytest.raises(EncodingError, match="'echo' did not return the sum of 2"):
        measure(partial(Echo, error=1), TOY, ONCE)


def test_a_sample_is_scaled_up_to_the_update_and_marked():
    (scaled,) = measure(partial(Echo, measured_values=6), TOY, ONCE)
    assert (scaled.sampled, scaled.measured_values, scaled.values) == (True, 6, VALUES)
    assert scaled.bytes_per_value == 4.0


def test_a_whole_update_is_not_called_a_sample():
    (whole,) = measure(partial(Echo, measured_values=10 * VALUES), TOY, ONCE)
    assert (whole.sampled, whole.measured_values) == (False, VALUES)


def test_the_first_round_is_dropped_and_the_others_are_kept():
    system = Echo(TOY)
    (kept,) = measure(lambda workload: system, TOY, Patience(rounds=3))
    assert (system.rounds, kept.readings) == (4, 3 * system.uploads)


def test_a_first_round_beyond_the_budget_is_the_only_one_and_is_kept():
    system = Echo(TOY)
    (kept,) = measure(lambda workload: system, TOY, Patience(rounds=3, budget=0.0))
    assert (system.rounds, kept.readings) == (1, system.uploads)


def test_all_uploads_of_a_round_differ():
    first, second = TOY.updates(2)
    assert (first != second).any()


@pytest.mark.parametrize(
    ("peer", "package", "module"),
    [("phe", "phe", "phe_paillier"), ("tenseal", "tenseal", "tenseal_ckks")],
)
def test_a_peer_that_is_not_installed_names_the_extra(
    monkeypatch, peer, package, module
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"'{peer}'.*hre-torch\[bench\]"):
        importlib.import_module(f"benchmarks.peers.{module}")


def test_an_unknown_suite_or_peer_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownPluginError, match="did you mean 'paper'"):
        find_systems(["papr"], [])
    with pytest.raises(UnknownPluginError, match="did you mean 'tenseal'"):
        find_systems([], ["tenseel"])


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigurationError, match="nothing to measure"):
        find_systems([], [])


@pytest.mark.parametrize("threads", [0, 10_000])
def test_a_number_of_threads_that_the_machine_lacks_is_refused(threads):
    with pytest.raises(ConfigurationError, match="choose between 1 and"):
        check_threads(threads)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--suites", "papr", "did you mean 'paper'"),
        ("--profile", "toy", "toy-insecure"),
        ("--threads", "10000", "choose between"),
        ("--rounds", "0", "must be at least 1"),
        ("--values", "0", "must be at least 1"),
        ("--json", "no/such/folder/r.json", "there is no folder"),
    ],
)
def test_wrong_options_end_the_program_before_any_work(capsys, option, value, message):
    assert main(["--peers", "phe", option, value]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert message in seen.err


def test_the_table_compares_with_the_first_system_phase_by_phase():
    records = [
        record(),
        record(phase="decrypt", seconds=0.1),
        record(system="phe", seconds=5.0, bytes_per_value=768.0, lanes=1),
        record(system="phe", phase="decrypt", seconds=0.05),
        record(system="phe", phase="only_here"),
    ]
    page = table.markdown(describe([]), records)
    assert "| time / paper | bytes / paper |" in page
    assert "| encrypt | phe | 5,000 | 5,000 | 768 | 10.0 | 128 |" in page
    assert "| decrypt | phe | 50.0 | 50.0 | 6.00 | 0.500 | 1.00 |" in page
    assert "| only_here | phe | 500 | 500 | 6.00 | - | - |" in page


def test_the_table_says_what_was_scaled_up():
    sampled = record(system="phe", sampled=True, measured_values=20)
    page = table.markdown(describe([]), [record(), sampled])
    assert "| encrypt | phe* |" in page
    assert "measured on a sample and scaled up: phe from 20 values." in page


def test_the_circumstances_name_machine_versions_and_command_but_no_host():
    seen = describe(["--suites", "paper", "--json", "a file"])
    assert seen["command"] == "python benchmarks/run.py --suites paper --json 'a file'"
    machine = {"cpu", "architecture", "cores", "memory_mib", "system", "load_before"}
    assert set(seen["machine"]) == machine
    assert {"python", "hre_torch", "gmp", "gmpy2", "numpy"} <= set(seen["versions"])


@pytest.mark.parametrize("module", [meter, table])
def test_the_examples_in_the_docstrings_hold(module):
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0
