"""Strangers wait for their turn; who has shown a signature does not."""

from __future__ import annotations

import asyncio
import socket

import pytest

from hre_torch.aggregators.services.guard import guarded
from hre_torch.aggregators.services.turnstile import PACE_SECONDS, Turnstile
from tests.aggregators.contract import same


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
    clock, turnstile, done = Clock(), Turnstile(), []

    def step() -> None:
        clock.now += 0.5
        done.append(clock.now)

    for _ in range(3):
        turnstile.queue(clock, step)
    clock.run()
    pace = 0.5 + PACE_SECONDS
    assert done == pytest.approx([100.5, 100.5 + pace, 100.5 + 2 * pace])


def test_after_a_step_comes_a_pause_and_then_nobody_waits():
    clock, turnstile, done = Clock(), Turnstile(), []
    turnstile.queue(clock, lambda: done.append(clock.now))
    clock.run()
    turnstile.queue(clock, lambda: done.append(clock.now))
    clock.run()
    clock.now += 1
    turnstile.queue(clock, lambda: done.append(clock.now))
    clock.run()
    assert done == pytest.approx([100, 100 + PACE_SECONDS, 101 + PACE_SECONDS])


def test_a_step_that_fails_keeps_nobody_waiting():
    done = []

    async def main():
        loop, turnstile = asyncio.get_running_loop(), Turnstile()
        loop.set_exception_handler(lambda loop, context: done.append("failed"))
        turnstile.queue(loop, lambda: 1 // 0)
        turnstile.queue(loop, lambda: done.append("next"))
        await asyncio.sleep(0.01)
        turnstile.queue(loop, lambda: done.append("later"))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert done == ["failed", "next", "later"]


def test_servers_have_turnstiles_of_their_own():
    one, two = guarded(), guarded()
    assert one.turnstile is not two.turnstile


def test_a_participant_waits_at_first_only_and_a_stranger_every_time(
    serve_http, monkeypatch
):
    waits = []
    queue = Turnstile.queue

    def counted(self, loop, step):
        waits.append(step)
        queue(self, loop, step)

    monkeypatch.setattr(Turnstile, "queue", counted)
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
    host, port = deployment.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stranger:
        for number in range(1, 4):
            stranger.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"alive\n"):
                answer += stranger.recv(1000)
            assert len(waits) == at_first + number
