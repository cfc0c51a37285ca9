"""A stopwatch with one lap per phase: what each took, and what it moved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Meter", "Reading"]


@dataclass(slots=True)
class Reading:
    """One measurement of one phase.

    Attributes:
        seconds: wall-clock time.
        bytes: size of the message that the phase reads or writes; set by whoever
            brackets the phase, after it.
    """

    seconds: float = 0.0
    bytes: int = 0


class Meter:
    """Collects the readings of every phase, in the order of their first use.

    >>> meter = Meter()
    >>> with meter("encrypt") as reading:
    ...     upload = bytes(12)
    >>> reading.bytes = len(upload)
    >>> [(phase, len(readings)) for phase, readings in meter.readings.items()]
    [('encrypt', 1)]
    """

    def __init__(self) -> None:
        self.readings: dict[str, list[Reading]] = {}

    @contextmanager
    def __call__(self, phase: str, *, times: int = 1) -> Iterator[Reading]:
        """Measure the body of the `with` statement as one reading of `phase`.

        Args:
            phase: its name.
            times: how often the body does the same work; the reading is of one.
        """
        reading = Reading()
        started = time.perf_counter()
        yield reading
        reading.seconds = (time.perf_counter() - started) / times
        self.readings.setdefault(phase, []).append(reading)
