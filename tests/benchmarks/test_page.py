"""What becomes of records: tables, targets, pictures, and where numbers come from."""

from __future__ import annotations

import doctest

import pytest

from benchmarks import table
from benchmarks.environment import describe
from benchmarks.measure import Record
from benchmarks.plots import draw
from benchmarks.table import ROLE_PHASES
from benchmarks.targets import judge

SIZES = (109_386, 10**6, 10**7)


def record(**changes):
    fields = {
        "system": "paper",
        "phase": "client_push",
        "values": 1000,
        "seconds": 0.5,
        "seconds_least": 0.5,
        "seconds_most": 0.5,
        "cpu_seconds": 0.5,
        "peak_mib": 1.25,
        "bytes": 6000,
        "bytes_per_value": 6.0,
        "uploads": 3,
        "threads": 1,
        "modulus_bits": 3072,
        "lanes": 16,
        "profile": "demo3072",
        "readings": 5,
        "sampled": False,
        "measured_values": 1000,
    }
    return Record(**fields | changes)


def one(records, what):
    (verdict,) = [verdict for verdict in judge(records) if verdict.what == what]
    return verdict


def test_the_table_compares_with_the_first_system_phase_by_phase():
    records = [
        record(),
        record(phase="decrypt", seconds=0.1),
        record(system="phe", seconds=5.0, bytes=768_000, bytes_per_value=768.0),
        record(system="phe", phase="decrypt", seconds=0.05, peak_mib=None),
        record(system="phe", phase="only_here", bytes=None),
    ]
    page = table.markdown(describe([]), records)
    assert "| time / paper | bytes / paper |" in page
    row = "| client_push | phe | 5,000 | 5,000 | 1.2 | 768,000 | 768 | 10.0 | 128 |"
    assert row in page
    assert "| decrypt | phe | 50.0 | 50.0 | - | 6,000 | 6.00 | 0.500 | 1.00 |" in page
    assert "| only_here | phe | 500 | 500 | 1.2 | - | - | - | - |" in page


def test_roles_come_first_and_in_the_order_of_a_round():
    records = [record(phase=phase) for phase in ("encrypt", *reversed(ROLE_PHASES))]
    page = table.markdown(describe([]), records)
    places = [page.index(f"| {phase} |") for phase in (*ROLE_PHASES, "encrypt")]
    assert places == sorted(places)


def test_the_table_says_what_was_scaled_up():
    sampled = record(system="phe", sampled=True, measured_values=20)
    page = table.markdown(describe([]), [record(), sampled])
    assert "| client_push | phe* |" in page
    assert "measured on a sample and scaled up: phe from 20 values." in page


def test_several_lengths_are_summed_up_in_one_line_per_system():
    records = [record(values=n, seconds=n / 1e6) for n in (1000, 3000)]
    records += [record(system="phe", seconds=0.2, sampled=True)]
    page = table.markdown(describe([]), records)
    assert "| paper | 1.00 | 3.00 | - | - |" in page
    assert "| phe | 200* | - | - | - |" in page


def test_training_has_a_table_of_its_own():
    page = table.markdown(describe([]), [record(), record(phase="train_step_5")])
    assert "## Training 1,000 parameters, per local step" in page
    assert page.index("| train_step_5 |") > page.index("per local step")


def test_a_target_is_judged_by_the_records_of_one_run():
    push = {"values": SIZES[0]}
    records = [record(system="hybrid", seconds=0.02, **push)]
    records += [record(system="tenseal", seconds=0.05, lanes=None, **push)]
    kept = one(records, "hybrid: push")
    assert (kept.measured, kept.bound, kept.met) == (20.0, 25, True)
    missed = one(records, "push, TenSEAL over hybrid")
    assert (round(missed.measured, 3), missed.at_most, missed.met) == (
        2.5,
        False,
        False,
    )


def test_a_target_whose_records_are_missing_is_left_out():
    assert judge([record(system="hybrid", phase="dsp_push")]) == []


def test_a_target_that_rests_on_a_sample_says_so():
    push = {"values": SIZES[2]}
    records = [record(system="hybrid", seconds=0.1, **push)]
    records += [record(system="tenseal", seconds=9.0, sampled=True, **push)]
    verdict = one(records, "push of 10^7, TenSEAL over hybrid")
    assert verdict.scaled
    page = table.markdown(describe([]), records, [verdict])
    assert "| push of 10^7, TenSEAL over hybrid* | 90.0 | at least 12 |" in page


def test_the_kts_is_flat_if_its_largest_figure_is_near_its_smallest():
    records = [
        record(system="hybrid", phase="kts_push", values=n, seconds=s, bytes=100)
        for n, s in zip(SIZES, (0.010, 0.012, 0.011), strict=True)
    ]
    spread = one(records, "hybrid: kts_push, time from 10^5 to 10^7 values")
    assert round(spread.measured, 6) == 20.0
    assert not spread.met
    assert one(records, "hybrid: kts_push, bytes from 10^5 to 10^7 values").met


@pytest.mark.parametrize("changes", [{"threads": 2}, {"modulus_bits": 512}])
def test_targets_hold_for_one_core_and_3072_bits_only(changes):
    records = [record(system="hybrid", values=SIZES[0])]
    assert judge(records)
    assert judge([record(system="hybrid", values=SIZES[0], **changes)]) == []


def test_pictures_are_drawn_of_whatever_was_measured(tmp_path):
    records = [
        record(system=system, phase=phase, values=values)
        for system in ("hybrid", "plain")
        for phase in ("client_push", "client_pull", "train_step", "train_step_5")
        for values in (10, 1000)
    ]
    written = draw(describe([]), records, tmp_path / "all")
    names = ["all-push.png", "all-bytes.png", "all-roles.png", "all-training.png"]
    assert [path.name for path in written] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert draw(describe([]), [record(phase="mask")], tmp_path / "none") == []


def test_the_circumstances_name_machine_versions_and_command_but_no_host():
    seen = describe(["--suites", "paper", "--json", "a file"])
    assert seen["command"] == "python benchmarks/run.py --suites paper --json 'a file'"
    machine = {"cpu", "architecture", "cores", "memory_mib", "system", "load_before"}
    assert set(seen["machine"]) == machine
    assert {"python", "hre_torch", "gmp", "gmpy2", "numpy"} <= set(seen["versions"])


def test_the_examples_in_the_docstrings_hold():
    failed, attempted = doctest.testmod(table)
    assert attempted > 0
    assert failed == 0
