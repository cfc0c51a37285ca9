"""What a recipient's fetches cost each server, while its tables are not there yet.

    python -m benchmarks.recipients

The release is cached already, as it is for everybody but its first recipient. Processor
time is told, since a waiting machine would double any other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from benchmarks.environment import cpu_name
from benchmarks.suites import task_config
from benchmarks.workload import Workload
from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM
from hre_torch.protocol.suite import Workload as Planned
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.workers import Workers

_VISITS: Final = 10
_TRIES: Final = 5
_VALUES: Final = 1000
"""The key layer of `hybrid` is the same for any model."""


def main() -> None:
    """Print a table of visits, in milliseconds."""
    print(f"{cpu_name()}, one thread, processor time in ms, median of {_TRIES}")
    visits = " ".join(f"{visit:>7}" for visit in range(1, _VISITS + 1))
    print(f"{'profile':10} {'server':6} {'MB':>5} {visits}")
    for profile in ("rsa2048", "demo3072"):
        workload = Workload(_VALUES, profile=profile, participants=2 * _TRIES + 1)
        for server, rows in _measure(workload).items():
            medians = " ".join(f"{x:7.1f}" for x in np.median(rows, axis=0) * 1e3)
            megabytes = _memory(workload.parameters) / 1e6
            print(f"{profile:10} {server:6} {megabytes:5.1f} {medians}")


def _measure(workload: Workload) -> dict[str, list[list[float]]]:
    """Return by server the seconds of the first visits of fresh recipients."""
    suite, parameters = SUITES.get("hybrid"), workload.parameters
    names = [f"p{index}" for index in range(workload.participants)]
    operator = SigningKey.generate()
    secrets, roster = suite.setup(names, parameters, operator=operator.public)
    config = task_config(suite, workload, roster, bytes(32))
    task = Task(config, roster, parameters, sign_task(config, operator))
    workers = Workers()
    parts = (
        suite.participant(task, secrets[names[0]], workers)
        .encrypt(np.zeros(_VALUES, dtype=np.int32))
        .parts
    )
    dsp = suite.data_service(task, secrets[DATA_SERVICE], workers)
    kts = suite.key_transform(task, secrets[KEY_TRANSFORM], workers)
    total, heads = dsp.restore(parts), kts.restore(parts[:1])
    servers: dict[str, Callable[[str], object]] = {
        "DSP": lambda name: dsp.begin(total, name),
        "KTS": lambda name: kts.transform(heads, (), name),
    }
    rows: dict[str, list[list[float]]] = {}
    fresh = iter(names[1:])
    for server, fetch in servers.items():
        # What everybody else needs of a release, and the table of g.
        fetch(names[0])
        rows[server] = [_visits(fetch, next(fresh)) for _ in range(_TRIES)]
    return rows


def _visits(fetch: Callable[[str], object], name: str) -> list[float]:
    spent = []
    for _ in range(_VISITS):
        started = time.process_time()
        fetch(name)
        spent.append(time.process_time() - started)
    return spent


def _memory(parameters: Parameters) -> int:
    workload = Planned(_VALUES, 1, 16, 64)
    return SUITES.get("hybrid").plan(parameters, workload).recipient_bytes


if __name__ == "__main__":
    sys.exit(main())
