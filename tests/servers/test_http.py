"""The HTTP backend on a bad network, and what an eavesdropper gets."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hre_torch.errors import AggregatorError, CryptoError, TaskError, TransformError
from hre_torch.http_client import RetryPolicy
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.participant import LearningParticipant
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Download, Upload
from hre_torch.protocol.wire import decode
from hre_torch.protocol.workers import Workers
from hre_torch.servers import kts_client
from tests.servers.badnet import BadNetwork
from tests.servers.contract import same, update

STUBBORN = RetryPolicy(timeout=60, first_pause=0.01, longest_pause=0.1, silence=5)


def join_through(deployment, url, name, policy=STUBBORN) -> Session:
    task, secret = deployment.federation.task, deployment.federation._secrets[name]
    link = HTTPAggregator(name, url=url, task=task, secret=secret, policy=policy)
    return Session(task, secret, link, deployment.federation._initial)


def push_all(deployment, url, pushes):
    """Let every participant push so often at once; return what each has pushed."""
    sums, errors = {}, []

    def work(index, name):
        session = join_through(deployment, url, name)
        total = np.zeros(62, dtype=np.int64)
        try:
            for number in range(pushes):
                values = update(1000 * index + number)
                session.push(values)
                total += values
                session.pull()
            sums[name] = total
        except Exception as error:
            errors.append(error)
        finally:
            session.close()

    # The last one only reads in the end, which keeps every release alive.
    names = deployment.federation.names[:-1]
    threads = [
        threading.Thread(target=work, args=(index, name))
        for index, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return sums


def check_exactly_once(deployment, sums, pushes):
    """Every acknowledged upload is in both ledgers once, and in at most one release."""
    *names, last = deployment.federation.names
    reader = deployment.join(last)
    entered: dict[tuple[str, int], int] = {}
    for opened in reader._carrier.aggregator.fetch(0, merge=False):
        opened = reader._participant.open(opened)
        reader._receiver.apply(opened)
        for item in opened.uploads:
            entered[item.name, item.sequence] = (
                entered.get((item.name, item.sequence), 0) + 1
            )
    for role in (deployment.dsp._role, deployment.kts._role):
        waiting = role._ledger.unreleased()
        assert {entry.status for entry in waiting} <= {"accepted"}
        everything = set(entered) | {(e.name, e.sequence) for e in waiting}
        assert everything == {(n, s) for n in names for s in range(pushes)}
    assert set(entered.values()) == {1}
    released = reader.released() - deployment.federation._initial
    pending = sum(
        update(1000 * names.index(entry.name) + entry.sequence).astype(np.int64)
        for entry in deployment.dsp._role._ledger.unreleased()
    )
    assert (released + pending == sum(sums.values())).all()


def run_on_bad_network(serve_http, pushes, **network):
    deployment = serve_http(
        "plain",
        participants=5,
        combine="sum",
        max_additions=4096,
        # Nothing is forgotten before the last participant reads it.
        staleness_bound=5000,
    )
    with BadNetwork(
        deployment.url, drop=0.2, double=0.2, change=0.05, seed=3, **network
    ) as bad:
        sums = push_all(deployment, bad.url, pushes)
        check_exactly_once(deployment, sums, pushes)


@pytest.mark.gate
@pytest.mark.servers
def test_two_hundred_uploads_arrive_exactly_once_over_a_bad_network(serve_http):
    run_on_bad_network(serve_http, pushes=50, delay=0.02)


@pytest.mark.slow
@pytest.mark.servers
def test_two_thousand_uploads_arrive_exactly_once_with_delays_of_5_s(serve_http):
    run_on_bad_network(serve_http, pushes=500, delay=5.0, late=0.05)


@pytest.mark.parametrize("suite", ["hybrid", "paper"])
def test_any_changed_byte_is_detected_and_the_weights_are_right(serve_http, suite):
    deployment = serve_http(suite)
    with BadNetwork(deployment.url, change=0.4, seed=11) as network:
        sessions = [
            join_through(deployment, network.url, name)
            for name in deployment.federation.names
        ]
        for rounds in range(2):
            for index, session in enumerate(sessions):
                session.push(update(10 * rounds + index))
            for session in sessions:
                (opened,) = session.pull()
                expected = sum(update(10 * rounds + i).astype(int) for i in range(3))
                assert (opened.values == expected).all()
        for session in sessions:
            session.close()


def test_a_bad_network_between_the_servers_costs_time_and_nothing_else(
    serve_http, monkeypatch
):
    monkeypatch.setattr(kts_client, "_PATIENCE", RetryPolicy(10, 0.01, 0.02))
    deployment = serve_http("gated")
    with BadNetwork(
        deployment.kts_url, drop=0.15, double=0.2, change=0.15, seed=5
    ) as network:
        deployment.dsp._kts._client.base_url = network.url
        sessions = [
            join_through(deployment, deployment.url, name)
            for name in deployment.federation.names
        ]
        for rounds in range(3):
            for index, session in enumerate(sessions):
                session.push(update(10 * rounds + index))
            for session in sessions:
                (opened,) = session.pull()
                expected = sum(update(10 * rounds + i).astype(int) for i in range(3))
                assert (opened.values == expected).all()
        for session in sessions:
            session.close()


def record(serve_http, suite):
    """Return a deployment, both links' traffic, and what p0 knows and pushed."""
    deployment = serve_http(suite)
    with BadNetwork(deployment.url) as network:
        sessions = [
            join_through(deployment, network.url, name)
            for name in deployment.federation.names
        ]
        values = [np.full(62, 0) + update(index) for index in range(3)]
        for session, each in zip(sessions, values, strict=True):
            session.push(each.astype(np.int32))
        for session in sessions:
            session.pull()
            session.close()
    weights = sessions[0].released()
    return deployment, network.recording, [*values, weights, weights - sum(values)]


