"""Messages travel while training goes on; nothing is lost, and nothing waits."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from benchmarks.attacks.forgery import Draft
from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    EquivocationError,
    SpoiledReleaseWarning,
    StaleUploadError,
)
from hre_torch.optim import FlatView, HREOptimizer
from hre_torch.participant.pending import Attempt
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Witness
from tests.servers.contract import same, update


def eventually(condition, seconds=10.0):
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def sessions(serve_locally, cleanup):
    """Make one background session per participant over the local backend."""

    def make(suite="plain", **options):
        deployment = serve_locally(suite, **options)
        made = [
            deployment.join(n, background=True) for n in deployment.federation.names
        ]
        for session in made:
            cleanup.callback(session.close)
        return made

    return make


def test_a_spoiled_release_is_given_up_in_the_background_too(sessions):
    first, second, spoiler = sessions("gated")
    for session in (first, second):
        session.push(same(1))
        session.resend()
    secret = spoiler._participant._secret
    forged = Draft.of_zeros(spoiler.task, count=2).seal(secret)
    spoiler._carrier.aggregator.submit(forged.encode())
    for session in (first, second):
        with pytest.warns(SpoiledReleaseWarning, match="is given up once"):
            assert session.catch_up() == []
    for session in (spoiler, first, second):
        with pytest.warns(SpoiledReleaseWarning, match="was spoiled"):
            [given_up] = session.catch_up()
        assert given_up.values is None
    assert first.model_digest == second.model_digest == spoiler.model_digest


def hold(session):
    """Keep uploads of a session from travelling until the returned event is set."""
    gate, submit = threading.Event(), session._carrier.aggregator.submit

    def slow(upload):
        assert gate.wait(10)
        return submit(upload)

    session._carrier.aggregator.submit = slow
    return gate


def release_twice(sessions):
    """Have sessions push and learn of what comes of it, two times."""
    for _ in range(2):
        for session in sessions:
            session.push(same(1))
            session.catch_up()
        for session in sessions:
            session.catch_up()


def test_pushing_does_not_wait_for_the_network(sessions):
    session = sessions()[0]
    gate = hold(session)
    started = time.monotonic()
    assert [session.push(same(1)) for _ in range(3)] == [0, 1, 2]
    assert time.monotonic() - started < 5
    assert session.pending == 3
    gate.set()
    session.catch_up()
    assert session.statistics.pushes == 3


@pytest.mark.parametrize("suite", ["plain", "hybrid"])
def test_released_weights_are_those_of_sessions_that_wait(
    sessions, serve_locally, suite
):
    waiting = serve_locally(suite).join_all()
    for seed in range(2):
        for index, session in enumerate(waiting):
            session.push(update(10 * seed + index))
    for session in waiting:
        session.pull()
    ahead = sessions(suite)
    for seed in range(2):
        for index, session in enumerate(ahead):
            session.push(update(10 * seed + index))
            session.pull()
        for _ in range(2):
            for session in ahead:
                session.catch_up()
    assert {s.released().tobytes() for s in ahead} == {
        s.released().tobytes() for s in waiting
    }
    assert [s.pending for s in ahead] == [0, 0, 0]


WEIGHTED = {"combine": "weighted", "max_samples": 100}


@pytest.mark.parametrize(
    ("numbers", "more", "full"), [({"combine": "mean"}, [], 15), (WEIGHTED, [25], 20)]
)
def test_an_update_under_way_is_part_of_the_weights_in_use(
    sessions, numbers, more, full
):
    session = sessions(**numbers)[0]
    gate = hold(session)
    start = session.weights()
    session.push(np.array([*same(5), *more], dtype=np.int32))
    assert (session.weights() - start == full).all()
    # Also where it comes back as too old and is to be sealed anew.
    session._pending.refuse(Attempt(0, 0, Witness(b"", b"", b"")), 0)
    assert (session.weights() - start == full).all()
    gate.set()


def test_an_update_that_met_an_earlier_ones_failure_is_pushed_later(sessions):
    """`push` raises about an earlier upload; what was to be pushed now stays local."""
    model = torch.nn.Linear(30, 2)
    session = sessions(combine="sum")[0]
    optimizer = HREOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.125), session, pull_every=1000
    )
    submit, lost = session._carrier.aggregator.submit, []

    def fail(upload):
        lost.append(upload)
        raise AggregatorError("not now")

    def step():
        optimizer.zero_grad()
        model(torch.ones(1, 30)).sum().backward()
        optimizer.step()

    session._carrier.aggregator.submit = fail
    start = session.weights()[0] / 2**16
    step()
    eventually(lambda: not session._carrier._answers.empty())
    session._carrier.aggregator.submit = submit
    with pytest.raises(AggregatorError, match="not now"):
        step()
    for _ in range(2):
        step()
        session.resend()
    assert len(lost) == 1
    assert float(model.weight[0, 0].detach()) == start - 4 * 0.125
    assert session.weights()[0] / 2**16 == start - 4 * 0.125


def test_closing_while_an_upload_fails_does_not_wait_for_ever(sessions):
    session = sessions()[0]
    trying, gate = threading.Event(), threading.Event()

    def fail(upload):
        trying.set()
        gate.wait(10)
        raise AggregatorError("not now")

    session._carrier.aggregator.submit = fail
    session.push(same(1))
    assert trying.wait(10)
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    eventually(session._carrier._retry.is_set)
    gate.set()
    closing.join(10)
    assert not closing.is_alive()


def test_a_fetch_that_ends_after_closing_does_no_errands(sessions):
    session, kts_client = sessions()[0], []
    fetching, gate = threading.Event(), threading.Event()

    def fetch(since):
        fetching.set()
        gate.wait(10)
        return iter(())

    session._carrier.aggregator.fetch = fetch
    session._carrier._prefetcher._idle = lambda: kts_client.append(1)
    session._carrier._prefetcher.call()
    assert fetching.wait(10)
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    eventually(lambda: session._carrier._prefetcher._ended)
    gate.set()
    closing.join(10)
    assert kts_client == []


def test_q_updates_under_way_give_back_pressure(sessions):
    session = sessions(max_additions=6)[0]
    gate = hold(session)
    session.push(same(1))
    session.push(same(1))
    with pytest.raises(BackPressure, match="under way"):
        session.push(same(1))
    gate.set()


def test_a_lost_connection_surfaces_once_and_the_bytes_are_sent_again(sessions):
    session = sessions()[0]
    submit, tried = session._carrier.aggregator.submit, []

    def fail_once(upload):
        tried.append(upload)
        if len(tried) == 1:
            raise AggregatorError("no route")
        return submit(upload)

    session._carrier.aggregator.submit = fail_once
    session.push(same(1))
    eventually(lambda: tried)
    with pytest.raises(AggregatorError, match="no route"):
        session.catch_up()
    session.catch_up()
    assert tried[0] == tried[1]
    assert session.statistics.pushes == 1


def test_a_refused_update_is_kept_and_said(sessions):
    first, second, _ = sessions()
    second._participant._secret = first._participant._secret
    first.push(same(1))
    first.catch_up()
    second._participant.name = "p0"
    start = second.released()
    second.push(same(2))
    with pytest.raises(EquivocationError):
        second.catch_up()
    assert (second.weights() != start).all()
    assert [each.voids for each in second._pending.refused] == [(0,)]


def test_an_update_that_came_too_late_is_sealed_anew_on_newer_weights(sessions):
    *others, late = sessions(participants=4, staleness_bound=1)
    gate = hold(late)
    late.push(same(7))
    release_twice(others)
    gate.set()
    late.catch_up()
    assert late.pending == 1
    late.catch_up()
    for session in others[:2]:
        session.push(same(1))
        session.catch_up()
    (release,) = late.catch_up()
    assert {item.name for item in release.uploads} >= {"p3"}
    assert late.pending == 0


def test_a_state_holds_what_was_refused_for_now_and_moves_no_weight(sessions):
    *others, late = sessions(participants=4, staleness_bound=1, combine="sum")
    model = torch.nn.Linear(30, 2)
    optimizer = HREOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.125), late, pull_every=1000
    )
    gate = hold(late)
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    release_twice(others)
    before = FlatView.of(model).read()
    gate.set()
    state = late.state()
    assert (late.version, late.pending, late.pushed) == (0, 1, 1)
    assert [each.after for each in state.refused] == [0]
    assert (FlatView.of(model).read() == before).all()
    # Whoever goes on from it seals it anew, on newer weights.
    secret = late._participant._secret
    again = Session(late.task, secret, late._carrier.aggregator, None, state=state)
    assert (again.weights() == late.weights()).all()
    again.pull()
    assert (again.pending, again.statistics.pushes, again.sequence) == (1, 1, 2)
    assert (again.weights() == late.weights() + 3 * again.version).all()
    late.catch_up()
    assert (late.weights() == again.weights()).all()
    assert FlatView.of(model).read() == pytest.approx(late.weights() / 2**16)


def test_what_was_refused_for_want_of_room_waits_for_a_release(sessions):
    one, *others = sessions(max_additions=6)
    for _ in range(2):
        one.push(same(1))
    one.catch_up()
    # As after a kill: the DSP knows of two uploads that wait, this session of none.
    one._pending.clear()
    submit, sent = one._carrier.aggregator.submit, []
    one._carrier.aggregator.submit = lambda upload: (
        sent.append(upload) or submit(upload)
    )
    one.push(same(2))
    for _ in range(20):
        one.catch_up()
        one.state()
    assert len(sent) == 1
    assert one.pending == 1
    for session in others:
        session.push(same(1))
        session.catch_up()
    one.catch_up()
    one.catch_up()
    assert len(sent) == 2
    assert one.statistics.pushes == 3


def test_a_session_that_knows_it_is_too_far_behind_asks_to_pull_first(sessions):
    session = sessions(staleness_bound=2)[0]
    session._sender.learn(2)
    with pytest.raises(StaleUploadError, match="pull, then push again"):
        session.push(same(1))
    assert session.pending == 0


def test_closing_sends_what_waits(sessions):
    session = sessions()[0]
    for _ in range(5):
        session.push(same(1))
    servers = session._carrier.aggregator._servers
    session.close()
    assert servers._data_service.standing("p0").pending == 5
