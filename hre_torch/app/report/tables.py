"""The words and numbers in the tables of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hre_torch.app.report.phases import phase_title
from hre_torch.app.report.read import Run
from hre_torch.app.report.theme import duration, number, percent, size

__all__ = ["Comparison", "comparisons", "identical_weights", "summary_rows"]

_TITLES: Final = {
    "suite": "suite",
    "profile": "profile",
    "combine": "combine",
    "participants": "participants",
    "min_contributions": "least contributions per release",
    "parameters": "parameters",
    "epochs": "epochs",
    "test_accuracy": "test accuracy",
    "seconds": "wall-clock time",
    "pushes": "pushes",
    "pulls": "pulls",
    "releases": "releases",
    "rejected": "releases given up as spoiled",
    "spent": "own updates lost in them",
    "held_back": "pushes put off",
    "saturated": "values cut to what a push carries",
    "bytes_up": "bytes sent",
    "bytes_down": "bytes received",
}

# These have a place of their own: the figure and the table of predictions.
_ELSEWHERE: Final = frozenset({"phases_ms"})


@dataclass(frozen=True, slots=True)
class Comparison:
    """One predicted quantity beside its measurement.

    Attributes:
        title: Words for the quantity.
        predicted: Predicted value with its unit.
        measured: Measured value with its unit, or None where the run measured none.
        ratio: Measured divided by predicted, or None where that says nothing.
    """

    title: str
    predicted: str
    measured: str | None
    ratio: float | None


def summary_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return title and one cell per run for every key of any ``summary.json``."""
    present = {key: None for run in runs for key in run.details}
    keys = [key for key in _TITLES if key in present]
    keys += [key for key in present if key not in _TITLES and key not in _ELSEWHERE]
    return [
        (_title(key), [_cell(key, run.details.get(key)) for run in runs])
        for key in keys
    ]


def identical_weights(runs: Sequence[Run]) -> list[list[str]]:
    """Return the labels of runs with equal weights, a list per two or more runs."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if run.summary.weights_sha256:
            groups.setdefault(run.summary.weights_sha256, []).append(run.label)
    return [labels for labels in groups.values() if len(labels) > 1]


def comparisons(run: Run) -> list[Comparison]:
    """Set each number of the start record's estimate beside the same of the summary.

    The estimate and ``summary.json`` share their keys, nested ones too
    (``phases_ms.encrypt``); what only one of them has cannot be compared. What only the
    estimate has, such as the memory of tables, is listed without a measurement.
    """
    measured = dict(_numbers(run.details))
    return [
        _compare(path, value, measured.get(path))
        for path, value in _numbers(run.start.predicted)
    ]


def _numbers(
    tree: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def _compare(
    path: tuple[str, ...], predicted: float, measured: float | None
) -> Comparison:
    return Comparison(
        title=_path_title(path),
        predicted=_quantity(path, predicted),
        measured=None if measured is None else _quantity(path, measured),
        ratio=measured / predicted if measured is not None and predicted > 0 else None,
    )


def _path_title(path: tuple[str, ...]) -> str:
    if path[0] == "phases_ms":
        return "one call: " + ", ".join(phase_title(part) for part in path[1:])
    return ", ".join(_title(part) for part in path)


def _title(key: str) -> str:
    return _TITLES.get(key, key.replace("_", " "))


def _quantity(path: Sequence[str], value: float) -> str:
    """Write a number with the unit that a word of its key names."""
    words = {word for key in path for word in key.split("_")}
    if "ms" in words:
        return duration(value / 1000.0)
    if "seconds" in words:
        return duration(value)
    if "bytes" in words:
        return size(value)
    if "accuracy" in words:
        return percent(value)
    return number(value)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _quantity((key,), value)
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return str(value)
