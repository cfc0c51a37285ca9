"""Many participants against real servers: throughput, latency, errors, memory."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from benchmarks.loopback import Loopback, make_world, serving
from hre_torch.errors import BackPressure, HREError, StaleUploadError
from hre_torch.participant.session import Session

__all__ = ["Crowd", "measure_crowd"]

_CLIENT_PROCESSES: Final = 2
_POLLS_PER_SECOND: Final = 100
"""Of all participants together: who asks more often measures the asking."""
_SAMPLE_SECONDS: Final = 0.5
_FEWEST_VERSIONS: Final = 8
"""Readings of fewer releases tell nothing of growth."""
_ROLES: Final = ("dsp", "kts")


@dataclass
class Crowd:
    """What so many participants met.

    Attributes:
        participants: P, each with a thread and a connection of its own.
        values: length of the update.
        releases: how many were made.
        seconds: from the first push until everybody had the last release.
        push: seconds of every push, sealing included.
        release: seconds from every push until a release with it was opened.
        errors: what was raised besides back pressure and staleness, in words.
        waited: how often the task's limits made a participant wait.
        memory: by role, pairs of version and resident MiB.
    """

    participants: int
    values: int
    releases: int
    seconds: float = 0.0
    push: list[float] = field(default_factory=list)
    release: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    waited: int = 0
    memory: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def slope(self, role: str) -> float | None:
        """Return the growth of a server in MiB per 100 releases; None if too short.

        Tables for every recipient and what waits for stragglers fill up in the
        beginning, so a line is fitted to the second half alone.
        """
        late = [pair for pair in self.memory[role] if pair[0] > self.releases / 2]
        if len({version for version, _ in late}) < _FEWEST_VERSIONS:
            return None
        versions, resident = np.array(late).T
        return float(100 * np.polyfit(versions, resident, 1)[0])

    def record(self) -> dict[str, Any]:
        """Return everything but the single readings, ready for JSON."""
        record = asdict(self)
        for name in ("push", "release", "memory"):
            del record[name]
        record["uploads"] = len(self.push)
        record["uploads_per_second"] = len(self.push) / self.seconds
        record["releases_per_second"] = self.releases / self.seconds
        for name, taken in (("push", self.push), ("release", self.release)):
            for share in (50, 99):
                record[f"{name}_ms_p{share}"] = 1000 * float(
                    np.percentile(taken, share)
                )
        for role in _ROLES:
            record[f"{role}_peak_mib"] = max(mib for _, mib in self.memory[role])
            record[f"{role}_mib_per_100_releases"] = self.slope(role)
        return record


def measure_crowd(
    participants: int, releases: int, values: int, *, profile: str, folder: Path
) -> Crowd:
    """Let a crowd train with suite `hybrid` until so many releases are made.

    Args:
        participants: P; t is the suite's default for so many.
        releases: how many.
        values: length of the update.
        profile: modulus profile.
        folder: on the disk where the servers' stores are to lie.
    """
    world = make_world("hybrid", values, participants, profile=profile)
    crowd = Crowd(participants, values, releases)
    crowd.memory = {role: [] for role in _ROLES}
    with (
        TemporaryDirectory(dir=folder) as store,
        serving(world, Path(store)) as servers,
    ):
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        names = world.task.roster.names
        clients = [
            context.Process(
                target=lambda share: answers.put(_take_part(servers, share, releases)),
                args=(names[number::_CLIENT_PROCESSES],),
                daemon=True,
            )
            for number in range(_CLIENT_PROCESSES)
        ]
        started = time.perf_counter()
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients) and answers.empty():
            _sample(crowd, servers)
            time.sleep(_SAMPLE_SECONDS)
        for _ in clients:
            heard = answers.get()
            crowd.push += heard.push
            crowd.release += heard.release
            crowd.errors += heard.errors
            crowd.waited += heard.waited
        for client in clients:
            client.join()
        crowd.seconds = time.perf_counter() - started
        _sample(crowd, servers)
    return crowd


def _sample(crowd: Crowd, servers: Loopback) -> None:
    version = int(servers.metric("dsp", "hre_version"))
    for role, resident in crowd.memory.items():
        resident.append((version, servers.resident_mib(role)))


def _take_part(servers: Loopback, names: Sequence[str], releases: int) -> Crowd:
    """Be some of the participants, each in a thread."""
    heard = [Crowd(1, 0, releases) for _ in names]
    threads = [
        threading.Thread(target=_train, args=(servers.join(name), releases, each))
        for name, each in zip(names, heard, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = heard[0]
    for each in heard[1:]:
        whole.push += each.push
        whole.release += each.release
        whole.errors += each.errors
        whole.waited += each.waited
    return whole


def _train(session: Session, releases: int, heard: Crowd) -> None:
    """Push, wait until it is released, push again, until so many releases are here."""
    number = int(session.name[1:])
    poll_seconds = len(session.task.roster.names) / _POLLS_PER_SECOND
    generator = np.random.default_rng(number)
    update = generator.integers(-999, 1000, session.released().size).astype(np.int32)
    try:
        while session.version < releases:
            started = time.perf_counter()
            try:
                session.push(update)
                heard.push.append(time.perf_counter() - started)
            except (BackPressure, StaleUploadError):
                heard.waited += 1
            _await_release(session, releases, poll_seconds)
            heard.release.append(time.perf_counter() - started)
    except HREError as error:
        heard.errors.append(f"{session.name}: {type(error).__name__}: {error}")
    finally:
        session.close()


def _await_release(session: Session, releases: int, poll_seconds: float) -> None:
    session.pull()
    while session.pending and session.version < releases:
        time.sleep(poll_seconds)
        session.pull()
