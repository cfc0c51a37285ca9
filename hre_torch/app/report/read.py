"""What a finished run directory says about itself, checked once.

A run directory is written by ``hre-torch train RECIPE --out DIR``. The report needs
three of its files: ``recipe.yaml`` (the resolved recipe), ``metrics.jsonl`` (one JSON
object per line, told apart by its ``event``) and ``summary.json`` (written last). Each
line becomes a frozen record here; code behind this file trusts it. Events of a kind
that this version does not draw are passed over, so that newer runs can still be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from hre_torch.errors import RunDirectoryError

__all__ = ["Evaluation", "Release", "Run", "Start", "Summary", "read_runs"]

_FILES: Final = ("recipe.yaml", "metrics.jsonl", "summary.json")
_REMEDY: Final = (
    "A finished run directory holds recipe.yaml, metrics.jsonl and summary.json; "
    "`hre-torch train RECIPE --out DIR` writes them, and "
    "`hre-torch train --resume DIR` finishes an interrupted run."
)

_Record = TypeVar("_Record")


class Start(msgspec.Struct, frozen=True):
    """The first line of ``metrics.jsonl``: what the run is expected to cost."""

    predicted: dict[str, Any] = {}


class Evaluation(msgspec.Struct, frozen=True):
    """One measurement of the released weights on the test data.

    ``global_step`` counts the local steps of all participants together; ``bytes_up``
    and ``bytes_down`` are totals over all participants since the start.
    """

    global_step: int
    seconds: float
    accuracy: float
    bytes_up: int
    bytes_down: int


class Release(msgspec.Struct, frozen=True):
    """One release: whose updates it opened, and how old each one's base was."""

    version: int
    contributors: tuple[str, ...]
    staleness: tuple[int, ...]


class Summary(msgspec.Struct, frozen=True):
    """The keys that every ``summary.json`` has, and the digest of the weights."""

    suite: str
    profile: str
    participants: int
    parameters: int
    pushes: int
    pulls: int
    releases: int
    bytes_up: int
    bytes_down: int
    seconds: float
    phases_ms: dict[str, float]
    test_accuracy: float | None
    weights_sha256: str | None = None


class _Event(msgspec.Struct, frozen=True):
    event: str
    participant: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory, read and checked.

    Attributes:
        label: Name in figures and tables, unique within one report.
        recipe: The resolved recipe, as the text of ``recipe.yaml``.
        start: The cost that was predicted.
        participants: Everyone who pushed, pulled or contributed; `p2` before `p10`.
        evaluations: In the order in which they were made.
        releases: In the order in which they were made.
        summary: The keys of ``summary.json`` that every run has.
        details: All keys of ``summary.json``, for the table.
    """

    label: str
    recipe: str
    start: Start
    participants: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    releases: tuple[Release, ...]
    summary: Summary
    details: dict[str, Any]


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Read run directories; one that is given twice is read once.

    Raises:
        RunDirectoryError: No directory was given, or one is missing, is not a finished
            run, or is damaged. The message names the file and the line.
    """
    if not run_dirs:
        raise RunDirectoryError("No run directory was given. " + _REMEDY)
    directories = list(dict.fromkeys(Path(path).resolve() for path in run_dirs))
    labels = _labels(directories)
    return [
        _read_run(path, label) for path, label in zip(directories, labels, strict=True)
    ]


def _labels(directories: Sequence[Path]) -> list[str]:
    """Name each directory by its last parts, as few as tell all of them apart."""
    deepest = max(len(path.parts) for path in directories)
    for depth in range(1, deepest + 1):
        labels = ["/".join(path.parts[-depth:]) for path in directories]
        if len(set(labels)) == len(directories):
            break
    return [_encodable(label) for label in labels]


def _encodable(text: str) -> str:
    """Replace what UTF-8 cannot carry, such as a file name of undecodable bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_run(directory: Path, label: str) -> Run:
    if not directory.is_dir():
        raise RunDirectoryError(f"{directory} is not a directory. {_REMEDY}")
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if missing:
        raise RunDirectoryError(
            f"{directory} is not a finished run directory: "
            f"{' and '.join(missing)} not found. {_REMEDY}"
        )
    texts = {name: _read_text(directory / name) for name in _FILES}
    metrics = _read_metrics(texts["metrics.jsonl"], directory / "metrics.jsonl")
    where = f"{directory / 'summary.json'}"
    return Run(
        label=label,
        recipe=texts["recipe.yaml"],
        # A resumed run may have announced itself again; the first plan is the whole.
        start=metrics.starts[0],
        participants=_in_order(metrics.names),
        evaluations=tuple(metrics.evaluations),
        releases=tuple(metrics.releases),
        summary=_decode(texts["summary.json"], Summary, where),
        details=_decode(texts["summary.json"], dict[str, Any], where),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}. {_REMEDY}") from error


@dataclass(slots=True)
class _Metrics:
    """What is gathered from the lines of ``metrics.jsonl``."""

    starts: list[Start] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    evaluations: list[Evaluation] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)


def _read_metrics(text: str, path: Path) -> _Metrics:
    metrics = _Metrics()
    # Not `splitlines`: JSON strings may hold what it takes for the end of a line.
    lines = text.removesuffix("\n").split("\n") if text else []
    for position, line in enumerate(lines, start=1):
        where = f"{path}, line {position}"
        event = _decode(line, _Event, where)
        if event.participant is not None:
            metrics.names.add(event.participant)
        if event.event == "start":
            metrics.starts.append(_decode(line, Start, where))
        elif event.event == "evaluation":
            metrics.evaluations.append(_decode(line, Evaluation, where))
        elif event.event == "release":
            release = _decode(line, Release, where)
            metrics.releases.append(release)
            metrics.names.update(release.contributors)
    if not metrics.starts:
        raise RunDirectoryError(
            f'{path} has no line with "event": "start", which should be its first. '
            + _REMEDY
        )
    return metrics


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def _decode(text: str, kind: type[_Record], where: str) -> _Record:
    """Decode one JSON text into `kind`, or say where and why it cannot be."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise RunDirectoryError(f"{where} is damaged: {error}. {_REMEDY}") from error
