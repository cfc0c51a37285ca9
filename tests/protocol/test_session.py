"""Training semantics: nothing of one's own is lost or counted twice."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    LayoutError,
    SlotOverflowError,
    SpoiledReleaseWarning,
    TaskError,
    TransformError,
)
from hre_torch.optim.federation import Federation, FederationState
from hre_torch.participant.session import Session
from hre_torch.protocol.combination import Combination
from hre_torch.protocol.messages import Download
from hre_torch.protocol.wire import decode
from hre_torch.servers.local import LocalAggregator


def constant(session: Session, value: int) -> np.ndarray:
    return np.full(session.task.config.n_values, value, dtype=np.int32)


def change(session: Session, before: np.ndarray) -> int:
    """Return by how much every weight in use differs from `before`."""
    difference = session.weights() - before
    assert (difference == difference[0]).all()
    return int(difference[0])


@pytest.mark.parametrize(("combine", "own"), [("sum", 5), ("mean", 10)])
def test_an_own_pending_update_is_applied_at_full_size(make_federation, combine, own):
    session = make_federation(combine=combine).join()
    start = session.weights()
    session.push(constant(session, 5))
    assert change(session, start) == own
    assert (session.released() == start).all()


@pytest.mark.parametrize(("combine", "own"), [("sum", 5), ("mean", 10)])
def test_a_release_replaces_the_own_update_by_the_sum(make_federation, combine, own):
    federation = make_federation(combine=combine)
    a, b = federation.join(), federation.join()
    start = a.weights()
    a.push(constant(a, 5))
    b.push(constant(b, 3))
    a.push(constant(a, 5))
    a.pull()
    assert change(a, start) == 5 + 3 + own
    assert a.pending == 1
    b.pull()
    assert change(b, start) == 8
    assert b.pending == 0


def test_buffers_are_applied_as_a_mean_even_when_parameters_are_summed(
    make_federation,
):
    federation = make_federation(combine="sum")
    config = msgspec.structs.replace(federation.task.config, n_params=60, n_buffers=2)
    full = Combination(config).own(np.ones(62, dtype=np.int32))
    assert full.tolist() == [1] * 60 + [2, 2]


def test_pulling_when_nothing_is_new_returns_nothing(make_federation):
    session = make_federation().join()
    session.push(constant(session, 1))
    assert session.pull() == []


def test_q_own_unreleased_uploads_give_back_pressure_before_any_work(make_federation):
    federation = make_federation(max_additions=6)
    a, b = federation.join(), federation.join()
    a.push(constant(a, 1))
    a.push(constant(a, 1))
    sent = a.statistics.bytes_up
    with pytest.raises(BackPressure, match="pull to learn"):
        a.push(constant(a, 1))
    assert a.statistics.bytes_up == sent
    b.push(constant(b, 1))
    a.pull()
    assert a.push(constant(a, 1)) == 2


def test_an_expired_update_is_subtracted_from_the_weights_in_use(make_federation):
    federation = make_federation(staleness_bound=1, max_additions=4, participants=4)
    sessions = [federation.join() for _ in range(4)]
    slow = sessions[3]
    start = slow.weights()
    slow.push(constant(slow, 7))
    # K = 4 and Q = 1: three releases of the others pass the slow one's upload by.
    ledger = federation.servers._data_service._ledger
    original = ledger.propose

    def without_the_slow_one():
        proposal = original()
        if proposal is None or len(proposal.uploads) < 3:
            return None
        kept = tuple(e for e in proposal.uploads if e.name != slow.name)
        return type(proposal)(kept, proposal.expired)

    ledger.propose = without_the_slow_one
    for _ in range(2):
        for session in sessions[:2]:
            session.push(constant(session, 1))
        for session in sessions[:2]:
            session.pull()
    ledger.propose = original
    for session in sessions[:2]:
        session.push(constant(session, 1))
    slow.pull()
    assert slow.statistics.expired == 1
    assert slow.pending == 0
    assert change(slow, start) == 6


def test_a_session_that_lags_more_than_s_releases_must_pull_first(make_federation):
    federation = make_federation(staleness_bound=1)
    a, b, slow = (federation.join() for _ in range(3))
    for _ in range(3):
        a.push(constant(a, 1))
        b.push(constant(b, 1))
        a.pull()
        b.pull()
    before = slow.weights()
    slow.push(constant(slow, 9))
    assert (slow.pending, slow.statistics.pushes, slow.staleness) == (1, 0, 3)
    assert change(slow, before) == 18
    slow.pull()
    assert (slow.pending, slow.statistics.pushes) == (1, 1)
    assert change(slow, before) == 18 + 6


def test_staleness_counts_releases_that_acks_have_told_of(make_federation):
    federation = make_federation()
    a, b, c = (federation.join() for _ in range(3))
    a.push(constant(a, 1))
    b.push(constant(b, 1))
    assert c.staleness == 0
    c.push(constant(c, 1))
    assert c.staleness == 1
    c.pull()
    assert c.staleness == 0


class FlakyAggregator(LocalAggregator):
    """Loses the answer to the first upload, after the DSP has stored it."""

    def __init__(self, name, *, servers):
        super().__init__(name, servers=servers)
        self.sent: list[bytes] = []

    def submit(self, upload):
        self.sent.append(upload)
        reply = super().submit(upload)
        if len(self.sent) == 1:
            raise AggregatorError("the line went dead")
        return reply


def test_after_a_lost_answer_identical_bytes_are_sent_and_count_once(make_federation):
    federation = make_federation("paper", max_per_identity=2)
    flaky = FlakyAggregator("p0", servers=federation.servers)
    session = Session(
        federation.task, federation._secrets["p0"], flaky, federation._initial
    )
    other = federation.join("p1")
    start = session.weights()
    with pytest.raises(AggregatorError):
        session.push(constant(session, 5))
    session.push(constant(session, 2))
    assert flaky.sent[0] == flaky.sent[1] != flaky.sent[2]
    other.push(constant(other, 1))
    session.pull()
    assert change(session, start) == 8


def test_a_state_is_taken_once_all_is_answered(make_federation):
    federation = make_federation("plain")
    flaky = FlakyAggregator("p0", servers=federation.servers)
    session = Session(
        federation.task, federation._secrets["p0"], flaky, federation._initial
    )
    with pytest.raises(AggregatorError):
        session.push(constant(session, 5))
    submit = flaky.submit

    def die(upload):
        raise AggregatorError("the line is dead")

    flaky.submit = die
    with pytest.raises(AggregatorError, match="line is dead"):
        session.state()
    flaky.submit = submit
    assert session.state().statistics.pushes == 1
    assert flaky.sent[0] == flaky.sent[1]


def test_a_release_with_wrong_content_is_rejected_by_all_and_consumes_its_uploads(
    make_federation,
):
    federation = make_federation("plain")
    a, b = federation.join(), federation.join()
    start = a.weights()
    cipher = federation.servers._data_service._cipher
    original = cipher.add

    def wrong_checksum(totals):
        total = original(totals)
        total[1] += 1
        return total

    a.push(constant(a, 5))
    cipher.add = wrong_checksum
    b.push(constant(b, 3))
    cipher.add = original
    a.push(constant(a, 1))
    b.push(constant(b, 1))
    for session in (a, b):
        with pytest.warns(SpoiledReleaseWarning, match="Spoiled so far: 1; p0, p1 had"):
            opened = session.pull()
        assert [each.values is None for each in opened] == [True, False]
        assert change(session, start) == 2
        assert session.pending == 0
        assert (session.statistics.rejected, session.statistics.spent) == (1, 1)


def test_consecutive_releases_are_merged_for_a_recipient_that_is_behind(
    make_federation,
):
    federation = make_federation("paper")
    a, b, behind = (federation.join() for _ in range(3))
    for value in (1, 2, 3):
        a.push(constant(a, value))
        b.push(constant(b, value))
    opened = behind.pull()
    assert [(each.first, each.last, each.count) for each in opened] == [(1, 3, 6)]
    assert change(behind, federation._initial) == 12


def test_merging_stops_at_k_additions(make_federation):
    federation = make_federation("paper", max_additions=5)
    a, b, behind = (federation.join() for _ in range(3))
    for _ in range(3):
        a.push(constant(a, 1))
        b.push(constant(b, 1))
        a.pull()
        b.pull()
    assert [each.count for each in behind.pull()] == [4, 2]


def test_merging_stops_where_the_signed_lists_would_not_fit_into_a_message(
    make_federation,
):
    federation = make_federation("paper", min_contributions=1, max_additions=6000)
    a, behind = federation.join(), federation.join()
    for _ in range(5):
        a.push(constant(a, 1))
    dsp = federation.servers._data_service
    assert dsp.next_range(behind.name, 0) == (1, 5)
    for release in dsp._pending.releases.values():
        release.encoded = bytes(200_000)
    assert dsp.next_range(behind.name, 0) == (1, 2)


class TamperingAggregator(LocalAggregator):
    """Changes one byte of the first download's body."""

    tampered = False

    def fetch(self, since, *, merge=True):
        for data in super().fetch(since, merge=merge):
            if not TamperingAggregator.tampered:
                TamperingAggregator.tampered = True
                changed = bytearray(data)
                changed[-1] ^= 1
                yield bytes(changed)
            yield data


