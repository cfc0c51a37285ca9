"""A program that runs DSP and KTS as processes of their own and kills them.

    python -m tests.servers.store.kill_driver FOLDER SUITE TARGET KILLS SEED

Four participants in this process push and pull in a fixed order while `TARGET` (`dsp`,
`kts` or `both`) is killed with SIGKILL: so many times at random moments, or, if `KILLS`
is `places`, once at each of the places in the code that are named in `fail_points`. It
prints what came of it as JSON. Servers are forked, so that a restart takes
milliseconds.

Now and then the DSP lies: it keeps an upload and says that it is refused. Its owner
seals the same values again and voids the first number, which no list may name then,
whoever is killed on the way. Of every newest release three participants state that it
does not open, until the KTS gives a verdict, and all that it opened: what the KTS has
once said stays.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from pathlib import Path
from typing import Any

from hre_torch.errors import AggregatorError, StoreError, UsedNumberError
from hre_torch.participant.participant import Opened
from hre_torch.participant.session import Session
from hre_torch.protocol.answers import read_verdict
from hre_torch.protocol.heads import LedgerHead
from hre_torch.protocol.messages import Statement, Upload, Verdict
from hre_torch.protocol.wire import decode, refuse, seal
from hre_torch.servers.store import blobs, check_store, rows
from tests.servers.store.fail_points import (
    STARTING,
    Armed,
    FailPoint,
    points_of,
)
from tests.servers.store.small_servers import (
    Callee,
    Pair,
    Server,
    World,
    join,
    make_world,
    update,
)

CALLS_PER_TURN = {"dsp": 18, "kts": 10, "both": 28}
"""How often servers are called while four participants push and pull, at least."""


def serve(
    world: World, role: str, folder: Path, pipe: PipeEnd, armed: Armed | None
) -> None:
    """Be a server until told to stop, or killed."""
    # Small bodies are files here, and any database shrinks, so that all code is used.
    blobs.FILE_BYTES = 100
    rows._SMALL_PAGES = 0
    point = FailPoint()
    if armed is not None:
        point.arm(armed)
    server = Server(world, role, folder)
    while True:
        step, arguments = pipe.recv()
        if step == "stop":
            server.stop()
            return
        if step == "arm":
            point.arm(*arguments)
            continue
        try:
            answer = True, server.call(step, *arguments)
        except Exception as error:
            answer = False, error
        pipe.send(answer)


class Remote:
    """A server in a process of its own, which may die at any moment."""

    def __init__(self, world: World, role: str, folder: Path) -> None:
        self._world, self._role, self._folder = world, role, folder
        self._process = 0
        self._place = "anywhere"
        self.deaths: list[str] = []
        self.before_call: Callable[[], None] = lambda: None
        self.delay: float | None = None
        self.armed_at_start: Armed | None = None

    def call(self, step: str, *arguments: Any) -> Any:
        """Ask for a step; an `AggregatorError` means that nobody knows."""
        self.before_call()
        if not self._process:
            self._start()
        try:
            self._pipe.send((step, arguments))
            if self.delay is not None:
                self._pipe.poll(self.delay)
                self.kill()
            fine, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._bury()
            raise AggregatorError(f"the {self._role} died") from None
        if fine:
            return answer
        raise answer

    def arm(self, armed: Armed) -> None:
        """Make a place in the running server deadly."""
        if not self._process:
            self._start()
        self._pipe.send(("arm", (armed,)))
        self._place = armed[0]

    def kill(self) -> None:
        """Kill the process, if there is one; the next call finds out."""
        if self._process:
            os.kill(self._process, signal.SIGKILL)

    def stop(self) -> None:
        """Let the server stop in good order."""
        if not self._process:
            self._start()
        self._pipe.send(("stop", ()))
        os.waitpid(self._process, 0)

    def _start(self) -> None:
        armed, self.armed_at_start = self.armed_at_start, None
        self._place = "anywhere" if armed is None else armed[0]
        self._pipe, end = Pipe()
        self._process = os.fork()
        if self._process == 0:
            self._pipe.close()
            try:
                serve(self._world, self._role, self._folder, end, armed)
            except BaseException as error:
                print(f"{self._role}: {error!r}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
        end.close()

    def _bury(self) -> None:
        _, status = os.waitpid(self._process, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise SystemExit(f"the {self._role} ended by itself: status {status}")
        self._pipe.close()
        self._process = 0
        self.delay = None
        self.deaths.append(self._place)


class Reaper:
    """Decides when the servers die.

    Args:
        servers: both.
        target: who dies: one of them, or both at a time.
        moments: numbers of the calls of a victim at which one dies.
        plan: where, in this order: a place in the code, or None for anywhere.
    """

    def __init__(
        self,
        servers: dict[str, Remote],
        target: str,
        moments: set[int],
        plan: list[str | None],
    ) -> None:
        self._victims = [servers[target]] if target in servers else [*servers.values()]
        self._moments = moments
        self._plan = plan
        self._calls = 0
        self._awaited: tuple[Remote, str | None] | None = None
        self._generator = random.Random(len(moments))
        for victim in self._victims:
            victim.before_call = lambda victim=victim: self.think(victim)

    def think(self, victim: Remote) -> None:
        """Perhaps let the victim of the next call die in it, and all others with it."""
        self._calls += 1
        if self._awaited is not None:
            armed, place = self._awaited
            if place is not None and place not in armed.deaths:
                return
        if self._calls not in self._moments or not self._plan:
            return
        for other in self._victims:
            if other is not victim:
                other.kill()
        place = self._plan.pop(0)
        self._awaited = (victim, place)
        if place is None:
            # Most steps take a millisecond or two, a commit to a slow disk ten.
            victim.delay = 0.012 * self._generator.random() ** 2
        elif place in STARTING:
            victim.kill()
            victim.armed_at_start = (place, 1)
        else:
            victim.arm((place, self._generator.choice([1, 1, 2])))


def until_answered(step: Callable[[], Any]) -> Any:
    """Repeat what nobody knows the outcome of."""
    while True:
        try:
            return step()
        except StoreError:
            raise
        except AggregatorError:
            continue


class Liar(Pair):
    """Servers of which the DSP keeps some uploads that it says it refuses."""

    def __init__(self, world: World, dsp: Callee, kts: Callee) -> None:
        super().__init__(dsp, kts)
        self._world = world

    def submit(self, upload: bytes) -> bytes:
        """Carry an upload all the way, or lie about it."""
        sent = decode(upload, Upload, max_bytes=1 << 30)
        if not is_voided(sent.header.sequence):
            return super().submit(upload)
        self.dsp.call("admit", upload)
        error = UsedNumberError("the number is used, says the DSP")
        error.upload = sent.digest
        return refuse(
            error,
            cfg=self._world.task.cfg,
            sender="dsp",
            key=self._world.secrets["dsp"].signing,
            about=hashlib.sha256(upload).digest(),
        )


def is_voided(number: int) -> bool:
    """Whether an upload with that number is refused by a lie, and voided then."""
    return number % 7 == 3


class Court:
    """States what it likes of the newest releases, and remembers what the KTS says."""

    def __init__(self, world: World, pair: Pair) -> None:
        self._world = world
        self._pair = pair
        self._verdicts: dict[int, Verdict] = {}
        self.wrong: list[str] = []

    def reject_newest(self, names: list[str]) -> None:
        """Have participants state that the newest release does not open."""
        head = decode(
            until_answered(lambda: self._pair.kts.call("head")),
            LedgerHead,
            max_bytes=0,
        ).header
        if head.version == 0 or head.version in self._verdicts:
            return
        for place, name in enumerate(names, 1):
            statement = Statement(
                cfg=self._world.task.cfg,
                sender=name,
                version=head.version,
                chain=head.chain,
            )
            said = seal(statement, self._world.secrets[name].signing)
            data = said.encode()
            answer = until_answered(partial(self._pair.declare, data))
            verdict = read_verdict(answer, said, data, self._world.task)
            if list(verdict.rejected) != sorted(names[:place]):
                self.wrong.append(f"{name} hears of {verdict.rejected} only")
        if not verdict.final:
            self.wrong.append(f"no verdict on release {head.version}")
        self._verdicts[head.version] = verdict

    def attest(self, session: Session) -> None:
        """Have a session state that it has opened its newest release after all."""
        verdict = until_answered(session.attest)
        if verdict != self._verdicts.get(session.version, verdict):
            self.wrong.append(f"another verdict on release {session.version}")


def train(sessions: list[Session], turns: int, court: Court | None = None) -> None:
    """Push and pull in a fixed order."""
    for turn in range(turns):
        for index, session in enumerate(sessions):
            values = update(session, 10 * turn + index)
            try:
                session.push(values)
            except AggregatorError:
                until_answered(session.resend)
            while session._pending.refused or session._carrier.in_transit:
                until_answered(session.resend)
                until_answered(session._sender.seal_refused)
        if court is not None:
            court.reject_newest([session.name for session in sessions[:3]])
        for session in sessions:
            until_answered(session.pull)
            if court is not None:
                court.attest(session)


def digest(sessions: list[Session]) -> list[str]:
    """Return a hash of everybody's released weights."""
    return [hashlib.sha256(s.released().tobytes()).hexdigest() for s in sessions]