def fragments(values):
    piece = values[:8]
    return [
        piece.astype(dtype).tobytes()
        for dtype in ("<i2", "<i4", ">i4", "<i8", ">i8", "<f4", "<f8")
    ]


@pytest.mark.parametrize("suite", ["hybrid", "gated", "paper"])
def test_recorded_traffic_holds_no_update_and_no_weight(serve_http, suite):
    _, recording, secrets = record(serve_http, suite)
    traffic = b"".join(recording)
    assert len(traffic) > 5_000
    assert not any(f in traffic for values in secrets for f in fragments(values))


def test_the_same_search_finds_the_updates_of_the_plain_suite(serve_http):
    _, recording, secrets = record(serve_http, "plain")
    traffic = b"".join(recording)
    assert any(f in traffic for values in secrets for f in fragments(values))


@pytest.mark.parametrize("suite", ["hybrid", "gated", "paper"])
def test_another_participant_with_the_recording_and_its_own_key_reads_nothing(
    serve_http, suite
):
    deployment, recording, _ = record(serve_http, suite)
    task = deployment.federation.task
    spy = LearningParticipant(task, deployment.federation._secrets["p1"], Workers())
    bodies = [message[message.index(b"\r\n\r\n") + 4 :] for message in recording]
    downloads, uploads = [], []
    for body in bodies:
        for kind, found in ((Download, downloads), (Upload, uploads)):
            try:
                found.append(decode(body, kind, cfg=task.cfg, max_bytes=1 << 20))
            except Exception:
                continue
    (theirs,) = [d for d in downloads if d.header.recipient == "p0"]
    with pytest.raises(TransformError, match="for 'p0'"):
        spy.open(theirs.encode())
    with pytest.raises(CryptoError):
        spy._cipher.decrypt(theirs.parts, 3)
    (upload,) = [u for u in uploads if u.header.sender == "p0"]
    with pytest.raises((CryptoError, TaskError, TransformError)):
        spy._cipher.decrypt(upload.parts, 1)


def test_training_goes_on_after_a_partition_of_the_servers(serve_http):
    deployment = serve_http("plain")
    with BadNetwork(deployment.kts_url) as between:
        deployment.dsp._kts._client.base_url = between.url
        names = deployment.federation.names
        sessions = [join_through(deployment, deployment.url, name) for name in names]
        sessions[0].push(same(1))
        between.cut = True
        sessions[1]._carrier.aggregator.exchange._policy = RetryPolicy(timeout=0)
        with pytest.raises(AggregatorError, match="503"):
            sessions[1].push(same(1))
        between.cut = False
        sessions[1].resend()
        sessions[2].push(same(1))
        (release,) = sessions[0].pull()
        assert release.count == 3
        for session in sessions:
            session.close()


@pytest.mark.slow
@pytest.mark.servers
def test_progress_is_made_within_10_s_after_a_partition_of_30_s(serve_http):
    deployment = serve_http("hybrid", combine="sum")
    names, ended, errors = deployment.federation.names, threading.Event(), []

    def train(session):
        try:
            while not ended.is_set():
                session.push(same(1))
                while session.pending and not ended.is_set():
                    session.pull()
        except Exception as error:
            errors.append(error)

    with BadNetwork(deployment.kts_url) as between:
        deployment.dsp._kts._client.base_url = between.url
        sessions = [
            join_through(deployment, deployment.url, name, RetryPolicy())
            for name in names
        ]
        threads = [threading.Thread(target=train, args=(each,)) for each in sessions]
        for thread in threads:
            thread.start()
        time.sleep(2)
        between.cut = True
        time.sleep(1)
        stood = max(session.version for session in sessions)
        time.sleep(29)
        assert max(session.version for session in sessions) <= stood + 1
        between.cut = False
        healed = time.monotonic()
        while max(session.version for session in sessions) <= stood + 1:
            assert time.monotonic() - healed < 10, errors
            time.sleep(0.05)
        ended.set()
        for thread in threads:
            thread.join()
        assert errors == []
        for session in sessions:
            session.pull()
            session.close()
    assert stood > 0
    assert len({session.released().tobytes() for session in sessions}) == 1


def test_a_dsp_that_is_not_there_is_said_in_words():
    policy = RetryPolicy(timeout=0.01, silence=1)
    from tests.servers.contract import federate

    with federate("plain") as federation:
        secret = federation._secrets["p0"]
        link = HTTPAggregator(
            "p0",
            url="http://127.0.0.1:9",
            task=federation.task,
            secret=secret,
            policy=policy,
        )
        with pytest.raises(AggregatorError, match="check the URL and the network"):
            link.status()
        link.close()
