"""What every backend must do: one suite of tests, run for each of them.

A backend's test module subclasses `AggregatorContract` and provides a fixture `serve`:
a function that takes options of `Federation.local` and returns a `Deployment`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmarks.attacks.forgery import Draft
from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    EquivocationError,
    HREError,
    SpoiledReleaseWarning,
    TransformError,
    UsedNumberError,
)
from hre_torch.optim.federation import Federation
from hre_torch.participant.aggregator import Aggregator
from hre_torch.participant.carriers import BackgroundCarrier
from hre_torch.participant.participant import LearningParticipant
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Ack, Download, Upload
from hre_torch.protocol.wire import Refusal, decode
from hre_torch.protocol.workers import Workers

SUITES = ["plain", "paper", "gated", "hybrid"]
N_VALUES = 62


@dataclass
class Deployment:
    """Servers of one backend, and how to reach them."""

    federation: Federation
    connect: Callable[[str], Aggregator]

    def join(self, name: str, *, background: bool = False, **options) -> Session:
        """Return the session of a participant over this backend."""
        federation, link = self.federation, self.connect(name)
        return Session(
            federation.task,
            federation._secrets[name],
            link,
            federation._initial,
            carrier=BackgroundCarrier(link) if background else None,
            **options,
        )

    def join_all(self) -> list[Session]:
        return [self.join(name) for name in self.federation.names]

    def seal(self, name: str, fill: int = 1) -> bytes:
        """Return the first upload of a participant as bytes."""
        task = self.federation.task
        secret = self.federation._secrets[name]
        participant = LearningParticipant(task, secret, Workers())
        values = np.full(task.config.n_values, fill, dtype=np.int32)
        return participant.seal(values, 0, task.config.initial_digest).encode()


def federate(suite: str, **options) -> Federation:
    """Make keys, task and initial weights of a toy federation."""
    torch.manual_seed(7)
    options = {
        "participants": 3,
        "min_contributions": 3,
        "profile": "toy-insecure",
    } | options
    return Federation.local(torch.nn.Linear(30, 2), suite=suite, **options)


def update(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-999, 1000, N_VALUES).astype(np.int32)


def same(fill: int) -> np.ndarray:
    return np.full(N_VALUES, fill, dtype=np.int32)


class AggregatorContract:
    """The laws; `serve` comes from the subclass."""

    @pytest.mark.parametrize("suite", SUITES)
    def test_everybody_opens_the_sum_of_what_everybody_pushed(self, serve, suite):
        sessions = serve(suite).join_all()
        for rounds in range(2):
            for index, session in enumerate(sessions):
                session.push(update(10 * rounds + index))
            opened = [session.pull() for session in sessions]
            expected = sum(update(10 * rounds + i).astype(int) for i in range(3))
            for (release,) in opened:
                assert release.count == 3
                assert (release.values == expected).all()

    def test_a_spoiled_release_is_given_up_by_all_once_enough_say_so(self, serve):
        deployment = serve("gated")
        sessions = deployment.join_all()
        task, secrets = deployment.federation.task, deployment.federation._secrets
        for session in sessions[:2]:
            session.push(same(1))
        forged = Draft.of_zeros(task, count=2).seal(secrets["p2"])
        deployment.connect("p2").submit(forged.encode())
        for session in sessions[:2]:
            with pytest.warns(SpoiledReleaseWarning, match="given up once c \\+ 2 = 3"):
                assert session.pull() == []
        for session in (sessions[2], *sessions[:2]):
            with pytest.warns(SpoiledReleaseWarning, match="p0, p1, p2 had uploads"):
                [given_up] = session.pull()
            assert given_up.values is None
        assert len({session.model_digest for session in sessions}) == 1
        assert {session.attest().final for session in sessions} == {True}

    def test_the_weights_are_those_of_a_plain_run_bit_for_bit(self, serve):
        weights = {}
        for suite in ("plain", "hybrid"):
            sessions = serve(suite).join_all()
            for rounds in range(3):
                for index, session in enumerate(sessions):
                    session.push(update(10 * rounds + index))
                    session.pull()
            for session in sessions:
                session.pull()
            weights[suite] = [session.released().tobytes() for session in sessions]
        assert len(set(weights["plain"] + weights["hybrid"])) == 1

    def test_nothing_is_new_before_t_identities_have_pushed(self, serve):
        deployment = serve("plain")
        first, second, _ = deployment.join_all()
        first.push(same(1))
        second.push(same(1))
        assert first.pull() == []
        assert first.pending == 1

    def test_the_identical_upload_again_is_acknowledged_and_counts_once(self, serve):
        deployment = serve("gated")
        upload = deployment.seal("p0")
        link = deployment.connect("p0")
        answers = [link.submit(upload) for _ in range(3)]
        acks = [decode(each, Ack, max_bytes=0).header for each in answers]
        assert {(ack.sequence, ack.upload) for ack in acks} == {(0, acks[0].upload)}
        for name in ("p1", "p2"):
            deployment.connect(name).submit(deployment.seal(name))
        assert decode(link.submit(upload), Ack, max_bytes=0).header.sequence == 0
        (release,) = deployment.join("p2").pull()
        assert release.count == 3

    def test_another_upload_under_a_used_number_is_refused_by_name(self, serve):
        deployment = serve("plain")
        deployment.connect("p0").submit(deployment.seal("p0", fill=1))
        with pytest.raises(EquivocationError, match="resend identical bytes"):
            deployment.join("p0").push(same(2))

    def test_more_than_q_unreleased_uploads_give_back_pressure(self, serve):
        deployment = serve("plain", max_additions=6)
        session = deployment.join("p0")
        session.push(same(1))
        session.push(same(1))
        with pytest.raises(BackPressure, match="keep accumulating"):
            session.push(same(1))
        session._pending.clear()
        link, refused = deployment.connect("p0"), session._participant
        upload = refused.seal(same(1), 0, session.model_digest).encode()
        for error in (BackPressure, UsedNumberError):
            # That number is used up, as the refusal has promised.
            refusal = decode(link.submit(upload), Refusal, max_bytes=0).header
            assert type(refusal.exception()) is error
            assert refusal.upload == decode(upload, Upload, max_bytes=1 << 20).digest

    def test_an_update_on_weights_that_are_too_old_waits_for_newer_ones(self, serve):
        deployment = serve("plain", staleness_bound=1, participants=4)
        sessions = deployment.join_all()
        for _ in range(2):
            for session in sessions[:3]:
                session.push(same(1))
                session.pull()
            for session in sessions[:3]:
                session.pull()
        late = sessions[3]
        start = late.weights()
        assert late.push(same(1)) == 0
        assert (late.pending, late.statistics.pushes, late.staleness) == (1, 0, 2)
        assert (late.weights() == start + same(3)).all()
        late.pull()
        assert (late.pending, late.statistics.pushes, late.sequence) == (1, 1, 2)
        assert (late.weights() == late.released() + same(3)).all()

    @pytest.mark.parametrize("suite", ["plain", "paper"])
    def test_who_is_behind_gets_merged_releases_or_single_ones(self, serve, suite):
        deployment = serve(suite, participants=4)
        sessions = deployment.join_all()
        for _ in range(3):
            for session in sessions[:3]:
                session.push(same(2))
        behind = deployment.connect("p3")
        limit = 1 << 20
        counts = {
            merge: [
                len(decode(each, Download, max_bytes=limit).header.releases)
                for each in behind.fetch(0, merge=merge)
            ]
            for merge in (True, False)
        }
        assert counts == {True: [3], False: [1, 1, 1]}

    def test_what_everybody_has_fetched_is_kept_until_it_is_opened(self, serve):
        deployment = serve("plain")
        for session in deployment.join_all():
            session.push(same(2))
        links = [deployment.connect(name) for name in deployment.federation.names]
        for link in links:
            link.opened = 0
            assert len(list(link.fetch(0))) == 1
        for link in links:
            (download,) = link.fetch(0)
            assert decode(download, Download, max_bytes=1 << 20).header.releases

    def test_asking_for_more_than_there_is_comes_back_as_a_refusal(self, serve):
        (refusal,) = serve("plain").connect("p0").fetch(7)
        with pytest.raises(TransformError, match="belongs to another federation"):
            decode(refusal, Download, max_bytes=0)

    @pytest.mark.parametrize("position", [0, 5, 20, 300, -1])
    def test_an_upload_that_was_changed_is_never_accepted(self, serve, position):
        deployment = serve("gated")
        upload = bytearray(deployment.seal("p0"))
        upload[position] ^= 1
        link = deployment.connect("p0")
        with pytest.raises(HREError):
            decode(link.submit(bytes(upload)), Ack, max_bytes=0)
        deployment.join("p0").push(same(1))

    def test_closing_twice_is_no_mistake(self, serve):
        link = serve("plain").connect("p0")
        link.close()
        link.close()

    def test_an_update_that_got_no_answer_is_sent_again_unchanged(self, serve):
        deployment = serve("plain")
        session = deployment.join("p0")
        submit, sent = session._carrier.aggregator.submit, []

        def lose(upload: bytes) -> bytes:
            sent.append(upload)
            submit(upload)
            raise AggregatorError("the answer was lost")

        session._carrier.aggregator.submit = lose
        with pytest.raises(AggregatorError):
            session.push(same(1))
        session._carrier.aggregator.submit = lambda data: (
            sent.append(data) or submit(data)
        )
        session.resend()
        assert sent[0] == sent[1]
        assert session.pending == 1
