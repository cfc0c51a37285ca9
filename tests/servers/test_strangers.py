"""Strangers wait for their turn, may not stay, and make room for participants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import httpx
import pytest

from hre_torch.servers import limits, readiness, request_reader, running
from hre_torch.servers.limits import PACE_SECONDS, RateLimiter, guarded
from tests.servers.certificates import self_signed
from tests.servers.contract import same


def knock(url: str) -> socket.socket:
    """Return a new connection to a server."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def ended(connection: socket.socket) -> bool:
    """Return whether the server has ended a connection, or does while we wait."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


OCCUPATIONS = {
    "ask nothing": b"",
    "had an answer": b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n",
    "never end": b"POST /v1/uploads HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n",
}


def await_answer(connection: socket.socket) -> None:
    """Read the answer of `/readyz` to its end."""
    answer = b""
    while not answer.endswith(b"ready\n"):
        answer += connection.recv(1000)


class Clock:
    """An event loop of which only the clock and the timers are real."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list = []

    def time(self) -> float:
        return self.now

    def call_at(self, when, callback, *arguments) -> None:
        self.timers.append((when, callback, arguments))

    def run(self) -> None:
        while self.timers:
            when, callback, arguments = self.timers.pop(0)
            self.now = max(self.now, when)
            callback(*arguments)


def test_steps_go_one_after_another_at_the_pace():
    clock, limiter, done = Clock(), RateLimiter(), []

    def step() -> None:
        clock.now += 0.5
        done.append(clock.now)

    for _ in range(3):
        limiter.queue(clock, step)
    clock.run()
    pace = 0.5 + PACE_SECONDS
    assert done == pytest.approx([100.5, 100.5 + pace, 100.5 + 2 * pace])


def test_after_a_step_comes_a_pause_and_then_nobody_waits():
    clock, limiter, done = Clock(), RateLimiter(), []
    limiter.queue(clock, lambda: done.append(clock.now))
    clock.run()
    limiter.queue(clock, lambda: done.append(clock.now))
    clock.run()
    clock.now += 1
    limiter.queue(clock, lambda: done.append(clock.now))
    clock.run()
    assert done == pytest.approx([100, 100 + PACE_SECONDS, 101 + PACE_SECONDS])


def test_a_step_that_fails_keeps_nobody_waiting():
    done = []

    async def main():
        loop, limiter = asyncio.get_running_loop(), RateLimiter()
        loop.set_exception_handler(lambda loop, context: done.append("failed"))
        limiter.queue(loop, lambda: 1 // 0)
        limiter.queue(loop, lambda: done.append("next"))
        await asyncio.sleep(0.01)
        limiter.queue(loop, lambda: done.append("later"))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert done == ["failed", "next", "later"]


def test_servers_have_turnstiles_of_their_own():
    one, two = guarded(), guarded()
    assert one.limiter is not two.limiter


def test_a_participant_waits_at_first_only_and_a_stranger_every_time(
    serve_http, monkeypatch
):
    waits = []
    queue = RateLimiter.queue

    def counted(self, loop, step):
        waits.append(step)
        queue(self, loop, step)

    # The DSP asks the KTS whether it is ready, and is a stranger there each time.
    monkeypatch.setattr(readiness, "_PAUSE_SECONDS", 60)
    monkeypatch.setattr(RateLimiter, "queue", counted)
    deployment = serve_http("plain")
    session = deployment.join("p0")
    session.push(same(1))
    session.pull()
    at_first = len(waits)
    assert at_first > 0
    for fill in (2, 3):
        session.push(same(fill))
        session.pull()
    assert len(waits) == at_first
    with knock(deployment.url) as stranger:
        for number in range(1, 4):
            stranger.sendall(OCCUPATIONS["had an answer"])
            await_answer(stranger)
            assert len(waits) == at_first + number


def test_a_connection_that_never_asks_is_closed(serve_http, monkeypatch):
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    with knock(serve_http("plain").url) as silent:
        silent.send(b"POST /v1/uploads HT")
        assert ended(silent)


def test_a_stranger_that_has_had_its_answer_may_not_stay(serve_http, monkeypatch):
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    with knock(serve_http("plain").url) as stranger:
        stranger.sendall(OCCUPATIONS["had an answer"])
        await_answer(stranger)
        assert ended(stranger)


@pytest.mark.parametrize("occupation", OCCUPATIONS.values(), ids=OCCUPATIONS.keys())
def test_strangers_make_room_oldest_first_and_participants_stay(
    serve_http, monkeypatch, occupation
):
    monkeypatch.setattr(limits, "MOST_CONNECTIONS", 5)
    made = []
    connection_made = limits.GuardedProtocol.connection_made
    monkeypatch.setattr(
        limits.GuardedProtocol,
        "connection_made",
        lambda self, transport: made.append(1) or connection_made(self, transport),
    )
    deployment = serve_http("plain")
    session = deployment.join("p0")
    session.push(same(1))
    with contextlib.ExitStack() as stack:
        strangers = []
        for _ in range(12):
            each = stack.enter_context(knock(deployment.url))
            strangers.append(each)
            each.sendall(occupation)
            if occupation.startswith(b"GET"):
                await_answer(each)
        assert all(ended(each) for each in strangers[:8])
        before = len(made)
        session.push(same(2))
        assert len(made) == before
        strangers[-1].settimeout(0.1)
        assert not ended(strangers[-1])


def test_a_body_that_is_too_slow_ends_with_408(serve_http, monkeypatch):
    monkeypatch.setattr(request_reader, "GRACE_SECONDS", 0.2)
    deployment = serve_http("plain")
    upload = deployment.seal("p0")

    def drip():
        yield upload[:200]
        time.sleep(0.8)
        yield upload[200:]

    response = httpx.post(
        f"{deployment.url}/v1/uploads",
        content=drip(),
        headers={"content-length": str(len(upload))},
    )
    assert response.status_code == 408


def test_a_stranger_over_tls_holds_64_kb_at_most_while_it_waits(
    tmp_path, serve_http, cleanup, monkeypatch
):
    waiting = []
    deployment = serve_http("plain")
    certificate, private_key = self_signed(tmp_path)
    url = cleanup.enter_context(
        running.hosted(
            deployment.kts.admin,
            deployment.federation.task.parameters,
            certificate=certificate,
            private_key=private_key,
        )
    )
    monkeypatch.setattr(
        RateLimiter, "queue", lambda self, loop, step: waiting.append(step)
    )
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        knock(url.replace("https:", "http:")) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as stranger,
    ):
        sending = threading.Thread(target=send_for_ever, args=[stranger])
        sending.start()
        deadline, tls = time.monotonic() + 20, None
        # It reads on till enough waits, and then no more, however much is sent.
        while tls is None or not tls._ssl_reading_paused:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            for step in waiting:
                if hasattr(step.func.__self__.transport, "_ssl_protocol"):
                    tls = step.func.__self__.transport._ssl_protocol
                    taken = len(step.args[0])
        assert taken + tls._incoming.pending <= 65_536 - running._MOST_HEAD_OCTETS
        stranger.shutdown(socket.SHUT_RDWR)
        sending.join()


def send_for_ever(stranger: ssl.SSLSocket) -> None:
    """Send a head that never ends until the connection does."""
    with contextlib.suppress(OSError):
        stranger.sendall(b"GET / HTTP/1.1\r\nx: ")
        while True:
            stranger.sendall(b"y" * 16_000)
