"""The README's three shells, typed literally."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.flower_site import end_tree
from tests.sites import free_port

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = Path(sys.executable).parent
PORTS = ("8440", "8441", "8000", "9100")


THREE_SHELLS = "### Three shells on one machine"


def blocks(language: str, title: str = THREE_SHELLS) -> list[str]:
    """Return a section's code blocks of one language."""
    section = README.read_text().split(f"\n{title}\n")[1]
    section = re.split(r"\n###? ", section)[0]
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
            "PYTHONPATH": str(README.parent),
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
    (tmp_path / "recipes").symlink_to(README.parent / "recipes")
    shells = Shells(tmp_path)
    shown = shells.type(blocks("sh")[0])
    assert "verified: task" in shown
    shells.folder = tmp_path / "federation"
    shells._environment["HRE_TORCH_PASSPHRASE_FILE"] = "passphrase"
    for text in blocks("yaml"):
        name = text.split()[1]
        (shells.folder / name).write_text(shells.literally(text))
    return shells


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


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.flower
def test_flower_starts_the_participants_as_the_readme_says(federation):
    pytest.importorskip("flwr", reason="needs the extra `flower`")
    _, kts, dsp, *_ = blocks("sh")
    install, *started, run = blocks("sh", "### Flower")
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
