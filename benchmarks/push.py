"""What real servers add to a push: HTTP, two processes, and the disk.

The same participants push the same updates to servers in this process, to servers on
loopback whose stores are on a disk, and to servers on loopback whose stores are in
memory, in turn. The first difference is what deployment costs; that between disk and
memory is what waiting for the disk costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.loopback import World, make_world, serving
from hre_torch.participant.session import Session
from hre_torch.servers.local import LocalAggregator, LocalServers

__all__ = ["PushCosts", "measure_pushes"]

_MEMORY: Final = Path("/dev/shm")
_BETWEEN_SECONDS: Final = 0.03
"""Long enough for a release to be signed, so that no push waits for another's."""
_PARTICIPANTS: Final = 3


@dataclass(frozen=True)
class PushCosts:
    """Medians over all pushes, in milliseconds.

    Attributes:
        values: length of the update.
        pushes: how many pushes each median is of.
        in_process: sealing, and both servers in the same process, without a store.
        loopback: the same over HTTP, acknowledged when both disks have it.
        loopback_in_memory: the same with stores that lie in memory; None where there
            is no file system in memory.
    """

    values: int
    pushes: int
    in_process: float
    loopback: float
    loopback_in_memory: float | None

    @property
    def added(self) -> float:
        """What deployment adds to a push."""
        return self.loopback - self.in_process

    def record(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        record = asdict(self) | {"added": self.added}
        if self.loopback_in_memory is not None:
            waiting = self.loopback - self.loopback_in_memory
            record["disk"] = waiting
            record["disk_share"] = waiting / self.loopback
        return record


def measure_pushes(
    values: int, rounds: int, *, profile: str, folder: Path
) -> PushCosts:
    """Measure pushes of suite `hybrid`.

    Args:
        values: length of the update.
        rounds: how often each of three participants pushes everywhere, after one
            round that only warms tables and caches.
        profile: modulus profile.
        folder: on the disk that is meant.
    """
    world = make_world("hybrid", values, _PARTICIPANTS, profile=profile)
    generator = np.random.default_rng(0)
    updates = [
        generator.integers(-999, 1000, values).astype(np.int32)
        for _ in range(_PARTICIPANTS)
    ]
    with ExitStack() as stack:
        places = {"in_process": _in_process(world)}
        homes = {"loopback": folder}
        if _MEMORY.is_dir():
            homes["loopback_in_memory"] = _MEMORY
        for place, home in homes.items():
            store = Path(stack.enter_context(TemporaryDirectory(dir=home)))
            servers = stack.enter_context(serving(world, store))
            places[place] = [servers.join(name) for name in world.task.roster.names]
            for session in places[place]:
                stack.callback(session.close)
        seconds: dict[str, list[float]] = {place: [] for place in places}
        for number in range(rounds + 1):
            for place, sessions in places.items():
                taken = _round(sessions, updates)
                seconds[place] += taken if number else []
    medians: dict[str, Any] = {
        place: 1000 * statistics.median(taken) for place, taken in seconds.items()
    }
    return PushCosts(
        values=values,
        pushes=rounds * _PARTICIPANTS,
        **({"loopback_in_memory": None} | medians),
    )


def _in_process(world: World) -> list[Session]:
    servers = LocalServers(world.task, world.secrets)
    return [
        Session(
            world.task,
            world.secrets[name],
            LocalAggregator(name, servers=servers),
            world.initial,
        )
        for name in world.task.roster.names
    ]


def _round(
    sessions: Sequence[Session], updates: Sequence[npt.NDArray[np.int32]]
) -> list[float]:
    """Let everybody push and pull; return how long the pushes took, in seconds."""
    taken = []
    for session, update in zip(sessions, updates, strict=True):
        started = time.perf_counter()
        session.push(update)
        taken.append(time.perf_counter() - started)
        time.sleep(_BETWEEN_SECONDS)
    for session in sessions:
        session.pull()
    return taken
