"""The services: what they show, refuse, keep over a restart, and leave out of logs."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import get_type_hints

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from benchmarks.attacks.forgery import Draft
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import (
    AggregatorError,
    ConfigurationError,
    LostWorkerWarning,
    MessageError,
    SignatureError,
    SpoiledReleaseWarning,
    StaleUploadError,
    UnsupportedError,
)
from hre_torch.http_client import RetryPolicy
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.session import Session
from hre_torch.protocol.heads import Records
from hre_torch.protocol.messages import (
    Deposit,
    Fetch,
    ReleaseOrder,
    Snapshot,
    SnapshotQuery,
    SnapshotRequest,
    Statement,
    StatusRequest,
    TaskRequest,
    TransformRequest,
    Upload,
    Voucher,
    WantedRequest,
)
from hre_torch.protocol.wire import Header, Refusal, decode, seal
from hre_torch.servers import kts_client, readiness, running
from hre_torch.servers.logs import log_event, write_logs_to
from hre_torch.servers.serving import data_service, key_transform
from hre_torch.servers.store import disk
from tests.servers.certificates import self_signed
from tests.servers.contract import federate, same


def shown(service, path: str) -> httpx.Response:
    """Return what a service shows to whoever runs it."""

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=service.admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as it:
            return await it.get(path)

    return asyncio.run(get())


def await_status(url: str, status: int) -> None:
    """Wait until `/readyz` answers with a status."""
    deadline = time.monotonic() + 10
    while httpx.get(f"{url}/readyz").status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def await_reason(service, kind: str) -> str:
    """Wait until a server knows something wrong of one kind, and return it."""
    deadline = time.monotonic() + 10
    while kind not in (reasons := shown(service, "/readyz").json()["reasons"]):
        assert time.monotonic() < deadline, reasons
        time.sleep(0.05)
    return reasons[kind]


def metric(service, name: str) -> float:
    """Return one number of `/metrics`."""
    for line in shown(service, "/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


def refusal_of(response: httpx.Response) -> Refusal:
    return decode(response.content, Refusal, max_bytes=0).header


class Unread:
    """A message that no KTS is there to read."""

    @staticmethod
    def encode() -> bytes:
        return b"nothing"


def test_health_and_readiness_are_shown(serve_http):
    deployment = serve_http("plain")
    for url, service in (
        (deployment.url, deployment.dsp),
        (deployment.kts_url, deployment.kts),
    ):
        assert shown(service, "/healthz").text == "alive\n"
        await_status(url, 200)
        assert httpx.get(f"{url}/readyz").text == "ready\n"
        assert shown(service, "/readyz").json() == {"ready": True, "reasons": {}}


def test_strangers_see_neither_health_nor_metrics_nor_names(serve_http):
    deployment = serve_http("plain")
    deployment.join("p0").push(same(1))
    for url in (deployment.url, deployment.kts_url):
        for path in ("/healthz", "/metrics"):
            assert httpx.get(url + path).status_code == 404
        assert set(httpx.get(f"{url}/readyz").text.split()) <= {"not", "ready"}


def test_a_server_whose_event_loop_is_stuck_is_not_alive(serve_http, monkeypatch):
    monkeypatch.setattr(readiness, "_STUCK_SECONDS", 0.1)
    service = serve_http("plain").kts
    ended = threading.Event()
    service._loop.call_soon_threadsafe(ended.wait, 10)
    try:
        assert shown(service, "/healthz").status_code == 503
    finally:
        ended.set()
    assert shown(service, "/healthz").status_code == 200


def test_a_kts_that_hangs_makes_the_dsp_unready_and_the_reason_is_not_public(
    serve_http, monkeypatch
):
    monkeypatch.setattr(readiness, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "_PATIENCE_SECONDS", 0.2)
    deployment = serve_http("plain")
    await_status(deployment.url, 200)
    ended = threading.Event()
    deployment.kts._loop.call_soon_threadsafe(ended.wait, 20)
    try:
        await_status(deployment.url, 503)
        assert await_reason(deployment.dsp, "kts") == "no answer for 0 s"
        assert httpx.get(f"{deployment.url}/readyz").text == "not ready\n"
    finally:
        ended.set()
    await_status(deployment.url, 200)


@pytest.mark.parametrize("role", ["dsp", "kts"])
def test_a_full_disk_makes_a_server_unready_and_no_answer_names_a_folder(
    tmp_path, cleanup, toy_may_be_served, monkeypatch, role
):
    monkeypatch.setattr(readiness, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(kts_client, "_PATIENCE", RetryPolicy(timeout=0))
    federation = cleanup.enter_context(federate("plain"))
    task, secrets = federation.task, federation._secrets
    kts = key_transform(task, secrets["kts"], folder=tmp_path / "kts")
    kts_url = cleanup.enter_context(running.hosted(kts.app, task.parameters))
    dsp = data_service(task, secrets["dsp"], kts_url=kts_url, folder=tmp_path / "dsp")
    url = cleanup.enter_context(running.hosted(dsp.app, task.parameters))
    await_status(url, 200)
    full, service = OSError(errno.ENOSPC, "no space"), {"dsp": dsp, "kts": kts}[role]

    def write_nothing(descriptor, data):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_all", write_nothing)
        patch.setattr(service._store, "_write", partial(service._store.probe, 0))
        await_status({"dsp": url, "kts": kts_url}[role], 503)
        # The DSP may be unready because of the KTS first.
        assert "disk is full" in await_reason(service, "disk")
        await_status(url, 503)
        link = HTTPAggregator(
            "p0",
            url=url,
            task=task,
            secret=secrets["p0"],
            policy=RetryPolicy(timeout=0),
        )
        cleanup.callback(link.close)
        session = Session(task, secrets["p0"], link, federation._initial)
        with pytest.raises(AggregatorError, match="503") as caught:
            session.push(same(1))
        assert str(tmp_path) not in str(caught.value)
        assert "probe" not in os.listdir(tmp_path / role)
    await_status(url, 200)
    session.resend()


def test_a_disk_with_less_room_than_a_message_takes_is_full(tmp_path):
    with pytest.raises(OSError, match="are free"):
        disk.probe_room(tmp_path, 1 << 60)
    disk.probe_room(tmp_path, 1)
    assert os.listdir(tmp_path) == []


def test_metrics_count_uploads_rejects_pending_octets_and_phases(serve_http):
    deployment = serve_http("gated")
    deployment.join("p0").push(same(1))
    httpx.post(f"{deployment.url}/v1/uploads", content=b"x" * 100)
    dsp = deployment.dsp
    assert metric(dsp, "hre_uploads_total") == 1
    assert metric(dsp, 'hre_rejects_total{reason="MessageError"}') == 1
    assert metric(dsp, 'hre_pending_uploads{participant="p0"}') == 1
    assert metric(dsp, 'hre_bytes_total{direction="in",link="participants"}') > 1000
    assert metric(dsp, 'hre_phase_seconds_count{phase="check"}') == 1
    assert metric(deployment.kts, "hre_uploads_total") == 1


def test_both_servers_count_a_spoiled_release_and_warn_of_who_was_in_its_list(
    serve_http, caplog
):
    deployment = serve_http("gated")
    sessions = deployment.join_all()
    for session in sessions[:2]:
        session.push(same(1))
    forged = Draft.of_zeros(deployment.federation.task, count=2)
    secret = deployment.federation._secrets["p2"]
    deployment.connect("p2").submit(forged.seal(secret).encode())
    with caplog.at_level("WARNING", logger="hre_torch.services"):
        for session in (*sessions, *sessions[:2]):
            with pytest.warns(SpoiledReleaseWarning):
                session.pull()
    for service in (deployment.dsp, deployment.kts):
        assert metric(service, "hre_rejected_releases_total") == 1
    told = [each for each in caplog.records if each.message == "release rejected"]
    assert len(told) == 2
    for record in told:
        assert record.hre_fields["in_all_of_them"] == ["p0", "p1", "p2"]
        assert record.hre_fields["version"] == 1


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (iter([b"x" * 200]), {}, 411),
        (
            iter([b"x" * 200]),
            {"content-length": "200", "transfer-encoding": "chunked"},
            400,
        ),
        (b"x" * 200, {}, 422),
        (b"HRE1" + b"\xff" * 200, {}, 422),
        (b"", {}, 422),
    ],
)
def test_what_is_no_upload_is_refused_before_it_is_kept(
    serve_http, content, headers, status
):
    url = serve_http("plain").url
    response = httpx.post(f"{url}/v1/uploads", content=content, headers=headers)
    assert response.status_code == status
    if status == 422:
        assert refusal_of(response).error == "MessageError"


def test_a_length_beyond_the_tasks_is_refused_before_anything_arrives(serve_http):
    host, port = serve_http("plain").url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.send(
            b"POST /v1/uploads HTTP/1.1\r\nhost: x\r\n"
            b"content-length: 1000000000000\r\n\r\n"
        )
        assert client.recv(12) == b"HTTP/1.1 413"


def test_a_message_of_a_stranger_is_refused_before_its_body_is_kept(serve_http):
    deployment = serve_http("plain")
    upload = serve_http("plain", participants=["eve", "b", "c"]).seal("eve")
    response = httpx.post(f"{deployment.url}/v1/uploads", content=upload)
    assert refusal_of(response).error == "WrongTaskError"


ROUTES = {
    "dsp": {
        "/v1/uploads": Upload,
        "/v1/statements": Statement,
        "/v1/fetch": Fetch,
        "/v1/status": StatusRequest,
        "/v1/task": TaskRequest,
        "/v1/snapshots": Snapshot,
        "/v1/snapshots/ask": SnapshotRequest,
        "/v1/snapshots/collect": SnapshotQuery,
        "/v1/snapshots/vouch": Voucher,
        "/v1/snapshots/wanted": WantedRequest,
    },
    "kts": {
        "/v1/deposits": Deposit,
        "/v1/orders": ReleaseOrder,
        "/v1/transforms": TransformRequest,
        "/v1/statements": Statement,
        "/v1/heads": SnapshotQuery,
        "/v1/records": Records,
    },
}


@pytest.mark.parametrize("server", sorted(ROUTES))
def test_strangers_cannot_tell_names_in_the_roster_from_others(serve_http, server):
    deployment = serve_http("plain")
    url = deployment.url if server == "dsp" else deployment.kts_url
    service = {"dsp": deployment.dsp, "kts": deployment.kts}[server]
    paths = {route.path for route in service.app.routes} - {"/readyz"}
    assert paths == set(ROUTES[server])
    key = SigningKey.generate()
    for path, kind in ROUTES[server].items():
        answers = set()
        # Those that resemble names of the roster are what errors like to suggest.
        for name in ("p0", "p9", "nobody", "dsp", "kts"):
            message = seal(blank(kind, deployment.federation.task.cfg, name), key)
            answer = httpx.post(url + path, content=message.encode())
            refusal = refusal_of(answer)
            assert refusal.error == "SignatureError"
            answers.add((answer.status_code, refusal.message.replace(repr(name), "?")))
        assert len(answers) == 1, (path, answers)


def blank(kind: type[Header], cfg: bytes, sender: str) -> Header:
    """Return a well-formed header of a kind that says nothing."""
    blanks = {int: 0, bytes: bytes(32), str: "p1"}
    types = get_type_hints(kind)
    fields = {
        field.name: blanks.get(types[field.name], ())
        for field in msgspec.structs.fields(kind)
        if field.required
    }
    return kind(**(fields | {"cfg": cfg, "sender": sender}))


def test_a_recorded_fetch_is_worth_nothing(serve_http):
    deployment = serve_http("plain")
    for name in ("p0", "p1", "p2"):
        deployment.join(name).push(same(1))
    link, sent = deployment.connect("p0"), []
    post = link.exchange._post
    link.exchange._post = lambda route, octets, most: (
        sent.append(octets),
        post(route, octets, most),
    )[1]
    assert len(list(link.fetch(0))) == 1
    again = httpx.post(f"{deployment.url}/v1/fetch", content=sent[0])
    assert again.status_code == 425


@pytest.mark.parametrize(("days", "refused"), [(0.9, False), (1.1, True), (9e4, True)])
def test_a_clock_that_is_days_ahead_is_told_and_locks_nobody_out(
    serve_http, monkeypatch, days, refused
):
    link = serve_http("plain").connect("p0")
    now = int(days * 24 * 3600 * 1e9) + time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(link, "_next_moment", lambda: now)
        if refused:
            with pytest.raises(MessageError, match="days ahead of the DSP's; set it"):
                link.status()
        else:
            link.status()
    if refused:
        link.status()


def test_two_copies_of_an_upload_that_the_kts_refuses_hear_the_same_reason(serve_http):
    deployment = serve_http("plain")
    upload, asked = deployment.seal("p0"), asyncio.Event()
    ask = deployment.dsp._kts.ask

    async def refuse(route, deposit, kind):
        if route == "/v1/records":
            return await ask(route, deposit, kind)
        # The first copy waits until the second has come as far.
        if waiting.append(route) or len(waiting) < 2:
            await asked.wait()
        asked.set()
        raise StaleUploadError("too old")

    waiting = []
    deployment.dsp._kts.ask = refuse
    with ThreadPoolExecutor(2) as sending:
        answers = list(
            sending.map(
                lambda _: httpx.post(f"{deployment.url}/v1/uploads", content=upload),
                range(2),
            )
        )
    assert [refusal_of(answer).error for answer in answers] == ["StaleUploadError"] * 2
    assert not list(deployment.dsp._role._ledger.unreleased())


def test_nobody_can_make_the_dsp_forget_what_another_has_not_fetched(serve_http):
    deployment = serve_http("plain")
    for name in ("p0", "p1", "p2"):
        deployment.join(name).push(same(1))
    thief = deployment.connect("p1")
    thief._name = "p0"
    with pytest.raises(SignatureError):
        thief.status()
    assert len(deployment.join("p0").pull()) == 1


def test_who_asks_where_it_stands_hears_of_what_it_is_still_sending(serve_http):
    """So a participant that was killed and is back trains no batch twice."""
    deployment = serve_http("plain")
    upload = deployment.seal("p0")
    link = deployment.connect("p0")
    host, port = deployment.url.removeprefix("http://").split(":")
    head = f"POST /v1/uploads HTTP/1.1\r\nhost: x\r\ncontent-length: {len(upload)}"
    with (
        socket.create_connection((host, int(port))) as killed,
        ThreadPoolExecutor(1) as asking,
    ):
        killed.sendall(head.encode() + b"\r\n\r\n" + upload[:-10])
        while "p0" not in deployment.dsp._reader._reading:
            time.sleep(0.01)
        standing = asking.submit(link.status)
        time.sleep(0.2)
        assert not standing.done()
        killed.sendall(upload[-10:])
        assert standing.result().next_sequence == 1


@pytest.mark.parametrize("profile", ["toy-insecure", "demo3072"])
def test_insecure_profiles_are_not_served_and_demo_ones_on_loopback_only(profile):
    parameters = load_profile(profile)
    with pytest.raises(UnsupportedError):
        running.check_exposure(parameters, "192.0.2.1")
    if profile == "demo3072":
        for host in ("127.0.0.1", "::1", "localhost"):
            running.check_exposure(parameters, host)
    else:
        with pytest.raises(UnsupportedError, match="INSECURE"):
            running.check_exposure(parameters, "127.0.0.1")
    running.check_exposure(load_profile("rsa2048"), "192.0.2.1")


def test_a_port_that_is_taken_is_said(serve_http):
    url = serve_http("plain").url
    parameters = load_profile("rsa2048")
    with (
        pytest.raises(AggregatorError, match="cannot listen"),
        running.hosted(None, parameters, port=int(url.split(":")[-1])),
    ):
        pass


def test_everything_runs_over_tls_and_only_with_the_right_certificate(
    tmp_path, cleanup, toy_may_be_served
):
    certificate, private_key = self_signed(tmp_path)
    tls = {"certificate": certificate, "private_key": private_key}
    federation = cleanup.enter_context(federate("plain"))
    task, secrets = federation.task, federation._secrets
    kts = key_transform(task, secrets["kts"])
    url = cleanup.enter_context(running.hosted(kts.app, task.parameters, **tls))
    dsp = data_service(task, secrets["dsp"], kts_url=url, kts_ca=certificate)
    url = cleanup.enter_context(running.hosted(dsp.app, task.parameters, **tls))
    assert url.startswith("https://")

    def link(ca_file):
        made = HTTPAggregator(
            "p0",
            url=url,
            task=task,
            secret=secrets["p0"],
            ca_file=ca_file,
            policy=RetryPolicy(timeout=0),
        )
        cleanup.callback(made.close)
        return made

    session = Session(task, secrets["p0"], link(certificate), federation._initial)
    session.push(same(1))
    assert session.pending == 1
    with pytest.raises(AggregatorError, match="--ca FILE"):
        link(None).status()


def test_a_private_key_with_a_passphrase_or_of_another_is_refused(tmp_path):
    certificate, private_key = self_signed(tmp_path)
    running.check_certificate(certificate, private_key)
    key = serialization.load_pem_private_key(private_key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigurationError, match=r"locked\.pem is encrypted"):
        running.check_certificate(certificate, locked)
    (tmp_path / "other").mkdir()
    _, other = self_signed(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="belong together"):
        running.check_certificate(certificate, other)


@pytest.fixture
def log(monkeypatch) -> io.StringIO:
    """What `write_logs_to` writes; afterwards logging is as it was."""
    monkeypatch.setattr(logging.root, "handlers", [])
    for owner, name in (
        (warnings, "showwarning"),
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    levels = {
        name: logging.getLogger(name).level
        for name in (None, "hre_torch.services", "uvicorn")
    }
    stream = io.StringIO()
    write_logs_to(stream)
    yield stream
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.filterwarnings("default")
def test_logs_are_lines_of_json_with_the_class_of_an_exception_only(log):
    log_event("release", version=3)
    try:
        raise ValueError("a secret")
    except ValueError as error:
        caught = error
        logging.getLogger("hre_torch.services").exception("broke")
        logging.getLogger("uvicorn.error").error(traceback.format_exc())
    warnings.warn("a worker process was killed", LostWorkerWarning, stacklevel=1)
    logging.getLogger("asyncio").error("never retrieved\nfuture: %r", caught)
    failing = threading.Thread(target=lambda: int("a secret"))
    failing.start()
    failing.join()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    first, second, third, fourth, fifth, sixth = lines
    assert (first["event"], first["version"], first["level"]) == ("release", 3, "info")
    assert second["exception"] == "ValueError"
    assert third["event"] == "ValueError"
    assert (fourth["event"], fourth["level"]) == ("warning", "warning")
    assert fourth["reason"] == "LostWorkerWarning"
    assert fourth["message"] == "a worker process was killed"
    assert fifth["event"] == "never retrieved"
    assert (sixth["event"], sixth["exception"]) == ("uncaught", "ValueError")
    assert "a secret" not in log.getvalue()


def test_an_upload_that_met_a_dead_kts_is_forwarded_when_both_are_back(
    tmp_path, cleanup, toy_may_be_served
):
    federation = cleanup.enter_context(federate("gated"))
    task, secrets = federation.task, federation._secrets
    hasty = RetryPolicy(timeout=0, silence=20)
    port = None

    def dsp(kts_url):
        return data_service(
            task, secrets["dsp"], kts_url=kts_url, folder=tmp_path / "dsp"
        )

    kts = key_transform(task, secrets["kts"])
    with running.hosted(kts.app, task.parameters) as kts_url:
        port = int(kts_url.split(":")[-1])
    service = dsp(kts_url)
    with running.hosted(service.app, task.parameters) as url:
        link = HTTPAggregator(
            "p0", url=url, task=task, secret=secrets["p0"], policy=hasty
        )
        session = Session(task, secrets["p0"], link, federation._initial)
        with pytest.raises(AggregatorError, match="does not answer"):
            session.push(same(1))
        assert httpx.get(f"{url}/readyz").status_code == 503
        link.close()
    kts = key_transform(task, secrets["kts"])
    service = dsp(kts_url)
    with (
        running.hosted(kts.app, task.parameters, port=port),
        running.hosted(service.app, task.parameters) as url,
    ):
        deadline = time.monotonic() + 10
        while httpx.get(f"{url}/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [e.status for e in kts._role._ledger.unreleased()] == ["accepted"]
        session._carrier.aggregator = HTTPAggregator(
            "p0", url=url, task=task, secret=secrets["p0"], policy=hasty
        )
        session.resend()
        assert session.pending == 1
        assert len(service._role._ledger.unreleased()) == 1
        session.close()


def test_a_dsp_is_ready_only_while_the_kts_answers(
    cleanup, toy_may_be_served, monkeypatch
):
    monkeypatch.setattr(kts_client, "_PATIENCE", RetryPolicy(longest_pause=0.05))
    monkeypatch.setattr(readiness, "_PAUSE_SECONDS", 0.05)
    federation = cleanup.enter_context(federate("plain"))
    task, secrets = federation.task, federation._secrets

    def serve_kts(port=0):
        kts = key_transform(task, secrets["kts"])
        return running.hosted(kts.app, task.parameters, port=port)

    with serve_kts() as kts_url:
        port = int(kts_url.split(":")[-1])
    # Nothing is pending, so that there is nothing to ask of a KTS that is not there.
    dsp = data_service(task, secrets["dsp"], kts_url=kts_url)
    url = cleanup.enter_context(running.hosted(dsp.app, task.parameters))
    time.sleep(0.5)  # Many attempts, none of which may make it ready.
    await_status(url, 503)
    with serve_kts(port):
        await_status(url, 200)
        link = HTTPAggregator(
            "p0",
            url=url,
            task=task,
            secret=secrets["p0"],
            policy=RetryPolicy(timeout=0, silence=20),
        )
        cleanup.callback(link.close)
    dsp._role.next_range = lambda *arguments, **options: (0, 1)
    dsp._role.begin = lambda *arguments: Unread
    with pytest.raises(AggregatorError):
        list(link.fetch(0))
    assert httpx.get(f"{url}/readyz").status_code == 503
    with serve_kts(port):
        await_status(url, 200)


def test_what_comes_while_a_release_is_signed_is_released_without_another_upload(
    serve_http,
):
    deployment = serve_http("plain")
    kts_client = deployment.dsp._kts
    ask = kts_client.ask

    async def slowly(route, message, kind):
        if route == "/v1/orders":
            await asyncio.sleep(0.3)
        return await ask(route, message, kind)

    kts_client.ask = slowly
    sessions = deployment.join_all()
    for _ in range(2):
        for session in sessions:
            session.push(same(1))
    deadline, count = time.monotonic() + 20, 0
    while count < 6:
        assert time.monotonic() < deadline
        count += sum(release.count for release in sessions[0].pull())
    assert sessions[0].version == 2


@pytest.mark.gate
@pytest.mark.servers
def test_servers_are_processes_without_torch_that_end_gracefully_and_go_on(make_site):
    site = make_site("hybrid")
    site.start("kts", "dsp")
    site.wait_ready()
    initial = site.folder / "initial.npy"
    sessions = [site.connect(name, initial=initial) for name in ("p0", "p1", "p2")]
    sessions[0].push(same(1))
    sessions[1].push(same(1))
    assert site.stop("dsp") == 0
    assert site.stop("kts") == 0
    assert site.log("dsp")[-1]["event"] == "ended"
    site.start("kts", "dsp")
    site.wait_ready()
    sessions[2].push(same(1))
    for session in sessions:
        (release,) = session.pull()
        assert (release.values == 3).all()
        session.close()
    secrets = [(site.folder / f"{r}.key").read_text() for r in ("dsp", "kts")]
    logs = "".join((site.folder / f"{r}.log").read_text() for r in ("dsp", "kts"))
    for fields in map(json.loads, secrets):
        assert fields["ciphertext"] not in logs
    assert "Traceback" not in logs


def test_the_services_import_no_torch():
    code = (
        "import sys; import hre_torch.servers.serving;"
        "import hre_torch.participant.connection;"
        "print({'torch', 'lightning', 'torchvision'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


class ModulesSought:
    """A finder that finds nothing, and keeps what Python looks for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        self.names.append(name)


