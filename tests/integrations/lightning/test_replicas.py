"""DDP on two processes: one participant, one session, equal weights everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.mark.gate
def test_two_processes_push_once_and_stay_alike(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(tmp_path), "released"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    zero, one = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)
    )
    assert zero["weights"] == one["weights"]
    assert zero["seen"] == one["seen"]
    # Half of the six batches for each process, three epochs; one push is the rest.
    assert zero["steps"] == 9
    assert zero["pushes"] == 5
    assert (tmp_path / "session0").exists()
    assert not (tmp_path / "session1").exists()
    assert sum(zero["losses"][-3:]) < sum(zero["losses"][:3])
