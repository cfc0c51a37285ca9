"""Where arithmetic runs, and what becomes of it when a worker process is killed."""

from __future__ import annotations

import os
import signal

import pytest

from hre_torch.errors import LostWorkerWarning
from hre_torch.protocol.workers import Workers


def double(value: int) -> int:
    return 2 * value


def die(value: int, parent: int) -> int:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(value)


def test_a_killed_worker_process_costs_time_only():
    workers = Workers.processes(2)
    assert workers.map(double, range(5)) == [0, 2, 4, 6, 8]
    with pytest.warns(LostWorkerWarning, match="one thread"):
        assert workers.map(die, range(5), os.getpid()) == [0, 2, 4, 6, 8]
    assert workers.map(double, range(5)) == [0, 2, 4, 6, 8]
    workers.close()
