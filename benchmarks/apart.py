"""A server in a process of its own, as it is in reality.

What the other roles leave in the processor's caches is then not in its times.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection

from benchmarks.memory import MemoryGauge
from benchmarks.meter import Reading

__all__ = ["Apart"]

Answer = Callable[[bytes], bytes]
Make = Callable[[], AbstractContextManager[Mapping[str, Answer]]]


class Apart:
    """Runs functions from bytes to bytes in a forked process and measures them there.

    Args:
        make: builds the functions, by name; entered in the new process, and left
            before it ends.
    """

    def __init__(self, make: Make) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._pipe, make))
        self._process.start()
        theirs.close()

    def call(self, name: str, message: bytes, *, gauged: bool) -> tuple[bytes, Reading]:
        """Return a function's answer, and what it took without the way there and back.

        Args:
            name: of the function.
            message: its argument.
            gauged: measure memory too, which takes time of its own.

        Raises:
            EOFError: the function raised an exception, which the process has printed.
        """
        self._pipe.send((name, message, gauged))
        answer: tuple[bytes, Reading] = self._pipe.recv()
        return answer

    def close(self) -> None:
        """End the process."""
        # Worker processes may hold copies of the pipe, so closing it would not be seen.
        self._pipe.send(None)
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, theirs: Connection, make: Make) -> None:
    theirs.close()
    _move_to_other_cores()
    gauge = MemoryGauge()
    with make() as functions:
        while (asked := pipe.recv()) is not None:
            name, message, gauged = asked
            if gauged:
                gauge.begin()
            started, cpu_started = time.perf_counter(), time.process_time()
            answer = functions[name](message)
            reading = Reading(
                seconds=time.perf_counter() - started,
                cpu_seconds=time.process_time() - cpu_started,
                peak_mib=gauge.end() if gauged else None,
            )
            pipe.send((answer, reading))


def _move_to_other_cores() -> None:
    """Leave the cores of whoever started this process, if there are others."""
    if not hasattr(os, "sched_setaffinity"):
        return
    taken = os.sched_getaffinity(0)
    others = {*range(os.cpu_count() or 1)} - taken
    with suppress(OSError):
        os.sched_setaffinity(0, sorted(others)[: len(taken)] or taken)