@pytest.mark.parametrize("suite", ["plain", "paper"])
def test_a_changed_download_consumes_nothing_and_can_be_asked_for_again(
    make_federation, suite
):
    TamperingAggregator.tampered = False
    federation = make_federation(suite)
    session = Session(
        federation.task,
        federation._secrets["p0"],
        TamperingAggregator("p0", servers=federation.servers),
        federation._initial,
    )
    other = federation.join("p1")
    session.push(constant(session, 1))
    other.push(constant(other, 1))
    with pytest.raises(TransformError, match="SHA-256"):
        session.pull()
    assert session.version == 0
    assert session.pending == 1
    session.pull()
    assert session.version == 1
    assert session.pending == 0


def test_a_download_for_somebody_else_does_not_open(make_federation):
    federation = make_federation("paper")
    a, b = federation.join(), federation.join()
    a.push(constant(a, 1))
    b.push(constant(b, 1))
    download = next(federation.servers.fetch("p1", 0, merge=True))
    assert decode(download, Download, max_bytes=10**6).header.recipient == "p1"
    with pytest.raises(TransformError, match="is for 'p1'"):
        a._participant.open(download)


def test_initial_weights_other_than_the_tasks_are_refused(make_federation):
    federation = make_federation()
    aggregator = LocalAggregator("p0", servers=federation.servers)
    secret = federation._secrets["p0"]
    for wrong in (federation._initial + 1, federation._initial[:-1]):
        with pytest.raises(LayoutError):
            Session(federation.task, secret, aggregator, wrong)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (np.zeros(3, dtype=np.int32), TaskError),
        (np.zeros(62, dtype=np.int64), TaskError),
        (np.full(62, 32768, dtype=np.int32), SlotOverflowError),
        (np.full(62, -32768, dtype=np.int32), SlotOverflowError),
    ],
)
def test_values_that_do_not_fit_the_task_are_refused(make_federation, values, error):
    session = make_federation().join()
    with pytest.raises(error):
        session.push(values)
    assert session.statistics.pushes == 0


