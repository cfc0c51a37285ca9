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

from tests.sites import free_port

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    """Return the section's code blocks of one language."""
    section = README.read_text().split("### Three shells on one machine")[1]
    section = section.split("\n### ")[0]
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
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(README.parent),
        }
        self._ports = {"8440": str(free_port()), "8441": str(free_port())}
        self.folder = folder

    def literally(self, text: str) -> str:
        """Change nothing but the ports, which somebody else may have."""
        return re.sub(r"844[01]", lambda port: self._ports[port[0]], text)

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

    def leave_running(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-c", "exec " + self.literally(command)],
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


@pytest.mark.servers
def test_three_shells_train_together_as_the_readme_says(tmp_path):
    (tmp_path / "recipes").symlink_to(README.parent / "recipes")
    shells = Shells(tmp_path)
    set_up, kts, dsp, participants, check = blocks("sh")
    shown = shells.type(set_up)
    assert "verified: task" in shown
    shells.folder = tmp_path / "federation"
    shells._environment["HRE_TORCH_PASSPHRASE_FILE"] = "passphrase"
    for text in blocks("yaml"):
        name = text.split()[1]
        (shells.folder / name).write_text(shells.literally(text))
    servers = [shells.leave_running(kts), shells.leave_running(dsp)]
    try:
        shells.wait_ready()
        told = shells.type(participants, timeout=300)
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
    assert [server.wait(30) for server in servers] == [0, 0]
    assert told.count('"event": "end"') == 3
    assert shells.type(check).count("sound") == 2
    assert (shells.folder / "alice.npy").exists()
