"""What a participant believes of an answer, and what it does when none comes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import (
    AggregatorError,
    ProofError,
    StaleUploadError,
    UsedNumberError,
)
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Ack
from hre_torch.protocol.wire import decode, refuse
from hre_torch.servers.local import LocalAggregator


class Line(LocalAggregator):
    """A line to the DSP that may lose, change or exchange the next answer."""

    def __init__(self, name, *, servers):
        super().__init__(name, servers=servers)
        self.sent: list[bytes] = []
        self.answers: list[bytes] = []
        self.spoil = None

    def submit(self, upload):
        self.sent.append(upload)
        answer = super().submit(upload)
        self.answers.append(answer)
        spoil, self.spoil = self.spoil, None
        return answer if spoil is None else spoil(upload, answer)


@pytest.fixture
def federation(make_federation):
    return make_federation("plain", combine="sum", max_additions=6)


@pytest.fixture
def line(federation):
    return Line("p0", servers=federation.servers)


@pytest.fixture
def session(federation, line):
    secret = federation._secrets["p0"]
    return Session(federation.task, secret, line, federation._initial)


def push(session, value: int = 1) -> int:
    return session.push(np.full(session.task.config.n_values, value, dtype=np.int32))


def change(session, federation) -> set[int]:
    """Return by how much the weights in use differ from where the task began."""
    return set((session.weights() - federation._initial).tolist())


def lose(upload, answer):
    raise AggregatorError("the line is dead")


def flip(upload, answer):
    return answer[:-1] + bytes([answer[-1] ^ 1])


def cut(upload, answer):
    return answer[:40]


def nothing(upload, answer):
    return b""


@pytest.mark.parametrize("spoil", [lose, flip, cut, nothing])
def test_a_lost_or_damaged_answer_is_asked_for_again_with_identical_bytes(
    federation, session, line, spoil
):
    line.spoil = spoil
    with pytest.raises(AggregatorError):
        push(session, 5)
    assert (session.statistics.pushes, session.pending) == (0, 1)
    session.resend()
    assert line.sent[0] == line.sent[1]
    assert (session.statistics.pushes, session.pending) == (1, 1)
    assert change(session, federation) == {5}


def test_a_refusal_that_the_dsp_did_not_sign_is_not_believed(federation, session, line):
    def forge(upload, answer):
        return refuse(
            StaleUploadError("go away"),
            cfg=federation.task.cfg,
            sender="dsp",
            key=SigningKey(bytes(32)),
            about=hashlib.sha256(upload).digest(),
        )

    line.spoil = forge
    with pytest.raises(AggregatorError, match="not the DSP's answer"):
        push(session)
    session.resend()
    assert session.pending == 1


def test_an_old_refusal_is_no_answer_to_a_new_upload(federation, session, line):
    other = federation.join("p1")
    for _ in range(2):
        push(session)
    session._pending.popitem()
    push(session)
    refusal = line.answers[-1]
    session._pending.refused.clear()
    push(other)
    line.spoil = lambda upload, answer: refusal
    with pytest.raises(AggregatorError, match="not the DSP's answer"):
        push(session, 7)
    session.resend()
    assert 7 in {int(values[0]) for values in session._pending.values()}


def test_a_refusal_that_promises_nothing_is_said_and_the_same_bytes_go_again(
    federation, session, line
):
    """Else the DSP could have the same values sealed twice and leave no trace."""

    def shrug(upload, answer):
        return refuse(
            StaleUploadError("not today"),
            cfg=federation.task.cfg,
            sender="dsp",
            key=federation._secrets["dsp"].signing,
            about=hashlib.sha256(upload).digest(),
        )

    line.spoil = shrug
    with pytest.raises(StaleUploadError, match="not today"):
        push(session, 5)
    assert (session.pending, session.sequence) == (1, 1)
    session.resend()
    assert line.sent[0] == line.sent[1]
    assert (session.pending, session.statistics.pushes) == (1, 1)


def test_an_old_acknowledgement_is_no_answer_to_a_new_upload(session, line):
    push(session)
    old = line.answers[-1]
    line.spoil = lambda upload, answer: old
    with pytest.raises(AggregatorError, match="another upload"):
        push(session)
    assert (session.statistics.pushes, session.pending) == (1, 2)
    session.resend()
    assert (session.statistics.pushes, session.pending) == (2, 2)


def test_an_authentic_refusal_is_believed_and_the_bytes_are_dropped(session, line):
    for _ in range(2):
        push(session)
    session._pending.popitem()
    push(session, 9)
    assert [int(each.values[0]) for each in session._pending.refused] == [9]
    sent = len(line.sent)
    session.resend()
    assert len(line.sent) == sent


def test_an_upload_that_is_released_before_its_acknowledgement_counts_once(
    federation, session, line
):
    other = federation.join("p1")
    line.spoil = lose
    with pytest.raises(AggregatorError):
        push(session, 5)
    push(other, 3)
    session.pull()
    assert change(session, federation) == {8}
    sent = len(line.sent)
    session.resend()
    assert len(line.sent) == sent
    assert session.pending == 0
    assert change(session, federation) == {8}


def test_an_upload_that_was_given_up_and_arrives_after_all_is_no_error(
    federation, session
):
    other = federation.join("p1")
    push(session, 5)
    session._pending.clear()
    push(other, 3)
    session.pull()
    assert change(session, federation) == {8}


def test_an_upload_that_the_kts_refuses_does_not_stay_with_the_dsp(
    federation, session, monkeypatch
):
    kts = federation.servers._key_transform

    def refuse_once(deposit):
        monkeypatch.undo()
        raise ProofError("the KTS sees something that the DSP did not")

    before = federation.servers.state()
    monkeypatch.setattr(kts, "deposit", refuse_once)
    with pytest.raises(ProofError):
        push(session)
    after = federation.servers.state()
    assert after.data_service.uploads == before.data_service.uploads
    assert after.data_service.ledger.entries == []
    # The update is kept, and voids the number under which it was refused.
    assert session.pending == 1
    session.pull()
    [entry] = federation.servers.state().data_service.ledger.entries
    assert (entry.sequence, session.statistics.pushes) == (1, 1)


def test_withdrawn_bytes_that_come_again_are_refused_for_a_reason_of_their_own(
    federation, session, line, monkeypatch
):
    kts = federation.servers._key_transform

    def fail(deposit):
        monkeypatch.undo()
        raise StaleUploadError("the KTS is further on")

    monkeypatch.setattr(kts, "deposit", fail)
    push(session)
    assert (session.pending, session.statistics.pushes) == (1, 0)
    answer = federation.servers.submit("p0", line.sent[0])
    with pytest.raises(UsedNumberError, match="continue with 1"):
        decode(answer, Ack, max_bytes=0)


def test_a_release_that_fails_is_no_refusal_of_the_upload_that_caused_it(
    federation, session, monkeypatch
):
    other = federation.join("p1")
    push(session, 5)
    kts = federation.servers._key_transform

    def fail(order):
        monkeypatch.undo()
        raise StaleUploadError("no release today")

    monkeypatch.setattr(kts, "approve", fail)
    with pytest.raises(StaleUploadError, match="no release today"):
        push(other, 3)
    other.resend()
    assert federation.servers.version == 1
    for each in (session, other):
        each.pull()
        assert change(each, federation) == {8}
