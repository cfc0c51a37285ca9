"""Both servers of one task on this machine, for a federation that is tried out.

Everybody's keys lie in one folder here, as they never may where servers and sites are
different organisations.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
from omegaconf import OmegaConf

from hre_torch.app.run.run_folder import Proposal
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.crypto.keys.key_files import create_private
from hre_torch.errors import AggregatorError
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Role
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.setup.identities import (
    make_operator,
    make_role,
    open_operator,
    open_role,
)
from hre_torch.setup.roster_file import (
    RosterFile,
    add_card,
    add_joint_key,
    roster_of,
    sign_roster,
    write_roster,
)

__all__ = ["LoopbackServers", "end_process"]

_SERVERS: Final = (KEY_TRANSFORM, DATA_SERVICE)
_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 10.0
_LOOK_EVERY: Final = 0.1
_LAST_LINES: Final = 3


class LoopbackServers:
    """DSP and KTS of one task, on loopback, and everything that they need.

    Args:
        folder: of the task; keys, roster, stores and logs are kept there.
        proposal: what participant 0 proposes.
        participants: how many; they are called `p0`, `p1`, ...

    Raises:
        HREError: the numbers do not fit together, or a server does not start.
    """

    def __init__(self, folder: Path, proposal: Proposal, participants: int) -> None:
        self._folder = folder
        options = TaskOptions.of(proposal.options)
        parameters = load_profile(options.profile)
        names = [f"p{number}" for number in range(participants)]
        file = self._make_keys(options, names)
        if options.suite == "paper":
            file = self._add_joint_keys(file, options)
        numbers = msgspec.structs.asdict(proposal.facts)
        config = options.config(roster_of(file, parameters), parameters, **numbers)
        passphrase = self._passphrase("operator")
        operator = open_operator(folder / "operator.key", passphrase)
        write_roster(
            folder / "roster.json", sign_roster(file, config, operator, parameters)
        )
        np.save(folder / "initial.npy", np.frombuffer(proposal.initial, "<i8"))
        self._ports = {role: _free_port() for role in (DATA_SERVICE, KEY_TRANSFORM)}
        self._admin = {role: _free_port() for role in (DATA_SERVICE, KEY_TRANSFORM)}
        self._processes = [self._serve(KEY_TRANSFORM), self._serve(DATA_SERVICE)]
        self._wait_until_ready()

    def site(self, number: int) -> str:
        """Return the text of a participant's `site.yaml`."""
        return (
            f"dsp: http://127.0.0.1:{self._ports[DATA_SERVICE]}\n"
            f"key: p{number}.key\n"
            f"passphrase_file: p{number}.passphrase\n"
            "roster: roster.json\n"
            "initial: initial.npy\n"
        )

    def runs(self) -> bool:
        """Whether both servers are there."""
        return all(process.poll() is None for process in self._processes)

    def progress(self) -> str:
        """Return how many releases there were, as the DSP counts them."""
        url = f"http://127.0.0.1:{self._admin[DATA_SERVICE]}/metrics"
        try:
            text = httpx.get(url, timeout=1.0).text
        except httpx.HTTPError:
            return "servers do not answer"
        values = dict(
            line.rsplit(" ", 1)
            for line in text.splitlines()
            if line and not line.startswith("#")
        )
        return f"version {float(values.get('hre_version', 0)):.0f}"

    def end(self) -> None:
        """End both servers, the DSP first."""
        for process in reversed(self._processes):
            end_process(process)

    def _make_keys(self, options: TaskOptions, names: Sequence[str]) -> RosterFile:
        roles: list[tuple[Role, str]] = [("dsp", DATA_SERVICE), ("kts", KEY_TRANSFORM)]
        roles += [("participant", name) for name in names]
        card = make_operator(
            key=self._folder / "operator.key",
            card=self._folder / "operator.card",
            passphrase=self._passphrase("operator"),
        )
        file = add_card(RosterFile(), card)
        for role, name in roles:
            card = make_role(
                role,
                name,
                suite=options.suite,
                profile=options.profile,
                key=self._folder / f"{name}.key",
                card=self._folder / f"{name}.card",
                passphrase=self._passphrase(name),
            )
            file = add_card(file, card)
        return file

    def _passphrase(self, name: str) -> bytes:
        """Return the passphrase of a key file, from a file that is made if need be."""
        path = self._folder / f"{name}.passphrase"
        if not path.exists():
            create_private(path, SYSTEM_ENTROPY.octets(16).hex().encode() + b"\n")
        return path.read_bytes().strip()

    def _add_joint_keys(self, file: RosterFile, options: TaskOptions) -> RosterFile:
        """Have both servers compute the joint key, which takes their secrets."""
        parameters = load_profile(options.profile)
        for name in _SERVERS:
            secret = open_role(
                self._folder / f"{name}.key",
                self._passphrase(name),
                suite=options.suite,
                parameters=parameters,
            )
            file = add_joint_key(file, secret, parameters)
        return file

    def _serve(self, role: str) -> subprocess.Popen[bytes]:
        config: dict[str, Any] = {
            "roster": "roster.json",
            "key": f"{role}.key",
            "passphrase_file": f"{role}.passphrase",
            "store": f"{role}-store",
            "port": self._ports[role],
            "admin_port": self._admin[role],
            "workers": 1,
        }
        if role == DATA_SERVICE:
            config["kts"] = f"http://127.0.0.1:{self._ports[KEY_TRANSFORM]}"
        path = self._folder / f"{role}.yaml"
        OmegaConf.save(OmegaConf.create(config), path)
        code = "from hre_torch.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", role, "--config", str(path)]
        with (self._folder / f"{role}.log").open("wb") as log:
            # In a group of its own: Ctrl-C ends participants first, then servers.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        url = f"http://127.0.0.1:{self._ports[DATA_SERVICE]}/readyz"
        while True:
            if not self.runs() or time.monotonic() >= deadline:
                self.end()
                raise AggregatorError(
                    "the servers of this task did not start; the last of what they "
                    f"said: {self._last_words()}"
                )
            try:
                if httpx.get(url, timeout=1.0).is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(_LOOK_EVERY)

    def _last_words(self) -> str:
        lines = [
            line
            for role in _SERVERS
            for line in (self._folder / f"{role}.log")
            .read_text(errors="replace")
            .splitlines()[-_LAST_LINES:]
        ]
        return " | ".join(lines) or "nothing"


def end_process(process: subprocess.Popen[Any]) -> None:
    """Have a process end by itself, or end it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