@pytest.mark.parametrize("suite", ["plain", "paper"])
def test_a_resumed_federation_goes_on_bit_for_bit(make_federation, draw_update, suite):
    def play(federation: Federation, seeds: range) -> None:
        for seed in seeds:
            session = federation.sessions[f"p{seed % 3}"]
            session.push(draw_update(62, seed))
            if seed % 4 == 0:
                session.pull()

    federation = make_federation(suite)
    for _ in range(3):
        federation.join()
    play(federation, range(10))
    saved = msgspec.msgpack.decode(
        msgspec.msgpack.encode(federation.state()), type=FederationState
    )
    play(federation, range(10, 20))
    with Federation.resume(saved) as resumed:
        for name in resumed.names:
            resumed.join(name)
        play(resumed, range(10, 20))
        for name, session in resumed.sessions.items():
            other = federation.sessions[name]
            assert session.version == other.version
            assert (session.weights() == other.weights()).all()


def test_statistics_count_bytes_that_cross_the_aggregator(make_federation):
    federation = make_federation("paper")
    seen = {"up": 0, "down": 0}

    def tap(link, data):
        seen["up"] += len(data) if link == "p0->dsp" else 0
        seen["down"] += len(data) if link == "dsp->p0" else 0

    federation.servers.taps.append(tap)
    a, b = federation.join(), federation.join()
    a.push(constant(a, 1))
    b.push(constant(b, 1))
    seen["down"] = 0
    a.pull()
    assert a.statistics.bytes_up == seen["up"] > 0
    assert a.statistics.bytes_down == seen["down"] > 0
