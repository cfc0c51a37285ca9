"""A site whose participants are started through Flower: SuperLink, SuperNodes, runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import hre_torch
from hre_torch.app.participation import propose_recipe
from hre_torch.app.recipes import load_recipe
from tests.sites import Site, free_port, furnish

ROOT = Path(hre_torch.__file__).parent.parent
APP = ROOT / "recipes" / "flower"
PROGRAMS = Path(sys.executable).parent


def furnish_recipe(folder: Path, recipe: str, names: list[str], *changes: str) -> Site:
    """Make a site for a recipe of this repository, and `recipe.yaml`."""
    loaded = load_recipe(
        ROOT / "recipes" / recipe, [f"participants={len(names)}", *changes]
    )
    (folder / "recipe.yaml").write_text(loaded.to_yaml())

    def propose(roster, parameters):
        return propose_recipe(loaded, roster, parameters, loaded.profile)

    return furnish(folder, loaded.suite, names, loaded.profile, propose)


class Flower:
    """Flower's processes, started beside a site's servers.

    Args:
        site: where keys and servers are.
        options: of the SuperLink.
    """

    def __init__(self, site: Site, *options: str) -> None:
        self._site = site
        self._port = free_port()
        home = site.folder / "flower"
        home.mkdir()
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n[superlink.here]\n'
            f'address = "127.0.0.1:{self._port}"\ninsecure = true\n'
        )
        self._environment = os.environ | {
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            # Ray's workers would starve on a machine that has other work too.
            "RAY_worker_niceness": "0",
        }
        self._processes: dict[str, subprocess.Popen] = {}
        self._start(
            "superlink",
            *("flower-superlink", "--insecure", "--port", str(self._port)),
            *("--disable-runtime-dependency-installation", *options),
        )

    def __enter__(self) -> Flower:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._processes):
            self.kill(name)

    def start_node(self, name: str) -> None:
        """Start a SuperNode for the participant of that name."""
        folder = self._site.folder
        files = {
            "key": folder / f"{name}.key",
            "out": folder / f"{name}.npy",
            "roster": folder / "roster.json",
            "passphrase": folder / "passphrase",
            "recipe": folder / "recipe.yaml",
            "initial": folder / "initial.npy",
        }
        config = " ".join(f'{key}="{path}"' for key, path in files.items())
        self._start(
            name,
            *("flower-supernode", "--insecure", "--node-config", config),
            *("--superlink", f"127.0.0.1:{self._port}", "--port", str(free_port())),
        )

    def run(self, settings: str, *options: str) -> Run:
        """Submit the app of `recipes/flower`; `settings` as `flwr run -c` has them."""
        settings += f' dsp="{self._site.url("dsp")}"'
        self._wait_listening()
        self._start(
            "run", "flwr", "run", str(APP), "--stream", "-c", settings, *options
        )
        return Run(self, self._site.folder / "flower-run.log", self._processes["run"])

    def status(self) -> str:
        """Return Flower's word for how its only run stands."""
        listed = subprocess.run(
            [PROGRAMS / "flwr", "list", "--format", "json"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(listed.stdout)["runs"][0]["status"]

    def wait_trained(self, name: str, epochs: int, seconds: float) -> None:
        """Wait until a participant's log tells of so many epochs."""
        log = self._site.folder / f"flower-{name}.log"
        deadline = time.monotonic() + seconds
        while log.read_text().count('"event": "epoch"') < epochs:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """End a process and all that it started, at once."""
        end_tree(self._processes.pop(name))

    def log(self) -> str:
        """Return what everybody has written, for a test that fails."""
        files = sorted(self._site.folder.glob("flower-*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in files)

    def _wait_listening(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log())

    def _start(self, name: str, *command: str) -> None:
        with (self._site.folder / f"flower-{name}.log").open("a") as log:
            self._processes[name] = subprocess.Popen(
                [PROGRAMS / command[0], *command[1:]],
                env=self._environment,
                stdout=log,
                stderr=log,
            )


class Run:
    """A run that was submitted, and what its ServerApp shows."""

    def __init__(self, flower: Flower, shown: Path, process: subprocess.Popen) -> None:
        self._flower = flower
        self._shown = shown
        self._process = process

    def records(self, event: str) -> list[dict]:
        """Return the records of an event so far."""
        lines = self._shown.read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith('{"event"')]
        return [record for record in records if record["event"] == event]

    def wait_for(self, event: str, count: int, seconds: float) -> None:
        """Wait until the ServerApp has shown so many records of an event."""
        deadline = time.monotonic() + seconds
        while len(self.records(event)) < count:
            assert time.monotonic() < deadline, self._flower.log()
            time.sleep(0.5)

    def wait_end(self, seconds: float) -> list[dict]:
        """Wait until the run has finished well, and return how its sessions ended."""
        self._process.wait(seconds)
        assert self._flower.status() == "finished:completed", self._flower.log()
        return self.records("session end")


def end_tree(process: subprocess.Popen) -> None:
    """Kill a process and all that descend from it."""
    for number in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def descendants(process: int) -> list[int]:
    """Return a process and all that descend from it."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines():
        number, parent = map(int, line.split())
        children.setdefault(parent, []).append(number)
    found = [process]
    for number in found:
        found += children.get(number, [])
    return found
