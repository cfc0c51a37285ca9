"""Runs that are killed at any moment are unfinished; resumed to the end, verified."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import hre_torch
from hre_torch.app.audit import audit
from tests.app.audit.conftest import SMALL

ROOT = Path(hre_torch.__file__).parents[1]
KILLS = 20


def train_and_kill(out: Path, records: int) -> bool:
    """Start or resume a run, kill it after so many records; return whether it ended."""
    command = [sys.executable, "-m", "tests.app.audit.kill_driver", str(out)]
    with subprocess.Popen(
        [*command, *SMALL, "train.epochs=2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for _ in range(records):
            process.stdout.readline()
        process.kill()
    return process.returncode == 0


@pytest.mark.slow
def test_killed_runs_are_unfinished_and_end_verified_under_one_operator(tmp_path):
    draw = random.Random(1)
    kills, ended = 0, 0
    while kills < KILLS:
        run, operators = tmp_path / f"run-{ended}", set()
        # The first kill comes once there is something to resume from.
        while not train_and_kill(run, draw.randint(1, 60)):
            kills += 1
            report = audit(run)
            if report.finished:
                break
            assert report.findings == []
            operators.add(report.operator)
        report = audit(run)
        assert (report.findings, report.finished) == ([], True)
        assert operators | {report.operator} == {report.operator}
        ended += 1
    assert ended > 0
