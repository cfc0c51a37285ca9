"""Weighted averages: exact, the same at everybody, and one weight in no place."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hre_torch.errors import (
    SlotOverflowError,
    SpoiledReleaseWarning,
    TaskError,
    TransformError,
    UnsupportedError,
)
from hre_torch.optim.federation import Federation
from hre_torch.participant.session import Session
from hre_torch.protocol.combination import Combination, divided
from hre_torch.protocol.task import Task
from tests.tasks import plain_config

WEIGHTED = {"combine": "weighted", "max_samples": 100, "max_additions": 64}
T3 = {"min_contributions": 3, "participants": 4} | WEIGHTED
CONFIG = plain_config(
    ("a", "b"), 62, min_contributions=2, combine="weighted", max_samples=100
)
PROTECTED = ["paper", "phong", "gated", "hybrid"]


def upload(session: Session, value: int | np.ndarray, weight: int) -> np.ndarray:
    """Return a quantised update with its weight behind it."""
    values = np.empty(session.task.config.n_sealed, dtype=np.int32)
    values[:-1], values[-1] = value, weight
    return values


def together(federation: Federation) -> list[Session]:
    return [federation.join() for _ in federation.names]


def play(federation: Federation, draw_update, rounds: int) -> list[np.ndarray]:
    """Push and pull in a fixed, uneven rhythm; return everybody's weights in use."""
    sessions = together(federation)
    for turn in range(rounds):
        session = sessions[turn % len(sessions)]
        weight = 1 + 37 * turn % 100
        values = draw_update(62, seed=turn, limit=32767 * weight // 100)
        session.push(upload(session, values, weight))
        if turn % 5 == 0:
            session.pull()
    for session in sessions:
        session.pull()
    assert len({session.model_digest for session in sessions}) == 1
    return [session.weights() for session in sessions]


@pytest.mark.parametrize("suite", PROTECTED)
def test_a_protected_weighted_run_equals_the_plain_run_bit_for_bit(
    make_federation, draw_update, suite
):
    plain = play(make_federation("plain", **T3), draw_update, 13)
    other = play(make_federation(suite, **T3), draw_update, 13)
    assert all((x == y).all() for x, y in zip(plain, other, strict=True))


def test_a_release_is_the_weighted_mean_of_federated_averaging(
    make_federation, draw_update
):
    sessions = together(make_federation(**T3))[:3]
    weights = np.array([1, 30, 100])
    start = sessions[0].released()
    drawn = np.stack(
        [draw_update(62, seed=i, limit=327 * weights[i]) for i in range(3)]
    )
    for session, values, weight in zip(sessions, drawn, weights, strict=True):
        session.push(upload(session, values, weight))
    [opened] = sessions[0].pull()
    # What travels is u w / M, so an update is u = q M / w.
    updates = drawn * 100 / weights[:, None]
    expected = weights @ updates / weights.sum()
    assert np.abs(sessions[0].released() - start - expected).max() <= 0.5
    assert opened.weight == weights.sum()


@given(
    numbers=st.lists(st.integers(-(2**61), 2**61), min_size=1, max_size=20),
    divisor=st.integers(1, 2**61),
)
@settings(max_examples=100)
def test_a_quotient_is_rounded_to_the_nearest_integer_ties_to_even(numbers, divisor):
    got = divided(np.array(numbers, dtype=np.int64), divisor)
    assert got.tolist() == [round(Fraction(number, divisor)) for number in numbers]


UPDATES = st.lists(
    st.lists(st.integers(-9000, 9000), min_size=62, max_size=62),
    min_size=2,
    max_size=5,
)


def sealed(updates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return what uploads of updates in units of 2^-f add up to, with M = 100."""
    values = np.rint(updates * weights[:, None] / 100)
    return np.column_stack([values, weights]).sum(axis=0).astype(np.int64)


@given(drawn=UPDATES, weight=st.integers(1, 100))
@settings(max_examples=30)
def test_equal_weights_give_the_mean_of_the_contributions(drawn, weight):
    updates = np.array(drawn)
    count = len(updates)
    total = sealed(updates, np.full(count, weight))
    change, _ = Combination(CONFIG).change(total, count)
    # Rounding an upload moves an update by M / 2w units, and the quotient by a half.
    assert np.abs(change - updates.mean(axis=0)).max() <= 50 / weight + 0.5


@given(drawn=UPDATES, factor=st.integers(2, 10), data=st.data())
@settings(max_examples=30)
def test_weights_that_all_grow_alike_change_nothing_but_rounding(drawn, factor, data):
    updates = np.array(drawn)
    count = len(updates)
    numbers = st.integers(1, 100 // factor)
    weights = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    combination = Combination(CONFIG)
    small, _ = combination.change(sealed(updates, weights), count)
    large, _ = combination.change(sealed(updates, factor * weights), count)
    error = count * 50 / weights.sum() * (1 + 1 / factor) + 1
    assert np.abs(small - large).max() <= error


@given(drawn=UPDATES)
@settings(max_examples=30)
def test_averaged_buffers_move_by_the_mean_of_a_release_however_large(drawn):
    config = msgspec.structs.replace(
        CONFIG, combine="sum", max_samples=None, n_params=32, n_buffers=30
    )
    t, updates = config.min_contributions, np.array(drawn)
    count = max(t, len(updates))
    updates = np.resize(updates, (count, 62))
    sent = np.column_stack([updates[:, :32], np.rint(updates[:, 32:] / t)])
    change, weight = Combination(config).change(
        sent.sum(axis=0).astype(np.int64), count
    )
    assert weight == 0
    assert (change[:32] == updates[:, :32].sum(axis=0)).all()
    error = np.abs(change[32:] - updates[:, 32:].mean(axis=0)).max()
    assert error <= t / 2 + 0.5


def test_an_own_pending_update_counts_in_full_whatever_its_weight(make_federation):
    session = together(make_federation(**WEIGHTED))[0]
    start = session.weights()
    session.push(upload(session, 5, 25))
    assert (session.weights() - start == 20).all()
    # 7 M / w = 233.3 units, of which the owner applies 233.
    session.push(upload(session, 7, 3))
    assert (session.weights() - start == 20 + 233).all()
    assert (session.released() == start).all()


def test_a_release_replaces_the_own_update_by_the_average(make_federation):
    a, b, _ = together(make_federation(**WEIGHTED))
    start = a.weights()
    a.push(upload(a, 20, 20))
    b.push(upload(b, 80, 40))
    a.pull()
    # (20 u_a + 40 u_b) / 60 with u_a = 100 and u_b = 200.
    assert (a.weights() - start == 167).all()
    assert a.pending == 0


def test_a_restart_knows_the_weight_of_what_is_pending(make_federation):
    federation = make_federation(**WEIGHTED)
    a, b, _ = together(federation)
    a.push(upload(a, 9, 7))
    before = a.weights()
    again = Federation.resume(federation.state())
    a, b, _ = together(again)
    assert (a.weights() == before).all()
    b.push(upload(b, 4, 50))
    a.pull()
    b.pull()
    assert a.pending == b.pending == 0
    assert (a.weights() == b.weights()).all()
    again.close()


@pytest.mark.parametrize("suite", ["plain", *PROTECTED])
@pytest.mark.parametrize("lie", [-9, 300, -5])
def test_what_cannot_be_a_sum_of_such_uploads_is_rejected_by_everybody(
    make_federation, monkeypatch, suite, lie
):
    """Sums of weights of -1, 308 and 3: the last one would be an average of 32767."""
    sessions = together(make_federation(suite, **T3))
    start = sessions[0].released()
    for session in sessions[:2]:
        session.push(upload(session, 400, 4))
    liar = sessions[2]
    with monkeypatch.context() as patched:
        patched.setattr(Combination, "weight_in", lambda self, values: 100)
        liar.push(upload(liar, 400, lie))
    for session in (*sessions, *sessions):
        if session.version == 0:
            # In suites with verdicts the first ones wait for what others say.
            with pytest.warns(SpoiledReleaseWarning):
                session.pull()
    for session in sessions:
        assert session.statistics.rejected == 1
        assert session.pending == 0
        assert (session.released() == start).all()


def test_a_participant_refuses_to_seal_what_is_no_weight(make_federation):
    session = together(make_federation(**WEIGHTED))[0]
    for weight in (-1, 0, 101):
        with pytest.raises(TaskError, match="between 1 and 100"):
            session.push(upload(session, 1, weight))
    with pytest.raises(TaskError, match=r"shape \(62,\)"):
        session.push(np.ones(62, dtype=np.int32))
    with pytest.raises(SlotOverflowError, match="weight 50 hold only -16383 to 16383"):
        session.push(upload(session, 16384, 50))


def test_extreme_values_of_every_weight_open_exactly(make_federation):
    sessions = together(make_federation("hybrid", **T3))[:3]
    start = sessions[0].released()
    for session, weight in zip(sessions, (1, 99, 100), strict=True):
        session.push(upload(session, -32767 * weight // 100 + 1, weight))
    [opened] = sessions[0].pull()
    assert (sessions[0].released() - start == opened.values).all()
    assert -32767 <= opened.values.min() <= opened.values.max() < -32700


@pytest.mark.parametrize("suite", ["plain", "paper"])
def test_a_recipient_that_is_behind_opens_weighted_releases_one_by_one(
    make_federation, suite
):
    federation = make_federation(suite, **WEIGHTED)
    a, b, late = together(federation)
    for weight in (10, 30, 90):
        a.push(upload(a, 50, weight))
        b.push(upload(b, 20, 100))
        a.pull()
    assert [(each.first, each.last) for each in late.pull()] == [(1, 1), (2, 2), (3, 3)]
    assert (late.released() == a.released()).all()
    with pytest.raises(TransformError, match="opens each release alone"):
        federation.servers._key_transform.transform(
            federation.servers._data_service.begin("p2", 1, 3)
        )


def test_a_participant_refuses_weighted_releases_that_come_as_one_sum(
    make_federation, monkeypatch
):
    federation = make_federation(**WEIGHTED)
    a, b, late = together(federation)
    for _ in range(2):
        a.push(upload(a, 50, 1))
        b.push(upload(b, 20, 2))
    suite = type(federation.servers._data_service._suite)
    monkeypatch.setattr(suite, "merges_in", lambda self, *numbers: True)
    with pytest.raises(TransformError, match="each is opened alone"):
        late.pull()


def test_who_permutes_the_weights_of_a_release_opens_the_same(make_federation):
    """A recipient learns the sum of weights, and of whose they are nothing."""
    opened = []
    for weights in ([5, 17, 70], [70, 5, 17]):
        federation = make_federation("hybrid", **T3)
        *contributors, reader = together(federation)
        for session, weight in zip(contributors, weights, strict=True):
            session.push(upload(session, 11, weight))
        [got] = reader.pull()
        opened.append((got.weight, got.values.tolist()))
    assert opened[0] == opened[1]
    assert opened[0][0] == 92


def test_sums_of_many_releases_can_be_solved_for_weights_that_stay_the_same(
    make_federation,
):
    """What the README says is not protected: see "sum, mean, weighted"."""
    sessions = together(make_federation(**T3))
    weights = [5, 17, 70, 33]
    lists, sums = [], []
    for absent in range(4):
        for number, session in enumerate(sessions):
            if number != absent:
                session.push(upload(session, 1, weights[number]))
        for session in sessions:
            [opened] = session.pull()
        lists.append([sum(u.name == s.name for u in opened.uploads) for s in sessions])
        sums.append(opened.weight)
    assert np.linalg.solve(lists, sums) == pytest.approx(weights)


def test_a_weight_is_the_number_of_samples_where_it_fits():
    assert [Combination(CONFIG).weight_of(n) for n in (1, 63, 100)] == [1, 63, 100]
    large = Combination(msgspec.structs.replace(CONFIG, max_samples=10**6))
    assert [large.weight_of(n) for n in (1, 500_000, 10**6)] == [1, 16384, 32767]
    narrow = Combination(msgspec.structs.replace(CONFIG, value_bits=4))
    assert [narrow.weight_of(n) for n in (1, 50, 100)] == [1, 4, 7]


@pytest.mark.parametrize("samples", [None, 0, 101])
def test_samples_that_the_task_does_not_allow_are_refused(samples):
    with pytest.raises(UnsupportedError, match="it allows 1 to 100"):
        Combination(CONFIG).weight_of(samples)


def test_samples_are_refused_where_nobody_is_weighted(make_federation):
    combination = Combination(make_federation(combine="mean").task.config)
    assert combination.weight_of(None) == 0
    with pytest.raises(UnsupportedError, match="combine='weighted'"):
        combination.weight_of(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combine": "weighted"}, "needs max_samples"),
        ({"combine": "mean", "max_samples": 9}, "needs max_samples"),
        ({"combine": "weighted", "max_samples": 0}, "max_samples is 0"),
    ],
)
def test_a_task_whose_weights_cannot_work_is_refused(make_federation, options, message):
    with pytest.raises(TaskError, match=message):
        make_federation(**options)


def test_a_task_whose_weighted_sums_leave_64_bits_is_refused(make_federation):
    task = make_federation(**WEIGHTED).task
    config = msgspec.structs.replace(
        task.config, max_samples=10**5, value_bits=32, max_additions=2**17
    )
    with pytest.raises(TaskError, match="take 63 bits"):
        Task(config, task.roster, task.parameters, b"")