def listen(sessions: list[Session]) -> list[Counter[str]]:
    """Count from now on what the releases name that each session opens."""

    def listening(session: Session, heard: Counter[str]) -> Callable[..., None]:
        apply = session._receiver.apply

        def applied(opened: Opened) -> None:
            apply(opened)
            heard.update(f"{item.name}/{item.sequence}" for item in opened.uploads)

        return applied

    counts: list[Counter[str]] = []
    for session in sessions:
        counts.append(Counter())
        session._receiver.apply = listening(session, counts[-1])
    return counts


def judge(
    world: World,
    folder: Path,
    sessions: list[Session],
    heard: list[Counter[str]],
    is_voided: Callable[[int], bool] = lambda number: False,
) -> dict:
    """Return what is wrong with what was released and what both servers have of it.

    Servers forget the lines of old uploads. The signed lists that participants opened
    name each, and the hash chain over all lists says that both servers know the same.
    """
    wrong: dict[str, list[str]] = {"lost": [], "twice": [], "findings": []}
    expected = {
        f"{session.name}/{number}"
        for session in sessions
        for number in range(session.sequence)
        if not is_voided(number)
    }
    for counts in heard:
        wrong["lost"] += sorted(expected - counts.keys())
        wrong["twice"] += sorted(counts.keys() - expected)
        wrong["twice"] += [upload for upload, times in counts.items() if times > 1]
    for role in ("dsp", "kts"):
        wrong["findings"] += check_store(folder / role).findings
        server = Server(world, role, folder / role)
        ledger = server.server.state().ledger
        server.stop()
        wrong["findings"] += [
            f"the {role} still holds {entry.name}/{entry.sequence}"
            for entry in ledger.entries
            if not entry.version
        ]
        wrong["findings"] += [
            f"{session.name} has another history than the {role}"
            for session in sessions
            if session.chain != ledger.chain
        ]
    return wrong


