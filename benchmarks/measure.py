"""Rounds become records: one system measured, alone in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.memory import MemoryGauge
from benchmarks.meter import Meter, Reading
from benchmarks.system import System, SystemFactory
from benchmarks.workload import Workload
from hre_torch.errors import ConfigurationError, EncodingError

__all__ = ["Patience", "Record", "check_threads", "measure", "measure_apart"]

# Read by OpenMP, OpenBLAS and MKL, hence by numpy and torch, when they are loaded.
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


@dataclass(frozen=True)
class Patience:
    """How long to measure one system.

    Attributes:
        rounds: rounds to time, after one that only warms tables and caches; one more,
            after them, gauges memory.
        budget: seconds after which no further round is timed. A first round that takes
            longer than this is the only one: what warms up within seconds does not
            matter there.
    """

    rounds: int = 5
    budget: float = 40.0


@dataclass(frozen=True, slots=True)
class Record:
    """One phase of one system.

    Attributes:
        system: suite or peer.
        phase: one of those that the README lists.
        values: length of the update.
        seconds: median wall-clock time for one update of that length.
        seconds_least: the fastest reading.
        seconds_most: the slowest reading.
        cpu_seconds: median time of the process on the cores, without its workers'.
            Far below `seconds`, it says that somebody else was at work.
        peak_mib: most memory that the phase took beyond what was there before, its
            results included; None where only a sample was measured, or where the
            system does not tell.
        bytes: messages that the phase reads and writes; None where none move.
        bytes_per_value: the same, per value.
        uploads: how many updates a round added.
        threads: cores that the system was allowed to use.
        modulus_bits: length of the ciphertexts' modulus; None without encryption.
        lanes: ciphertexts that share one randomness; None where that means nothing.
        profile: modulus profile of the workload.
        readings: how many readings the median is of.
        sampled: whether only a part of the update was measured, and time and bytes
            were scaled up to its length.
        measured_values: length of that part, or of the update.
    """

    system: str
    phase: str
    values: int
    seconds: float
    seconds_least: float
    seconds_most: float
    cpu_seconds: float
    peak_mib: float | None
    bytes: int | None
    bytes_per_value: float
    uploads: int
    threads: int
    modulus_bits: int | None
    lanes: int | None
    profile: str
    readings: int
    sampled: bool
    measured_values: int


def check_threads(threads: int) -> None:
    """Refuse more threads than this process has cores, and less than one.

    Raises:
        ConfigurationError: the records would not mean what they say.
    """
    cores = len(_cores())
    if not 1 <= threads <= cores:
        raise ConfigurationError(
            f"threads is {threads}, but this process may use {cores} cores; choose "
            f"between 1 and {cores}"
        )


def measure_apart(
    factory: SystemFactory, workloads: Sequence[Workload], patience: Patience
) -> list[Record]:
    """Measure a system in a fresh process that is bound to its threads' cores.

    Nothing that one system builds or leaves behind (tables, threads, memory) can help
    or hinder the next, and no library can take more cores than it was allowed.

    Args:
        factory: makes the system, once per workload.
        workloads: of as many threads, all in one process.
        patience: for each workload.
    """
    threads = workloads[0].threads
    # The process that is about to start reads them before it loads any library.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_settle,
        initargs=(threads,),
    ) as executor:
        return executor.submit(measure, factory, workloads, patience).result()


def measure(
    factory: SystemFactory, workloads: Sequence[Workload], patience: Patience
) -> list[Record]:
    """Measure a system in this process.

    What a system puts off to a replay is measured when all workloads are through, in
    turns: that of the first round of each, of the second round of each, and so on. The
    machine's moods then are the same for all of them.

    Raises:
        EncodingError: a sum came back wrong, so that its price means nothing.
    """
    with ExitStack() as stack:
        played = [
            _play(stack.enter_context(factory(workload)), workload, patience)
            for workload in workloads
        ]
        for number in range(max(len(each.rounds) for each in played)):
            for each in played:
                if number < len(each.rounds):
                    each.system.replay(each.rounds[number])
        return [record for each in played for record in each.records()]


@dataclass(frozen=True, slots=True)
class _Played:
    """Rounds that a system has played.

    Attributes:
        system: the system.
        workload: its work.
        timed: readings of time.
        gauged: readings of memory.
        rounds: which meter took each round, in order.
    """

    system: System
    workload: Workload
    timed: Meter
    gauged: Meter
    rounds: Sequence[Meter]

    def records(self) -> list[Record]:
        """Return one record per phase."""
        for phase, readings in self.timed.readings.items():
            readings[0].peak_mib = _peak(self.gauged.readings[phase])
        return [
            _record(self.system, phase, readings, self.workload)
            for phase, readings in self.timed.readings.items()
        ]


def _play(system: System, workload: Workload, patience: Patience) -> _Played:
    """Play rounds: one to warm up, those that are timed, one that gauges memory.

    Gauging takes time and spoils caches, so that times and memory come from different
    rounds; where one round is all there is patience for, from the same.
    """
    updates = [
        update[: system.measured_values] for update in workload.updates(system.uploads)
    ]
    expected = sum(workload.fixed_point.quantise(update) for update in updates)

    def play(meter: Meter) -> float:
        rounds.append(meter)
        _check_sums(system, expected, system.round(updates, meter))
        return time.perf_counter() - started

    rounds: list[Meter] = []
    started, first = time.perf_counter(), Meter(MemoryGauge())
    if play(first) > patience.budget:
        return _Played(system, workload, first, first, rounds)
    timed, gauged = Meter(), Meter(MemoryGauge())
    for _ in range(patience.rounds):
        if play(timed) > patience.budget:
            break
    play(gauged)
    return _Played(system, workload, timed, gauged, rounds)


def _peak(readings: Sequence[Reading]) -> float | None:
    return max((r.peak_mib for r in readings if r.peak_mib is not None), default=None)


def _check_sums(
    system: System, expected: Any, opened: Sequence[npt.NDArray[np.int64]]
) -> None:
    for values in opened:
        if not np.array_equal(values, expected):
            raise EncodingError(
                f"system {system.name!r} did not return the sum of {system.uploads} "
                f"updates of {expected.size} values; its times mean nothing"
            )


def _record(
    system: System, phase: str, readings: Sequence[Reading], workload: Workload
) -> Record:
    scale = workload.values / system.measured_values
    sampled = system.measured_values < workload.values
    seconds = [_scaled(r.seconds, r.fixed_seconds, scale) for r in readings]
    busy = statistics.median(r.cpu_seconds / r.seconds for r in readings)
    moved = statistics.median(_scaled(r.bytes, r.fixed_bytes, scale) for r in readings)
    return Record(
        system=system.name,
        phase=phase,
        values=workload.values,
        seconds=statistics.median(seconds),
        seconds_least=min(seconds),
        seconds_most=max(seconds),
        cpu_seconds=busy * statistics.median(seconds),
        peak_mib=None if sampled else _peak(readings),
        bytes=round(moved) or None,
        bytes_per_value=moved / workload.values,
        uploads=system.uploads,
        threads=workload.threads,
        modulus_bits=system.modulus_bits,
        lanes=system.lanes,
        profile=workload.profile,
        readings=len(readings),
        sampled=sampled,
        measured_values=system.measured_values,
    )


def _scaled(whole: float, fixed: float, scale: float) -> float:
    """Return what a sample's figure means for the whole update."""
    return fixed + scale * (whole - fixed)


def _settle(threads: int) -> None:
    """Bind this process, and whatever it starts, to its cores; keep it silent."""
    if hasattr(os, "sched_setaffinity"):
        # The last ones: interrupts usually go to the first.
        os.sched_setaffinity(0, _cores()[-threads:])
    # TenSEAL talks on standard output, which belongs to the table.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
