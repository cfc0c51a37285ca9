"""How long each phase takes, for whom, each moment counted once.

In a federation of one process phases lie inside one another: the DSP checks and adds
while a participant submits. Here a phase is charged only for what it does itself, so
that the phases of everybody add up to the time of the run: "submit" and "fetch" are
what is left of carrying messages once the servers' own phases are taken out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from hre_torch.observer import Observer

__all__ = ["PhaseBook", "PhaseTotal"]


class PhaseTotal(msgspec.Struct):
    """Seconds and calls of one phase."""

    seconds: float = 0.0
    calls: int = 0


class PhaseBook:
    """Exclusive time of every phase, per party.

    >>> ticks = iter([0.0, 1.0, 3.0, 4.0])
    >>> book = PhaseBook(clock=lambda: next(ticks))
    >>> with book.observer("p0")("submit"):
    ...     with book.observer("servers")("add"):
    ...         pass
    >>> book.milliseconds("p0"), book.milliseconds("servers")
    ({'submit': 2000.0}, {'add': 2000.0})

    Args:
        totals: party to phase to what was measured before, in a resumed run.
        clock: returns seconds; replaced in tests.
    """

    def __init__(
        self,
        totals: dict[str, dict[str, PhaseTotal]] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.totals = totals if totals is not None else {}
        self._clock = clock
        # One entry per phase that is open: the time spent in phases inside it.
        self._inside: list[float] = []

    def observer(self, party: str) -> Observer:
        """Return an observer that charges its phases to `party`."""
        phases = self.totals.setdefault(party, {})

        @contextmanager
        def observe(phase: str) -> Iterator[None]:
            self._inside.append(0.0)
            started = self._clock()
            try:
                yield
            finally:
                elapsed = self._clock() - started
                own = elapsed - self._inside.pop()
                if self._inside:
                    self._inside[-1] += elapsed
                total = phases.setdefault(phase, PhaseTotal())
                total.seconds += own
                total.calls += 1

        return observe

    def milliseconds(self, party: str | None = None) -> dict[str, float]:
        """Return the mean time of one call of each phase.

        Args:
            party: whose; of all parties together if left out.
        """
        parties = list(self.totals) if party is None else [party]
        sums: dict[str, PhaseTotal] = {}
        for name in parties:
            for phase, total in self.totals.get(name, {}).items():
                joint = sums.setdefault(phase, PhaseTotal())
                joint.seconds += total.seconds
                joint.calls += total.calls
        return {
            phase: 1000.0 * total.seconds / total.calls for phase, total in sums.items()
        }