def main(folder: str, suite: str, target: str, kills: str, seed: str) -> None:
    """Run once uninterrupted, once with kills, and print what came of it."""
    generator = random.Random(int(seed))
    everywhere: list[str | None] = list(points_of(target))
    plan = everywhere if kills == "places" else [None] * int(kills)
    world = make_world(suite, assumed_colluders=1, staleness_bound=5)
    # Everything is released in the end: four participants, three uploads per release.
    turns = 3 * math.ceil(len(plan) / 3)
    calm = Liar(world, *(Server(world, role, None) for role in ("dsp", "kts")))
    steady = join(world, calm)
    train(steady, turns, Court(world, calm))
    servers = {role: Remote(world, role, Path(folder, role)) for role in ("dsp", "kts")}
    # The very first call finds a server that has never run.
    moments = {1}
    if kills == "places":
        moments |= set(range(5, 1000 * turns, 5))
    else:
        apart = CALLS_PER_TURN[target] * turns // len(plan)
        moments |= {
            apart * n + generator.randrange(1, apart - 4) for n in range(1, len(plan))
        }
    Reaper(servers, target, moments, plan)
    pair = Liar(world, servers["dsp"], servers["kts"])
    sessions, court = join(world, pair), Court(world, pair)
    heard = listen(sessions)
    train(sessions, turns, court)
    for server in servers.values():
        server.before_call = lambda: None
        server.stop()
    outcome = judge(world, Path(folder), sessions, heard, is_voided)
    outcome["findings"] += court.wrong
    outcome |= {
        "deaths": {role: server.deaths for role, server in servers.items()},
        "pending": [session.pending for session in sessions],
        "equal": digest(sessions) == digest(steady),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
