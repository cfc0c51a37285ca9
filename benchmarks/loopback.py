"""Both servers as processes of their own on loopback, with stores, for benchmarks.

Keys go to the servers when they are forked: key files, made slow to open on purpose,
are no part of what is measured here.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.http_client import RetryPolicy
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.session import Session
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.protocol.vectors import state_digest
from hre_torch.servers.dsp_app import DataServiceService
from hre_torch.servers.kts_app import KeyTransformService
from hre_torch.servers.running import serve
from hre_torch.servers.serving import data_service, key_transform

__all__ = ["Loopback", "World", "make_world", "serving"]

_START_SECONDS = 60.0
_PATIENT = RetryPolicy(timeout=60, first_pause=0.05, longest_pause=1.0, silence=120)


@dataclass(frozen=True)
class World:
    """A task, everybody's secrets, and the weights that the task starts from."""

    task: Task
    secrets: dict[str, Secret]
    initial: npt.NDArray[np.int64]


def make_world(
    suite: str, values: int, participants: int, *, profile: str, staleness: int = 50
) -> World:
    """Return a task of so many participants, with the suite's default numbers.

    Args:
        suite: the protocol.
        values: length of the update.
        participants: P.
        profile: modulus profile.
        staleness: S.
    """
    chosen = SUITES.get(suite)
    parameters = load_profile(profile)
    operator = SigningKey.generate()
    names = [f"p{index}" for index in range(participants)]
    secrets, roster = chosen.setup(names, parameters, operator=operator.public)
    initial = np.zeros(values, dtype=np.int64)
    options = TaskOptions(suite=suite, profile=profile, staleness_bound=staleness)
    config = options.config(
        roster,
        parameters,
        n_params=values,
        layout_digest=bytes(32),
        initial_digest=state_digest(initial),
    )
    task = Task(config, roster, parameters, sign_task(config, operator))
    return World(task, secrets, initial)


@dataclass(frozen=True)
class Loopback:
    """Running servers.

    Attributes:
        world: what they serve.
        urls: by role.
        admin_urls: of what they show to whoever runs them, by role.
        processes: their numbers, by role.
    """

    world: World
    urls: dict[str, str]
    admin_urls: dict[str, str]
    processes: dict[str, int]

    def join(self, name: str) -> Session:
        """Return a session that waits for every answer."""
        task, secret = self.world.task, self.world.secrets[name]
        link = HTTPAggregator(
            name, url=self.urls["dsp"], task=task, secret=secret, policy=_PATIENT
        )
        return Session(task, secret, link, self.world.initial)

    def metric(self, role: str, name: str) -> float:
        """Return one number of a server's `/metrics`; 0 if it was never counted."""
        for line in httpx.get(f"{self.admin_urls[role]}/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0

    def resident_mib(self, role: str) -> float:
        """Return a server's resident memory."""
        pages = Path(f"/proc/{self.processes[role]}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def serving(world: World, folder: Path) -> Iterator[Loopback]:
    """Run both servers while the `with` lasts; their stores lie below `folder`."""
    ports, admin_ports = (
        {role: _free_port() for role in ("kts", "dsp")} for _ in range(2)
    )
    urls, admin_urls = (
        {role: f"http://127.0.0.1:{port}" for role, port in each.items()}
        for each in (ports, admin_ports)
    )
    secrets, task = world.secrets, world.task

    def run(role: str, service: DataServiceService | KeyTransformService) -> None:
        serve(
            service.app,
            service.admin,
            task.parameters,
            host="127.0.0.1",
            port=ports[role],
            admin_host="127.0.0.1",
            admin_port=admin_ports[role],
        )

    def kts() -> None:
        service = key_transform(task, secrets["kts"], folder=folder / "kts")
        run("kts", service)

    def dsp() -> None:
        service = data_service(
            task, secrets["dsp"], kts_url=urls["kts"], folder=folder / "dsp"
        )
        run("dsp", service)

    started = {"kts": _fork(kts), "dsp": _fork(dsp)}
    try:
        for role, url in urls.items():
            _await(url, started[role])
        numbers = {role: process.pid or 0 for role, process in started.items()}
        yield Loopback(world, urls, admin_urls, numbers)
    finally:
        for process in reversed(started.values()):
            process.terminate()
        for process in started.values():
            process.join(20)


def _fork(target: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=target, daemon=True)
    process.start()
    return process


def _await(url: str, process: multiprocessing.process.BaseProcess) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.is_alive():
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise SystemExit(f"the server at {url} did not get ready")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
