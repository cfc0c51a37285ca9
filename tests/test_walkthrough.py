"""The three shells of the page of servers, typed literally."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from hre_torch.app.participant_checkpoint import Checkpoint
from hre_torch.participant.connection import connect
from hre_torch.participant.session import Session
from tests.flower_site import end_tree
from tests.sites import free_port

ROOT = Path(__file__).parents[1]
SERVERS = ROOT / "hre_torch" / "servers" / "README.md"
INTEGRATIONS = ROOT / "hre_torch" / "integrations" / "README.md"
PROGRAMS = Path(sys.executable).parent
PORTS = ("8440", "8441", "8450", "8451", "8000", "9100")


THREE_SHELLS = (SERVERS, "## Three shells on one machine")
FLOWER = (INTEGRATIONS, "## Flower")


def blocks(language: str, where: tuple[Path, str] = THREE_SHELLS) -> list[str]:
    """Return a section's code blocks of one language."""
    page, title = where
    section = page.read_text().split(f"\n{title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


class Shells:
    """Shells in one folder that have `hre-torch` on their path."""

    def __init__(self, folder: Path) -> None:
        command = folder / "bin" / "hre-torch"
        command.parent.mkdir()
        program = "from hre_torch.cli import main; main()"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n')
        command.chmod(0o755)
        self._environment = os.environ | {
            "PATH": f"{command.parent}:{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self._ports = {number: str(free_port()) for number in PORTS}
        self.folder = folder

    def literally(self, text: str) -> str:
        """Change nothing but the ports, which somebody else may have."""
        return re.sub("|".join(PORTS), lambda port: self._ports[port[0]], text)

    def type(self, commands: str, **options) -> str:
        run = subprocess.run(
            ["bash", "-ec", self.literally(commands)],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            **options,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def leave_running(self, command: str, prefix: str = "exec ") -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-c", prefix + self.literally(command)],
            cwd=self.folder,
            env=self._environment,
            stderr=subprocess.DEVNULL,
        )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                url = self.literally("http://127.0.0.1:8440/readyz")
                if httpx.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError("the DSP never got ready")


@pytest.fixture
def federation(tmp_path):
    """Shells in the folder `federation`, with keys, roster and configurations."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shells = Shells(tmp_path)
    shown = shells.type(blocks("sh")[0])
    assert "verified: task" in shown
    shells.folder = tmp_path / "federation"
    shells._environment["HRE_TORCH_PASSPHRASE_FILE"] = "passphrase"
    for text in blocks("yaml"):
        name = text.split()[1]
        (shells.folder / name).write_text(shells.literally(text))
    return shells


@pytest.mark.gate
@pytest.mark.servers
def test_three_shells_train_together_as_the_readme_says(federation):
    _, kts, dsp, participants, check = blocks("sh")
    servers = [federation.leave_running(kts), federation.leave_running(dsp)]
    try:
        federation.wait_ready()
        told = federation.type(participants, timeout=300)
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
    assert [server.wait(30) for server in servers] == [0, 0]
    assert told.count('"event": "end"') == 3
    assert federation.type(check).count("sound") == 2
    assert (federation.folder / "alice.npy").exists()


def kill_all(started) -> None:
    """Kill every process, wherever it is, as a power cut would."""
    for process in started:
        assert process.poll() is None, process.args
    for process in started:
        process.kill()
    for process in started:
        process.wait()


def newest_release(federation) -> int:
    """Return the version that the DSP shows among its metrics."""
    shown = httpx.get(federation.literally("http://127.0.0.1:8450/metrics")).text
    return int(float(re.findall(r"^hre_version (\S+)", shown, re.MULTILINE)[0]))


def finally_known(federation, name: str) -> Session:
    """Return a session that went on from a copy of the last note to the newest release.

    Participants end one after another: only the last one hears of the last release.
    """
    session = connect(
        federation.literally("http://127.0.0.1:8440"),
        key_file=federation.folder / f"{name}.key",
        roster=federation.folder / "roster.json",
        passphrase=(federation.folder / "passphrase").read_text().strip(),
        state=Checkpoint(federation.folder / f"{name}.copy").session(),
        background=False,
    )
    session.pull()
    session.close()
    return session


@pytest.mark.slow
@pytest.mark.servers
def test_a_federation_that_is_killed_whole_goes_on_with_the_same_commands(federation):
    """Not counted: an upload that the network still holds back at the second start.

    The DSP reads what has arrived before it says what it knows of a participant; what
    comes later is entered as well, and the batch behind it is trained twice.
    """
    _, kts, dsp, participants, check = blocks("sh")
    names = ("alice", "bob", "carol")
    trainings = [
        line.removesuffix(" &").replace("epochs=2", "epochs=100")
        + f" --state {n}.state"
        for n, line in zip(names, participants.splitlines()[:3], strict=True)
    ]
    notes = [federation.folder / f"{name}.state" for name in names]
    servers = [federation.leave_running(kts), federation.leave_running(dsp)]
    running = []
    try:
        federation.wait_ready()
        running = [federation.leave_running(line) for line in trainings]
        while newest_release(federation) < 5 or not all(map(Path.exists, notes)):
            assert all(process.poll() is None for process in [*running, *servers])
            time.sleep(0.1)
        kill_all([*running, *servers])
        servers = [federation.leave_running(kts), federation.leave_running(dsp)]
        federation.wait_ready()
        known = newest_release(federation)
        assert known >= 5
        running = [federation.leave_running(line) for line in trainings]
        while any(process.poll() is None for process in running):
            for note in notes:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(note, note.with_suffix(".copy"))
            time.sleep(0.05)
        assert [process.wait() for process in running] == [0, 0, 0]
        assert newest_release(federation) > known
        sessions = [finally_known(federation, name) for name in names]
        assert {session.version for session in sessions} == {newest_release(federation)}
    finally:
        for process in [*running, *servers]:
            process.send_signal(signal.SIGINT)
    assert len({session.released().tobytes() for session in sessions}) == 1
    assert len({session.chain for session in sessions}) == 1
    assert [server.wait(30) for server in servers] == [0, 0]
    assert federation.type(check).count("sound") == 2


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.flower
def test_flower_starts_the_participants_as_the_readme_says(federation):
    pytest.importorskip("flwr", reason="needs the extra `flower`")
    _, kts, dsp, *_ = blocks("sh")
    install, *started, run = blocks("sh", FLOWER)
    assert install == "pip install 'hre-torch[flower]'\n"
    federation._environment["FLWR_HOME"] = str(federation.folder / "flower")
    running = [federation.leave_running(kts), federation.leave_running(dsp)]
    try:
        federation.wait_ready()
        for text in started:
            running.append(federation.leave_running(f"{text}\nwait", prefix=""))
            time.sleep(10)
        told = federation.type(run, timeout=300)
    finally:
        for process in running:
            end_tree(process)
    assert told.count('"event": "session end"') == 3, told
