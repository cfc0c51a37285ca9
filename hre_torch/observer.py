"""Phases of work and who may watch them.

Protocol code has no clock: it brackets each phase with an *observer*, a callable that
takes the phase's name and returns a context manager. `silent` watches nothing;
`PhaseTimer` adds up wall-clock seconds and calls per phase.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

__all__ = ["Observer", "PhaseTimer", "silent"]

Observer: TypeAlias = Callable[[str], AbstractContextManager[None]]


def silent(phase: str) -> AbstractContextManager[None]:
    """Watch nothing; the default observer."""
    return nullcontext()


class PhaseTimer:
    """An observer that adds up seconds and calls per phase.

    >>> timer = PhaseTimer()
    >>> with timer("encrypt"):
    ...     pass
    >>> timer.calls["encrypt"]
    1
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Measure the body of a `with` statement under the name of a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed
            self.calls[phase] = self.calls.get(phase, 0) + 1

    def mean_milliseconds(self) -> dict[str, float]:
        """Return the mean duration of one call of each phase, in milliseconds."""
        return {
            phase: 1000.0 * self.seconds[phase] / self.calls[phase]
            # Another thread may be about to add a phase; its calls come last.
            for phase in sorted(self.calls)
        }
