"""A DSP among hostile clients: honest ones hardly notice, memory stays bounded."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.servers.contract import same

pytestmark = pytest.mark.servers
PROGRAM = Path(__file__).with_name("hostile_clients.py")
PAUSE = 0.1


def resident_bytes(process: subprocess.Popen) -> int:
    """Return the resident memory of a process."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return 4096 * int(pages)


def latencies(session, count: int) -> list[float]:
    """Return how long so many pushes take, one by one, in seconds."""
    measured = []
    for _ in range(count):
        started = time.perf_counter()
        session.push(same(1))
        measured.append(time.perf_counter() - started)
        # Nothing is released here, and the longest attack must end before Q uploads.
        time.sleep(PAUSE)
    return measured


@pytest.fixture
def attackers_core():
    """Give attackers a core of their own, as they have machines of their own.

    Servers and honest clients stay on the others; None where there is but one.
    """
    usual, cores = os.sched_getaffinity(0), set(range(os.cpu_count() or 1))
    theirs = max(cores) if len(cores) > 1 else None
    os.sched_setaffinity(0, (usual - {theirs}) or (cores - {theirs}))
    yield theirs
    os.sched_setaffinity(0, usual)


@pytest.fixture
def no_collections():
    """Keep this process's own garbage collector out of the measured times."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def attacked(site, session, plan: tuple[str, ...], core: int | None):
    """Push while others attack; return how long pushes took, and the answers seen."""
    attackers = subprocess.Popen(
        ["nice", "-n", "19", sys.executable, PROGRAM, site.url("dsp"), *plan],
        stdout=subprocess.PIPE,
        text=True,
    )
    if core is not None:
        os.sched_setaffinity(attackers.pid, {core})
    measured: list[float] = []
    while attackers.poll() is None:
        measured += latencies(session, 1)
    assert measured
    return measured, json.loads(attackers.communicate()[0])


def run_attack(
    make_site, core: int | None, connections: int, burst: int, rounds: int, samples: int
) -> tuple[float, float]:
    """Attack, check everything but time; return honest p99 before and meanwhile.

    Quiet and attack take turns, so that whatever slows the machine meets both.
    """
    site = make_site("plain", max_additions=8192, pending_limit=2730)
    site.start("kts", "dsp")
    site.wait_ready()
    recorded = site.folder / "upload"
    session = site.connect("p0", initial=site.folder / "initial.npy", timeout=10)
    submit = session._carrier.aggregator.submit
    session._carrier.aggregator.submit = lambda data: (
        recorded.write_bytes(data),
        submit(data),
    )[1]
    latencies(session, 5)
    session._carrier.aggregator.submit = submit
    plan = (str(connections // rounds), str(recorded), str(burst))
    quiet: list[float] = []
    meanwhile: list[float] = []
    before = resident_bytes(site.processes["dsp"])
    for _ in range(rounds):
        quiet += latencies(session, samples)
        measured, seen = attacked(site, session, plan, core)
        meanwhile += measured
        check_answers(seen)
    grown = resident_bytes(site.processes["dsp"]) - before
    assert grown < 64 << 20
    assert session.statistics.pushes == 5 + len(quiet) + len(meanwhile)
    session.close()
    before_ms, meanwhile_ms = (
        1000 * float(np.percentile(each, 99)) for each in (quiet, meanwhile)
    )
    print(
        f"{connections} connections, bursts of {burst}: honest p99 {before_ms:.1f} ms "
        f"before ({len(quiet)} pushes), {meanwhile_ms:.1f} ms meanwhile "
        f"({len(meanwhile)}); memory {grown / 2**20:+.1f} MiB"
    )
    return before_ms, meanwhile_ms


def check_answers(seen: dict[str, int]) -> None:
    """Every attack gets the answer that it deserves, and the server never breaks."""
    answers: dict[str, set[str]] = {}
    for each in seen:
        name, status = each.split(": ")
        if status in ("none", "closed"):
            continue  # On a busy machine some attackers give up first.
        answers.setdefault(name, set()).add(status)
    assert not any(s.startswith("5") for each in answers.values() for s in each)
    assert answers["oversize"] == {"413"}
    assert answers["no length"] == {"411"}
    assert answers["replay"] == {"200"}
    for refused in ("garbage body", "changed head", "changed body", "wrong route"):
        assert answers[refused] <= {"403", "409", "422"}, answers


@pytest.mark.parametrize(
    "connections",
    [
        pytest.param(200, marks=pytest.mark.gate),
        pytest.param(1000, marks=pytest.mark.slow),
    ],
)
def test_hostile_connections_get_typed_errors_and_no_memory(
    make_site, attackers_core, connections
):
    run_attack(make_site, attackers_core, connections, burst=100, rounds=1, samples=20)


@pytest.mark.slow
@pytest.mark.parametrize("burst", [1, 200])
def test_honest_latency_at_most_doubles_under_20000_hostile_connections(
    make_site, attackers_core, no_collections, burst
):
    before, meanwhile = run_attack(
        make_site, attackers_core, 20_000, burst, rounds=10, samples=80
    )
    assert meanwhile <= 2 * before
