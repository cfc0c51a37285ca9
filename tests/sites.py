"""A site: a folder with everybody's keys, a signed roster, and servers to start."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from hre_torch.http_client import RetryPolicy
from hre_torch.participant.connection import connect, write_weights
from hre_torch.protocol.roster import Roster
from hre_torch.setup.identities import (
    make_operator,
    make_role,
    open_operator,
    read_card,
)
from hre_torch.setup.roster_file import (
    RosterFile,
    add_card,
    profile_of,
    roster_of,
    sign_roster,
    write_roster,
)
from tests.tasks import config_for

HASTY = RetryPolicy(timeout=0.3, first_pause=0.01, longest_pause=0.05, silence=10)


@dataclass
class Site:
    """A folder with everybody's files, and servers that can be started from it."""

    folder: Path
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def url(self, role: str) -> str:
        return f"http://127.0.0.1:{self.ports[role]}"

    def start(self, *roles: str) -> None:
        """Start servers where they were before, and wait until they answer."""
        for role in roles:
            self._start(role)
        for role in roles:
            self._wait(role, {200, 503})

    def _start(self, role: str) -> None:
        code = (
            "import sys; from pathlib import Path;"
            "from hre_torch.servers import serving;"
            f"serving.serve_{role}(Path(sys.argv[1]), lambda key, file: b'secret')"
        )
        log = (self.folder / f"{role}.log").open("a")
        self.processes[role] = subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder / f"{role}.yaml")],
            stderr=log,
            stdout=log,
        )
        log.close()

    def wait_ready(self, role: str = "dsp") -> None:
        self._wait(role, {200})

    def stop(self, role: str, signal: int = 15) -> int:
        """Send a signal and return the exit status."""
        process = self.processes.pop(role)
        process.send_signal(signal)
        return process.wait(20)

    def log(self, role: str) -> list[dict]:
        lines = (self.folder / f"{role}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def connect(self, name: str, **options):
        options = {"background": False, "timeout": HASTY.timeout} | options
        # A copy, as if on another machine: a session that a test gives up as killed
        # still holds its key in this process.
        key = self.folder / f"{name}-{len(list(self.folder.iterdir()))}.key"
        shutil.copy(self.folder / f"{name}.key", key)
        return connect(
            self.url("dsp"),
            key_file=key,
            roster=self.folder / "roster.json",
            passphrase="secret",
            **options,
        )

    def _wait(self, role: str, statuses: set[int]) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.processes[role].poll() is None, self.log(role)
            try:
                if httpx.get(f"{self.url(role)}/readyz").status_code in statuses:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{role} is not up: {self.log(role)}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def furnish(
    folder: Path,
    suite: str,
    names=("p0", "p1", "p2"),
    profile: str = "rsa2048",
    propose=None,
    keys: Path | None = None,
    **numbers,
) -> Site:
    """Make keys, passphrase, a signed roster, initial weights and configurations.

    `propose(roster, parameters)` returns task and weights; without it they are small,
    with `numbers` changed. What keys another site's folder has are taken from there.
    """
    secrets = {"suite": suite, "profile": profile, "passphrase": b"secret"}
    (folder / "passphrase").touch(mode=0o600)
    (folder / "passphrase").write_text("secret\n")
    cards = []
    for role, name in [
        ("operator", "operator"),
        ("dsp", "dsp"),
        ("kts", "kts"),
        *(("participant", name) for name in names),
    ]:
        key, card = folder / f"{name}.key", folder / f"{name}.card"
        if keys is not None and (keys / key.name).exists():
            for file in (key, card):
                shutil.copy(keys / file.name, file)
            cards.append(read_card(card))
        elif role == "operator":
            cards.append(make_operator(key=key, card=card, passphrase=b"secret"))
        else:
            cards.append(make_role(role, name, key=key, card=card, **secrets))
    file = RosterFile()
    for card in cards:
        file = add_card(file, card)
    parameters = profile_of(file, folder)
    roster = roster_of(file, parameters)
    if propose is not None:
        task, initial = propose(roster, parameters)
    else:
        initial = np.arange(62, dtype=np.int64)
        task = _small_task(suite, profile, roster, parameters, initial, numbers)
    write_weights(folder / "initial.npy", initial)
    operator = open_operator(folder / "operator.key", b"secret")
    write_roster(folder / "roster.json", sign_roster(file, task, operator, parameters))
    return _configured(Site(folder, ports={"dsp": free_port(), "kts": free_port()}))


def _small_task(suite, profile, roster: Roster, parameters, initial, numbers):
    numbers = {
        "max_additions": 64,
        "min_contributions": 3,
        "combine": "sum",
        "pending_limit": 16,
    } | numbers
    return config_for(
        roster, parameters, initial, suite=suite, profile=profile, **numbers
    )


def _configured(site: Site) -> Site:
    for role in ("dsp", "kts"):
        lines = [
            "roster: roster.json",
            f"key: {role}.key",
            f"store: {role}-store",
            f"port: {site.ports[role]}",
            "admin_port: 0",
            "workers: 1",
        ]
        if role == "dsp":
            lines.append(f"kts: {site.url('kts')}")
        (site.folder / f"{role}.yaml").write_text("\n".join(lines) + "\n")
    return site
