"""Cells become rows: means and spreads over seeds, and whether promises hold."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.accuracy.matrix import Case, Cell, Method

__all__ = ["Accuracy", "Outcome", "Row", "summarise"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cell and its record."""

    cell: Cell
    record: Mapping[str, Any]

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Epochs and accuracies in [0, 1]; empty for `equality`."""
        return [(epoch, accuracy) for epoch, accuracy in self.record.get("curve", ())]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy at the end of training, over seeds.

    Attributes:
        by_seed: seed to percent.
    """

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds, in percent."""
        return statistics.fmean(self.by_seed.values())

    def __str__(self) -> str:
        values = list(self.by_seed.values())
        if len(values) < 2:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {statistics.stdev(values):.2f}"

    def least_lead(self, other: Accuracy) -> float:
        """Return by how many points this is ahead of `other` in the worst seed."""
        return min(
            percent - other.by_seed[seed]
            for seed, percent in self.by_seed.items()
            if seed in other.by_seed
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One case with all its methods.

    Attributes:
        case: network, participants, split.
        methods: what was trained; `pooled` is that of the network.
    """

    case: Case
    methods: Mapping[Method, Accuracy]

    def lead(self, other: Method) -> float | None:
        """Return by how much `federated` leads in the worst seed, if that is known."""
        ours, theirs = self.methods.get("federated"), self.methods.get(other)
        if ours is None or theirs is None:
            return None
        return ours.least_lead(theirs)


def summarise(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row per case, in the order of the matrix."""
    final: dict[tuple[Case, Method], dict[int, float]] = {}
    pooled: dict[tuple[str, int], dict[int, float]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        if not outcome.curve:
            continue
        percent = 100.0 * outcome.curve[-1][1]
        if cell.method == "pooled":
            by_seed = pooled.setdefault((cell.case.network, cell.case.epochs), {})
        else:
            by_seed = final.setdefault((cell.case, cell.method), {})
        by_seed[cell.seed] = percent
    rows = []
    for case in dict.fromkeys(case for case, _ in final):
        methods = {m: Accuracy(seeds) for (c, m), seeds in final.items() if c == case}
        together = pooled.get((case.network, case.epochs))
        if together is not None:
            methods["pooled"] = Accuracy(together)
        rows.append(Row(case, methods))
    return rows
