"""Servers that are killed again and again lose nothing and do nothing twice.

A file system in memory serves as well as a disk here, and faster: what a killed process
has written is in the kernel's hands either way.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.servers.store.fail_points import points_of

ROOT = Path(__file__).parents[3]
MEMORY = Path("/dev/shm")

IN_PROCESS = "tests.servers.store.kill_driver"
OVER_HTTP = "tests.servers.http_kill_driver"

pytestmark = pytest.mark.servers


@pytest.fixture
def kill(tmp_path) -> Callable[..., dict]:
    """Return a function that runs the driver and checks what must always hold."""

    def run(
        suite: str, target: str, kills: int | str, seed: int, driver: str = IN_PROCESS
    ) -> dict:
        with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
            program = [sys.executable, "-m", driver]
            made = subprocess.run(
                [*program, folder, suite, target, str(kills), str(seed)],
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=600,
            )
        assert made.returncode == 0, made.stderr
        outcome = json.loads(made.stdout)
        assert outcome["lost"] == []
        assert outcome["twice"] == []
        assert outcome["findings"] == []
        assert outcome["pending"] == [0, 0, 0, 0]
        assert outcome["equal"]
        return outcome["deaths"]

    return run


BOTH_AT_LEAST = pytest.mark.parametrize(
    "target",
    [*(pytest.param(one, marks=pytest.mark.slow) for one in ("dsp", "kts")), "both"],
)


@BOTH_AT_LEAST
def test_kills_at_random_moments_lose_nothing_and_change_no_weight(target, kill):
    deaths = kill("gated", target, 10, seed=1)
    assert sum(map(len, deaths.values())) >= 10


@BOTH_AT_LEAST
def test_kills_at_every_named_place_lose_nothing_and_change_no_weight(target, kill):
    deaths = kill("gated", target, "places", seed=2)
    assert {place for places in deaths.values() for place in places} >= set(
        points_of(target)
    )


@BOTH_AT_LEAST
def test_servers_killed_over_http_lose_nothing_and_change_no_weight(target, kill):
    deaths = kill("gated", target, 4, seed=4, driver=OVER_HTTP)
    assert sum(map(len, deaths.values())) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("target", ["dsp", "kts", "both"])
def test_a_hundred_kills_over_http_lose_nothing_and_change_no_weight(target, kill):
    deaths = kill("hybrid", target, 100, seed=5, driver=OVER_HTTP)
    assert sum(map(len, deaths.values())) >= 100
    named = {place for places in deaths.values() for place in places} - {"anywhere"}
    assert len(named) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["plain", "hybrid"])
@pytest.mark.parametrize("target", ["dsp", "kts", "both"])
def test_a_hundred_kills_lose_nothing_and_change_no_weight(suite, target, kill):
    deaths = kill(suite, target, 100, seed=3)
    assert sum(map(len, deaths.values())) >= 100
