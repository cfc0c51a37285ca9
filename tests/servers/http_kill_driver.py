"""A program that serves DSP and KTS over HTTP and kills them.

    python -m tests.servers.http_kill_driver FOLDER SUITE TARGET KILLS SEED

Four participants in this process push and pull over HTTP in a fixed order. Meanwhile
`TARGET` (`dsp`, `kts` or `both`) is killed with SIGKILL: so many times, in turn at a
random moment and at the next of the places in the code that are named below and in
`fail_points.py`. It prints what came of it as JSON. Servers are forked, so that a
restart takes milliseconds; a server that is dead is started again by the next call.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from hre_torch.errors import AggregatorError, StoreError
from hre_torch.http_client import RetryPolicy
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.session import Session
from hre_torch.servers import kts_client, running
from hre_torch.servers.dsp_app import DataServiceService
from hre_torch.servers.kts_app import KeyTransformService
from hre_torch.servers.serving import data_service, key_transform
from hre_torch.servers.steps import Steps
from hre_torch.servers.store import blobs, rows
from tests.servers.store import fail_points
from tests.servers.store.fail_points import AFTER, BEFORE, FailPoint
from tests.servers.store.kill_driver import digest, judge, listen, train
from tests.servers.store.small_servers import (
    Pair,
    Server,
    World,
    join,
    make_world,
    update,
)

SERVING: dict[str, tuple[Any, str, str]] = {
    "an upload is admitted, not committed": (DataServiceService, "_admit", AFTER),
    "a receipt has come, and is not looked at": (
        *(DataServiceService, "_confirm"),
        BEFORE,
    ),
    "an upload is accepted, not acknowledged": (DataServiceService, "_confirm", AFTER),
    "a signed release has come": (DataServiceService, "_record", BEFORE),
    "a transform was begun": (DataServiceService, "_begin", AFTER),
    "a download is made": (DataServiceService, "_finish", AFTER),
    "a deposit is logged, not committed": (KeyTransformService, "_deposit", AFTER),
    "a release is signed, not committed": (KeyTransformService, "_approve", AFTER),
    "a transform is made": (KeyTransformService, "_transform", AFTER),
    "a step is durable, its answer has not left": (Steps, "_run", AFTER),
}
POINTS = SERVING | {
    place: where
    for place, where in fail_points.POINTS.items()
    if where[0] is not Server
}
IMPATIENT = RetryPolicy(timeout=0, silence=20)


class Served:
    """A server process, started again whenever it is found dead."""

    def __init__(self, world: World, role: str, folder: Path) -> None:
        self._world, self.role, self._folder = world, role, folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process = 0
        self.kts_url = ""
        self.armed: tuple[str, int] | None = None
        self.deaths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Kill it, wherever it is."""
        if self._process:
            os.kill(self._process, signal.SIGKILL)

    def revive(self) -> None:
        """Start it, unless it runs; return when it answers."""
        while True:
            if self._process:
                ended, status = os.waitpid(self._process, os.WNOHANG)
                if ended:
                    self._bury(status)
            if not self._process:
                self._start()
            try:
                httpx.get(f"{self.url}/readyz")
                return
            except httpx.HTTPError:
                time.sleep(0.002)

    def stop(self) -> None:
        """Let it end in good order."""
        self.armed = None
        self.revive()
        os.kill(self._process, signal.SIGTERM)
        _, status = os.waitpid(self._process, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status

    def _bury(self, status: int) -> None:
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise SystemExit(f"the {self.role} ended by itself: status {status}")
        self.deaths.append(self._place)
        self._process = 0

    def _start(self) -> None:
        armed, self.armed = self.armed, None
        self._place = "anywhere" if armed is None else armed[0]
        self._process = os.fork()
        if self._process == 0:
            try:
                self._serve(armed)
            except BaseException as error:
                print(f"{self.role}: {error!r}", file=sys.stderr)
                os._exit(1)
            os._exit(0)

    def _serve(self, armed: tuple[str, int] | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if armed is not None:
            FailPoint().arm(armed)
        task, secret = self._world.task, self._world.secrets[self.role]
        folder = self._folder / self.role
        if self.role == "dsp":
            service: Any = data_service(
                task, secret, kts_url=self.kts_url, folder=folder
            )
        else:
            service = key_transform(task, secret, folder=folder)
        running.serve(
            service.app,
            service.admin,
            task.parameters,
            host="127.0.0.1",
            port=self.port,
            admin_host="127.0.0.1",
            admin_port=0,
        )


class Killer:
    """Plans the next death as soon as the last one has come.

    Args:
        victims: who dies, together.
        kills: how often at least; what was planned may not come.
        generator: of moments.
    """

    def __init__(
        self, victims: list[Served], kills: int, generator: random.Random
    ) -> None:
        self._victims = victims
        self._kills = kills
        self._planned = 0
        self._generator = generator
        self._places = list(POINTS)
        generator.shuffle(self._places)
        signal.signal(signal.SIGALRM, lambda *_: self._strike())

    @property
    def done(self) -> bool:
        """Whether every victim has died so often."""
        return all(len(victim.deaths) >= self._kills for victim in self._victims)

    def think(self) -> None:
        """Before a call: let the victims die in it, or soon, or at a named place."""
        if self.done or self._generator.random() < 0.3:
            return
        self._planned += 1
        if self._planned % 2:
            signal.setitimer(
                signal.ITIMER_REAL, 0.001 + 0.03 * self._generator.random()
            )
            return
        # A place is armed at the start of a server, so this one dies twice.
        place = self._places[self._planned // 2 % len(self._places)]
        passes = 1 if place.startswith("start") else self._generator.choice([1, 2, 3])
        for victim in self._victims:
            victim.armed = (place, passes)
        self._strike()

    def rest(self) -> None:
        """Let what is planned for a later moment not come."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _strike(self) -> None:
        for victim in self._victims:
            victim.kill()


class Federation:
    """Four sessions over HTTP, and servers that are revived when they are needed."""

    def __init__(self, world: World, servers: list[Served], killer: Killer) -> None:
        self._servers, self._killer = servers, killer
        dsp = servers[1]
        self.sessions = []
        for name in world.task.roster.names:
            secret = world.secrets[name]
            link = HTTPAggregator(
                name, url=dsp.url, task=world.task, secret=secret, policy=IMPATIENT
            )
            self.sessions.append(Session(world.task, secret, link, world.initial))

    def train(self) -> int:
        """Push and pull in a fixed order until all have died; return the turns made.

        In the end everything is released: four participants, three uploads a release.
        """
        turn = 0
        while not self._killer.done or turn % 3:
            for index, session in enumerate(self.sessions):
                values = update(session, 10 * turn + index)
                self._killer.think()
                self._until_answered(session.push, session.resend, values)
            turn += 1
            for session in self.sessions:
                self._killer.think()
                # The order of uploads is fixed, so it is known what is due.
                while session.version < 4 * turn // 3:
                    self._until_answered(session.pull, session.pull)
        self._killer.rest()
        return turn

    def _until_answered(
        self, step: Callable[..., Any], again: Callable[[], Any], *arguments: Any
    ) -> None:
        try:
            step(*arguments)
            return
        except StoreError:
            raise
        except AggregatorError:
            pass
        while True:
            for server in self._servers:
                server.revive()
            try:
                again()
                return
            except StoreError:
                raise
            except AggregatorError:
                continue


def main(folder: str, suite: str, target: str, kills: str, seed: str) -> None:
    """Run once with kills, once without, and print what came of it."""
    logging.disable(logging.CRITICAL)
    running.check_exposure = lambda parameters, host: None
    kts_client._PATIENCE = RetryPolicy(timeout=0.03, first_pause=0.01)
    kts_client._PATIENCE = RetryPolicy(longest_pause=0.02)
    # Small bodies are files here, and any database shrinks, so that all code is used.
    blobs.FILE_BYTES = 100
    rows._SMALL_PAGES = 0
    fail_points.POINTS = POINTS
    world = make_world(suite, assumed_colluders=1, staleness_bound=5)
    kts, dsp = (Served(world, role, Path(folder)) for role in ("kts", "dsp"))
    dsp.kts_url = kts.url
    chosen = {"dsp": [dsp], "kts": [kts], "both": [dsp, kts]}[target]
    killer = Killer(chosen, int(kills), random.Random(int(seed)))
    for server in (kts, dsp):
        server.revive()
    federation = Federation(world, [kts, dsp], killer)
    heard = listen(federation.sessions)
    turns = federation.train()
    for server in (dsp, kts):
        server.stop()
    steady = join(world, Pair(*(Server(world, role, None) for role in ("dsp", "kts"))))
    train(steady, turns)
    sessions = federation.sessions
    print(
        json.dumps(
            judge(world, Path(folder), sessions, heard)
            | {
                "deaths": {"dsp": dsp.deaths, "kts": kts.deaths},
                "pending": [session.pending for session in sessions],
                "equal": digest(sessions) == digest(steady),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
