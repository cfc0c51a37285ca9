"""Server processes on a machine in trouble: stopped, full, expired, killed."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from hre_torch.app.participation import propose_recipe, train_participant
from hre_torch.app.recipes import load_recipe
from hre_torch.errors import AggregatorError
from tests.servers.certificates import self_signed
from tests.servers.contract import same

pytestmark = [pytest.mark.servers, pytest.mark.gate]


def seconds_until(site, role: str, status: int) -> float:
    """Wait until a server's `/readyz` answers with a status; return how long it took.

    It should take 5 s at most, which no test asserts on a busy machine.
    """
    started = time.monotonic()
    while httpx.get(f"{site.url(role)}/readyz", timeout=20).status_code != status:
        assert time.monotonic() < started + 30, site.log(role)
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_stopped_kts_makes_the_dsp_unready_until_it_goes_on(make_site):
    site = make_site("plain")
    site.start("kts", "dsp")
    site.wait_ready()
    site.processes["kts"].send_signal(signal.SIGSTOP)
    try:
        took = seconds_until(site, "dsp", 503)
        print(f"unready {took:.1f} s after the KTS was stopped")
    finally:
        site.processes["kts"].send_signal(signal.SIGCONT)
    seconds_until(site, "dsp", 200)


@pytest.fixture
def small_disk(tmp_path):
    """Make a folder a disk of its own: `small_disk(path)`."""
    mounted = []

    def make(path: Path) -> None:
        path.mkdir(mode=0o700)
        words = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted: {done.stderr.strip()}")
        mounted.append(path)

    yield make
    for path in mounted:
        # Whatever still runs there is killed after this.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the disk is full."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return path


@pytest.mark.parametrize("role", ["dsp", "kts"])
def test_a_full_disk_acknowledges_nothing_and_loses_nothing(
    make_site, small_disk, role
):
    site = make_site("plain")
    store = site.folder / f"{role}-store"
    small_disk(store)
    site.start("kts", "dsp")
    site.wait_ready()
    initial = site.folder / "initial.npy"
    sessions = [site.connect(name, initial=initial) for name in ("p0", "p1", "p2")]
    sessions[0].push(same(1))
    filler = fill(store)
    took = seconds_until(site, role, 503)
    print(f"{role} unready {took:.1f} s after its disk was full")
    seconds_until(site, "dsp", 503)
    # What the database has written over may still find room.
    acknowledged = []
    with pytest.raises(AggregatorError, match="503"):
        acknowledged.extend(sessions[1].push(same(1)) for _ in range(16))
    filler.unlink()
    seconds_until(site, "dsp", 200)
    sessions[1].resend()
    sessions[2].push(same(1))
    for session in sessions:
        (release,) = session.pull()
        assert (release.values == 3).all()
    assert sessions[1].pending == len(acknowledged)
    for session in sessions:
        session.close()
    assert "Traceback" not in (site.folder / f"{role}.log").read_text()


@pytest.mark.parametrize(
    ("days", "told"),
    [
        ((-10, -1), ["certificate has expired"]),
        ((1, 10), ["certificate is not valid yet"]),
        ((-10, 5), ["certificate expires soon"]),
        ((-10, 300), []),
    ],
)
def test_a_server_says_at_its_start_that_its_certificate_ends(make_site, days, told):
    site = make_site("plain")
    certificate, private_key = self_signed(site.folder, days=days)
    with (site.folder / "kts.yaml").open("a") as file:
        file.write(f"certificate: {certificate}\nprivate_key: {private_key}\n")
    site._start("kts")
    deadline = time.monotonic() + 30
    while not any(line["event"] == "listening" for line in site.log("kts")):
        assert time.monotonic() < deadline, site.log("kts")
        time.sleep(0.05)
    lines = site.log("kts")
    said = [line["event"] for line in lines if "certificate" in line["event"]]
    assert said == told


def test_a_dsp_that_is_killed_under_a_training_ends_nobody(make_site, toy_recipe):
    recipe = load_recipe(
        toy_recipe(
            "suite=hybrid", "profile=rsa2048", "min_contributions=3", "train.epochs=3"
        )
    )

    def propose(roster, parameters):
        return propose_recipe(recipe, roster, parameters, "rsa2048")

    site = make_site("hybrid", propose=propose)
    site.start("kts", "dsp")
    site.wait_ready()
    killed = []

    def kill_at_some_steps(record) -> None:
        if record["global_step"] in (4, 9):
            assert site.stop("dsp", signal=signal.SIGKILL) == -signal.SIGKILL
            killed.append(record["version"])
            site.start("dsp")

    def train(name: str):
        initial = site.folder / "initial.npy"
        session = site.connect(name, initial=initial, background=True, timeout=None)
        try:
            watch = kill_at_some_steps if name == "p0" else None
            return train_participant(
                recipe, session, lambda _: None, watch=watch, wait=30.0
            )
        finally:
            session.close()

    with ThreadPoolExecutor(3) as training:
        ends = list(training.map(train, ("p0", "p1", "p2")))
    assert len(killed) == 2
    assert len({end.weights.tobytes() for end in ends}) == 1
    assert ends[0].version > killed[-1]
