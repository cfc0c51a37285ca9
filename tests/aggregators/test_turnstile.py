"""Strangers wait for their turn; who has shown a signature does not."""

from __future__ import annotations

import asyncio
import socket

from hre_torch.aggregators.services.guard import guarded
from hre_torch.aggregators.services.turnstile import Turnstile
from tests.aggregators.contract import same


def test_every_step_has_a_turn_of_the_loop_of_its_own():
    turns, done = [], []

    async def main():
        loop, turnstile = asyncio.get_running_loop(), Turnstile()
        for number in range(5):
            turnstile.queue(loop, lambda number=number: done.append(number))
        while len(done) < 5:
            turns.append(len(done))
            await asyncio.sleep(0)

    asyncio.run(main())
    assert turns == [0, 1, 2, 3, 4] or turns == [0, 0, 1, 2, 3, 4]
    assert done == [0, 1, 2, 3, 4]


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
