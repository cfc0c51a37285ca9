"""Re-checking a run directory, without any secret."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hre_torch.app.audit.claims import contradictions, unproved
from hre_torch.app.audit.manifest import (
    CHECKPOINT,
    MANIFEST,
    METRICS,
    RECIPE,
    SUMMARY,
    WEIGHTS,
    changes,
    later_files,
    read_manifest,
)
from hre_torch.app.audit.replay import History, Replay
from hre_torch.app.audit.transcript import TRANSCRIPT, read_records, read_task
from hre_torch.errors import HREError, RunDirectoryError
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM

__all__ = ["AuditReport", "audit"]

_FILES: Final = (RECIPE, METRICS, TRANSCRIPT, WEIGHTS, SUMMARY)
"""What every finished run has left."""


@dataclass(slots=True)
class AuditReport:
    """What an audit saw.

    Attributes:
        suite: suite of the run.
        operator: Ed25519 key of the operator that the transcript names.
        finished: whether the run has ended; if not, only its transcript so far can be
            checked.
        uploads: deposits that verified.
        releases: releases that verified.
        findings: what is wrong, in words, with the file first; empty for an honest run.
        notes: what an auditor should know that is not wrong.
    """

    suite: str = ""
    operator: bytes = b""
    finished: bool = True
    uploads: int = 0
    releases: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def audit(run_dir: Path, operator: bytes | None = None) -> AuditReport:
    """Re-check a run directory.

    Reading the transcript stops at the first record that does not verify, since
    everything after it depends on it.

    Args:
        run_dir: directory that `train --out` wrote.
        operator: the Ed25519 key that must have signed the run; by default the one that
            the run itself names.

    Raises:
        RunDirectoryError: it is no run directory.
    """
    if not any((run_dir / name).is_file() for name in (TRANSCRIPT, MANIFEST)):
        raise RunDirectoryError(
            f"{run_dir} holds no {TRANSCRIPT}; audit a directory that `hre-torch train "
            "--out` wrote"
        )
    unfinished = (run_dir / CHECKPOINT).is_dir() and not (run_dir / SUMMARY).exists()
    report = AuditReport(finished=not unfinished)
    history = _replayed(run_dir / TRANSCRIPT, report)
    verified = not report.findings
    if history is not None:
        signer = report.operator = history.task.roster.operator
        report.suite = history.task.config.suite
        report.uploads, report.releases = history.uploads, len(history.releases)
        if operator not in (None, signer):
            report.findings.append(
                f"{TRANSCRIPT}: its operator is {signer.hex()}, not the one that you "
                "named: it is the transcript of another run, or the whole directory "
                "was made anew"
            )
    if not report.finished:
        report.notes.append(
            f"{SUMMARY}: it is missing, and {CHECKPOINT}/ is there: the run has not "
            "ended. Nothing vouches yet for any other file, nor for how long the "
            "transcript was"
        )
    else:
        report.findings += _wrong_files(run_dir, history, report)
    if report.finished and history is not None and verified:
        missing = {DATA_SERVICE, KEY_TRANSFORM} - history.concluded
        if missing:
            names = " and ".join(sorted(missing))
            report.findings.append(
                f"{TRANSCRIPT}: its end is not signed by {names}: it is cut off"
            )
        report.findings += dict.fromkeys(contradictions(run_dir, history))
        if not report.findings:
            report.notes += unproved(run_dir, history)
    return report


def _replayed(path: Path, report: AuditReport) -> History | None:
    """Return what a transcript shows, as far as it verifies; None if it is unusable."""
    where, replay = "", None
    if not path.is_file():
        report.findings.append(f"{path.name}: it is missing")
        return None
    try:
        with path.open("rb") as file:
            records = read_records(file, killed=not report.finished)
            for number, body in enumerate(records):
                where = f", record {number}" if number else ", the task"
                if replay is None:
                    replay = Replay(read_task(body))
                else:
                    replay.feed(body)
            where = ", the end"
    except OSError as error:
        report.findings.append(f"{path.name}: it cannot be read ({error.strerror})")
    except HREError as error:
        report.findings.append(f"{path.name}{where}: {error}")
    if replay is None and not report.findings:
        report.findings.append(f"{path.name}: it holds no task")
    return None if replay is None else replay.history


def _wrong_files(
    run_dir: Path, history: History | None, report: AuditReport
) -> Iterator[str]:
    """Yield what is wrong with the files of a finished run; note what came later."""
    try:
        manifest = read_manifest(run_dir)
    except HREError as error:
        yield f"{MANIFEST}: {error}"
        return
    if history is not None:
        try:
            manifest.verify(history.task.roster.operator, history.task.cfg)
        except HREError as error:
            yield f"{MANIFEST}: {error}"
    for name in _FILES:
        if name not in manifest.files:
            yield f"{MANIFEST}: it does not list {name}, which every run writes"
    yield from changes(run_dir, manifest)
    report.notes += [
        f"{name}: it came after the end of the run, and nobody has signed it"
        for name in later_files(run_dir, manifest)
    ]
