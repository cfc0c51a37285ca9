"""Nobody waits for ever: fast participants beside slow ones, silent ones and liars."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import (
    BackPressure,
    SignatureError,
    TaskError,
)
from hre_torch.optim.federation import Federation
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Listed, Release
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import decode, seal

SUITES = ["plain", "gated"]


@dataclass
class History:
    """What happened in a simulated federation, tick by tick."""

    ticks: int = 0
    pushed: dict[tuple[str, int], int] = field(default_factory=dict)
    released: dict[tuple[str, int], int] = field(default_factory=dict)
    expired: set[tuple[str, int]] = field(default_factory=set)
    blocked: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)

    def take(self, release: Release) -> None:
        self.sizes.append(len(release.uploads))
        for item in release.uploads:
            self.released[item.name, item.sequence] = self.ticks
        self.expired |= {(item.name, item.sequence) for item in release.expired}

    def longest_wait(self, name: str) -> int:
        """Return how many ticks an upload of one participant has waited at most."""
        return max(
            self.released.get(upload, self.ticks) - pushed
            for upload, pushed in self.pushed.items()
            if upload[0] == name and upload not in self.expired
        )

    def counted(self, name: str) -> int:
        return sum(1 for other, _ in self.released if other == name)


def one_more(session: Session, history: History) -> None:
    """Pull, then push once, as an optimizer does with push_every = pull_every = 1."""
    session.pull()
    values = np.ones(session.task.config.n_values, dtype=np.int32)
    try:
        sequence = session.push(values)
    except BackPressure:
        history.blocked[session.name] += 1
    else:
        # A release may already have taken it by the time that the answer is here.
        history.pushed[session.name, sequence] = history.ticks


def simulate(
    federation: Federation, paces: Mapping[str, int], ticks: int
) -> tuple[dict[str, Session], History]:
    """Let every participant push once in as many ticks as its pace says."""
    history = History()
    federation.servers.on_release.append(history.take)
    sessions = {name: federation.join(name) for name in paces}
    for tick in range(ticks):
        history.ticks = tick
        for name, pace in paces.items():
            if tick % pace == pace - 1:
                one_more(sessions[name], history)
    for session in sessions.values():
        session.pull()
    return sessions, history


@pytest.mark.parametrize("suite", SUITES)
def test_a_fast_participant_beside_slow_ones_neither_deadlocks_nor_starves(
    make_federation, suite
):
    federation = make_federation(
        suite,
        participants=4,
        min_contributions=3,
        max_additions=64,
        max_per_identity=16,
        combine="sum",
    )
    paces = {"p0": 1, "p1": 5, "p2": 7, "p3": 11}
    sessions, history = simulate(federation, paces, 160)
    # Two slow participants and the fast one make a release, so there is one at least
    # every seven ticks; nobody waits much longer, and nothing is lost.
    assert len(history.sizes) >= 160 // 7 - 2
    for name, pace in paces.items():
        assert history.longest_wait(name) <= 14
        assert history.counted(name) >= 160 // pace - 16 // pace - 1
    assert not history.expired
    assert not history.blocked
    weights = {session.released().tobytes() for session in sessions.values()}
    assert len(weights) == 1


@pytest.mark.parametrize("suite", SUITES)
def test_a_fast_participant_that_fills_its_quota_is_held_back_but_not_for_ever(
    make_federation, suite
):
    federation = make_federation(
        suite,
        participants=4,
        min_contributions=3,
        max_additions=8,
        max_per_identity=2,
    )
    paces = {"p0": 1, "p1": 6, "p2": 6, "p3": 12}
    _, history = simulate(federation, paces, 120)
    assert history.blocked["p0"] > 50
    assert not {"p1", "p2", "p3"} & set(history.blocked)
    # Mostly Q = 2 uploads of the fast one in a release, and all of the slow ones.
    assert history.counted("p0") >= 3 * len(history.sizes) // 2
    assert min(history.counted("p1"), history.counted("p2")) >= 120 // 6 - 1
    assert max(history.sizes) <= 8


@pytest.mark.parametrize("suite", SUITES)
def test_a_fast_participant_counts_once_per_release_and_delays_nobody(
    make_federation, suite
):
    federation = make_federation(
        suite,
        participants=4,
        min_contributions=3,
        max_additions=64,
        staleness_bound=10,
    )
    assert federation.task.config.pending_limit == 5
    paces = {"p0": 1, "p1": 5, "p2": 7, "p3": 11}
    sessions, history = simulate(federation, paces, 120)
    assert history.counted("p0") == len(history.sizes) >= 120 // 7 - 2
    assert history.blocked["p0"] > 50
    assert not {"p1", "p2", "p3"} & set(history.blocked)
    for name in ("p1", "p2", "p3"):
        assert history.longest_wait(name) <= 14
    # What waits is released in time: half of S releases take what Q allows.
    assert not history.expired
    assert len({session.released().tobytes() for session in sessions.values()}) == 1


@pytest.mark.parametrize("suite", SUITES)
def test_with_more_participants_than_additions_the_oldest_go_first(
    make_federation, suite
):
    federation = make_federation(
        suite, participants=7, min_contributions=3, max_additions=4
    )
    paces = {"p0": 1, "p1": 1, "p2": 1, "p3": 1, "p4": 2, "p5": 3, "p6": 4}
    _, history = simulate(federation, paces, 60)
    assert max(history.sizes) <= 4
    for name, pace in paces.items():
        assert history.longest_wait(name) <= 4
        assert history.counted(name) >= 60 // pace // 3


@pytest.mark.parametrize("suite", SUITES)
def test_silent_participants_stop_nobody_while_t_others_go_on(make_federation, suite):
    federation = make_federation(suite, participants=6, min_contributions=3)
    sessions, history = simulate(federation, {"p0": 1, "p1": 2, "p2": 3}, 30)
    assert len(history.sizes) >= 9
    assert all(session.version == len(history.sizes) for session in sessions.values())


@pytest.mark.parametrize("suite", SUITES)
def test_one_that_slept_through_s_releases_pulls_and_takes_part_again(
    make_federation, suite
):
    federation = make_federation(
        suite, participants=4, min_contributions=3, staleness_bound=2
    )
    sleeper = federation.join("p3")
    simulate(federation, {"p0": 1, "p1": 1, "p2": 1}, 8)
    values = np.ones(federation.task.config.n_values, dtype=np.int32)
    sleeper.push(values)
    assert (sleeper.pending, sleeper.statistics.pushes) == (1, 0)
    sleeper.pull()
    assert sleeper.version == federation.servers.version
    assert (sleeper.pending, sleeper.statistics.pushes) == (1, 1)


@pytest.mark.parametrize("suite", SUITES)
def test_a_liar_about_the_model_cannot_stop_the_honest_ones(make_federation, suite):
    federation = make_federation(
        suite,
        participants=4,
        min_contributions=3,
        max_additions=64,
        max_per_identity=16,
    )
    history = History()
    federation.servers.on_release.append(history.take)
    honest = [federation.join(f"p{index}") for index in range(3)]
    liar = federation.join("p3")
    liar._sender.seal_refused = lambda: None
    for tick in range(40):
        history.ticks = tick
        liar.pull()
        liar._model.run = bytes(32)
        values = np.ones(federation.task.config.n_values, dtype=np.int32)
        try:
            liar.push(values)
        except BackPressure:
            history.blocked["p3"] += 1
        for session in honest[tick % 2 :]:
            one_more(session, history)
    assert len(history.sizes) >= 15
    assert history.counted("p3") == 0
    for session in honest:
        assert not history.blocked[session.name]
        assert history.longest_wait(session.name) <= 3


def test_a_quota_that_would_let_a_few_fill_every_release_is_refused(make_federation):
    task = make_federation("plain", participants=4, min_contributions=3).task
    for quota, allowed in ((1, True), (3, True), (4, False), (0, False)):
        config = msgspec.structs.replace(
            task.config, max_additions=8, max_per_identity=8, pending_limit=quota
        )
        if allowed:
            # Every rule holds; only the operator has not signed this variant.
            with pytest.raises(SignatureError):
                Task(config, task.roster, task.parameters, task.signature)
        else:
            with pytest.raises(TaskError, match="nothing could ever be released"):
                Task(config, task.roster, task.parameters, task.signature)


def test_lists_that_would_not_fit_into_a_message_are_refused(make_federation):
    make_federation("plain", max_additions=15_000, max_per_identity=5000)
    with pytest.raises(TaskError, match="longer than a message may be"):
        make_federation("plain", max_additions=16_500, max_per_identity=5500)


def test_the_longest_possible_list_fits_into_a_message(make_federation):
    many = {"max_additions": 15_000, "max_per_identity": 5000}
    task = make_federation("plain", **many).task
    listed = [
        Listed(name, (1 << 63) - 1, bytes(32))
        for name in task.roster.names * task.config.pending_limit
    ]
    release = Release(
        cfg=task.cfg,
        sender="kts",
        version=(1 << 63) - 1,
        uploads=tuple(listed),
        expired=(),
        commitment=bytes(32),
        previous=bytes(32),
        chain=bytes(32),
    )
    data = seal(release, SigningKey(bytes(32))).encode()
    assert decode(data, Release, max_bytes=0).header == release


@pytest.mark.parametrize("suite", SUITES)
def test_threads_at_full_speed_never_lock_each_other_out(make_federation, suite):
    federation = make_federation(
        suite, participants=4, min_contributions=3, max_additions=16
    )
    sessions = [federation.join() for _ in range(4)]
    history, errors = History(), []

    def run(session: Session, pushes: int) -> None:
        try:
            while session.statistics.pushes < pushes and session.version < 12:
                one_more(session, history)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(session, pushes), daemon=True)
        for session, pushes in zip(sessions, (1000, 40, 40, 40), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(timeout=60)
    assert not errors
    assert federation.servers.version >= 12
    threads[0].join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
