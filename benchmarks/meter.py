"""A stopwatch with one lap per phase: what each took, and what it moved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.memory import MemoryGauge

__all__ = ["Meter", "Reading"]


@dataclass(slots=True)
class Reading:
    """One measurement of one phase.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: time of this process on the cores, all its threads together.
        bytes: size of the messages that the phase reads and writes; set by whoever
            brackets the phase, after it.
        peak_mib: highest memory beyond what was there before; None if nobody looked.
        fixed_seconds: the part of the time that does not grow with the update.
        fixed_bytes: the part of the bytes that does not grow with the update.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0
    peak_mib: float | None = None
    fixed_seconds: float = 0.0
    fixed_bytes: int = 0


class Meter:
    """Collects the readings of every phase, in the order of their first use.

    Phases nest: the time of an inner one counts for the outer one too. A phase may
    come in several parts, when its role waits for another in between.

    Args:
        gauge: measures memory too, which takes time of its own; None leaves it out.

    >>> meter = Meter()
    >>> with meter("push") as push, meter("encrypt"):
    ...     upload = bytes(12)
    >>> with meter("push", resume=push):
    ...     receipt = bytes(4)
    >>> push.bytes = len(upload) + len(receipt)
    >>> [(phase, len(readings)) for phase, readings in meter.readings.items()]
    [('push', 1), ('encrypt', 1)]
    """

    def __init__(self, gauge: MemoryGauge | None = None) -> None:
        self.readings: dict[str, list[Reading]] = {}
        self._gauge = gauge
        self._open: list[Reading] = []

    @contextmanager
    def __call__(
        self, phase: str, *, times: int = 1, resume: Reading | None = None
    ) -> Iterator[Reading]:
        """Measure the body of the `with` statement as one reading of `phase`.

        Args:
            phase: its name.
            times: how often the body does the same work; the reading is of one.
            resume: reading of the same phase that this body continues.
        """
        reading = Reading() if resume is None else resume
        if resume is None:
            self.readings.setdefault(phase, []).append(reading)
        self._open.append(reading)
        if self._gauge is not None:
            self._gauge.begin()
        started, cpu_started = time.perf_counter(), time.process_time()
        yield reading
        reading.seconds += (time.perf_counter() - started) / times
        reading.cpu_seconds += (time.process_time() - cpu_started) / times
        if self._gauge is not None:
            peak = self._gauge.end()
            if peak is not None:
                reading.peak_mib = max(peak, reading.peak_mib or 0.0)
        self._open.pop()

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Mark work that does not grow with the update, in all phases under way.

        When a sample stands for a longer update, such work is not scaled up.
        """
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        for reading in self._open:
            reading.fixed_seconds += elapsed
