"""Servers with stores below the test's own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hre_torch.participant.session import Session
from hre_torch.servers.store import blobs
from tests.servers.store.small_servers import (
    Pair,
    Server,
    World,
    make_world,
    update,
)


@pytest.fixture
def world() -> World:
    """A task of the suite `plain`."""
    return make_world()


@pytest.fixture
def memory(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one, for tests that wait for a disk only."""
    where = Path("/dev/shm")
    with TemporaryDirectory(dir=where if where.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def new_pair(tmp_path) -> Iterator[Callable[..., Pair]]:
    """A factory of pairs of servers with stores below a folder; all are stopped."""
    made: list[Server] = []

    def make(world: World, folder: Path = tmp_path) -> Pair:
        servers = [Server(world, role, folder / role) for role in ("dsp", "kts")]
        made.extend(servers)
        return Pair(*servers)

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def run() -> Callable[..., None]:
    """Return a function that lets everybody push and then pull, some times."""
    seeds = count()

    def turns(sessions: list[Session], number: int, *, pull: bool = True) -> None:
        for _ in range(number):
            for session in sessions:
                session.push(update(session, next(seeds)))
            for session in sessions if pull else []:
                session.pull()

    return turns


@pytest.fixture
def files(monkeypatch) -> None:
    """Make every body that is not tiny a file."""
    monkeypatch.setattr(blobs, "FILE_BYTES", 100)