def test_once_under_way_the_servers_look_for_no_module(serve_http, monkeypatch):
    """httpcore sought `sniffio` several times a message: time, and holes in memory."""
    sessions = serve_http("hybrid").join_all()
    sought = ModulesSought()
    monkeypatch.setattr(sys, "meta_path", [sought, *sys.meta_path])
    for fill in (1, 2):
        sought.names.clear()
        for session in sessions:
            session.push(same(fill))
        for session in sessions:
            session.pull()
    assert sessions[0].version == 2
    assert sought.names == []


def test_a_roster_may_be_longer_than_any_message(serve_http):
    deployment = serve_http("plain")
    link = deployment.connect("p0")
    roster = b"x" * (4 << 20)
    assert len(roster) > 2 * deployment.dsp._max_bytes
    deployment.dsp._published = roster
    assert link.served_roster() == roster


def test_only_a_member_reads_the_task_and_who_asks_for_snapshots(serve_http):
    """A member of the roster, that is, whatever task its own roster is of."""
    deployment, other = serve_http("plain"), serve_http("plain")
    deployment.dsp._published = b"names"
    for path in ("/v1/task", "/v1/snapshots/wanted"):
        assert httpx.get(deployment.url + path).status_code == 405
    link = deployment.connect("p0")
    link._task = other.federation.task
    assert link.served_roster() == b"names"
    stranger = deployment.connect("p0")
    stranger.secret = other.federation._secrets["p0"]
    with pytest.raises(SignatureError):
        stranger.served_roster()
    with pytest.raises(SignatureError):
        stranger.wanted_snapshots()
