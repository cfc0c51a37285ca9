"""Records are honest: checked sums, warm rounds, marked samples, memory that counts."""

from __future__ import annotations

import doctest
import os
from functools import partial

import numpy as np
import pytest

from benchmarks import memory, meter
from benchmarks.measure import Patience, check_threads, measure, measure_apart
from benchmarks.memory import MemoryGauge
from benchmarks.meter import Meter
from benchmarks.suites import SuiteSystem
from benchmarks.system import System
from benchmarks.workload import Workload
from hre_torch.errors import ConfigurationError, EncodingError

VALUES = 60
TOY = Workload(values=VALUES, profile="toy-insecure")
ONCE = Patience(rounds=1)
MIB = 1 << 20


class Echo(System):
    """A system that adds in the clear, and lies by `error`."""

    def __init__(self, workload, *, error=0, **options):
        super().__init__("echo", workload, modulus_bits=None, lanes=None, **options)
        self.fixed_point = workload.fixed_point
        self.error = error
        self.rounds = 0

    def round(self, updates, meter):
        self.rounds += 1
        for update in updates:
            with meter("encrypt") as reading:
                upload = self.fixed_point.quantise(update).tobytes()
                with meter.fixed():
                    header = bytes(8)
            reading.bytes, reading.fixed_bytes = len(header + upload), len(header)
        return [sum(map(self.fixed_point.quantise, updates)) + self.error]


def test_a_wrong_sum_stops_the_run():
    with pytest.raises(EncodingError, match="'echo' did not return the sum of 3"):
        measure(partial(Echo, error=1), [TOY], ONCE)


def test_a_sample_is_scaled_up_to_the_update_and_marked():
    (scaled,) = measure(partial(Echo, measured_values=6), [TOY], ONCE)
    assert (scaled.sampled, scaled.measured_values, scaled.values) == (True, 6, VALUES)
    assert scaled.peak_mib is None


def test_what_does_not_grow_with_the_update_is_not_scaled_up():
    (scaled,) = measure(partial(Echo, measured_values=6), [TOY], ONCE)
    assert scaled.bytes == 8 + 4 * VALUES


def test_the_workload_may_ask_for_a_sample():
    (scaled,) = measure(Echo, [Workload(VALUES, "toy-insecure", sample=20)], ONCE)
    assert (scaled.sampled, scaled.measured_values) == (True, 20)


def test_a_whole_update_is_not_called_a_sample():
    (whole,) = measure(partial(Echo, measured_values=10 * VALUES), [TOY], ONCE)
    assert (whole.sampled, whole.measured_values) == (False, VALUES)


def test_the_first_and_the_last_round_are_not_timed():
    system = Echo(TOY)
    (kept,) = measure(lambda workload: system, [TOY], Patience(rounds=3))
    assert (system.rounds, kept.readings) == (5, 3 * system.uploads)


def test_a_first_round_beyond_the_budget_is_the_only_one_and_is_kept():
    system = Echo(TOY)
    (kept,) = measure(lambda workload: system, [TOY], Patience(rounds=3, budget=0.0))
    assert (system.rounds, kept.readings) == (1, system.uploads)


def test_all_uploads_of_a_round_differ_and_lie_on_the_grid():
    first, second, third = TOY.updates(3)
    assert (first != second).any()
    assert (first != third).any()
    assert np.array_equal(first * 2**16, np.rint(first * 2**16))


def test_a_phase_may_come_in_parts():
    stopwatch = Meter()
    with stopwatch("push") as push:
        pass
    before = push.seconds
    with stopwatch("push", resume=push) as again:
        sum(range(1000))
    assert again is push
    assert push.seconds > before
    assert len(stopwatch.readings["push"]) == 1


@pytest.fixture
def gauge():
    gauge = MemoryGauge()
    gauge.begin()
    if gauge.end() is None:
        pytest.skip("this system does not tell peaks of memory")
    return gauge


def test_memory_that_numpy_took_and_gave_back_counts(gauge):
    gauge.begin()
    np.ones(64 * MIB, dtype=np.uint8)
    assert 56 < gauge.end() < 80


def test_the_memory_of_an_inner_phase_counts_for_the_outer_one_too(gauge):
    stopwatch = Meter(gauge)
    with stopwatch("outer") as outer:
        with stopwatch("inner") as inner:
            np.ones(64 * MIB, dtype=np.uint8)
        with stopwatch("small") as small:
            pass
    assert outer.peak_mib > 56
    assert inner.peak_mib > 56
    assert small.peak_mib < 8


def test_the_memory_before_an_inner_phase_counts_for_the_outer_one_alone(gauge):
    stopwatch = Meter(gauge)
    with stopwatch("outer") as outer:
        np.ones(64 * MIB, dtype=np.uint8)
        with stopwatch("inner") as inner:
            pass
    assert outer.peak_mib > 56
    assert inner.peak_mib < 8


def test_what_is_put_off_is_measured_side_by_side_for_all_lengths():
    order = []

    class Later(Echo):
        def replay(self, meter):
            order.append(self.measured_values)
            with meter("kts_push"):
                pass

    lengths = [Workload(values, "toy-insecure") for values in (20, VALUES)]
    records = measure(Later, lengths, Patience(rounds=2))
    assert order == [20, VALUES] * 4
    readings = {r.values: r.readings for r in records if r.phase == "kts_push"}
    assert readings == {20: 2, VALUES: 2}


def test_without_proc_memory_is_unknown_and_times_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "no" / "proc")
    (kept,) = measure(Echo, [TOY], ONCE)
    assert kept.peak_mib is None
    assert kept.seconds > 0


def test_two_cores_are_used_through_worker_processes(monkeypatch):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one core")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    workload = Workload(VALUES, "toy-insecure", threads=2)
    records = measure_apart(partial(SuiteSystem, "paper"), [workload], ONCE)
    assert {record.threads for record in records} == {2}


@pytest.mark.parametrize("threads", [0, 10_000])
def test_a_number_of_threads_that_the_machine_lacks_is_refused(threads):
    with pytest.raises(ConfigurationError, match="choose between 1 and"):
        check_threads(threads)


def test_the_examples_in_the_docstrings_hold():
    failed, attempted = doctest.testmod(meter)
    assert attempted > 0
    assert failed == 0
