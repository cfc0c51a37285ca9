"""A network that loses, doubles, delays, repeats and changes what it carries."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass, field


@dataclass
class BadNetwork:
    """A proxy in front of a server, in a thread of its own; a context manager.

    Args:
        target: URL of the server.
        drop: share of messages that never arrive; as many answers get lost.
        double: share of messages that arrive twice, the second time a little later.
        change: share of messages, and of answers, of which one byte is changed.
        delay: longest pause of a message, in seconds.
        late: share of messages that are delayed.
        seed: of the dice.
    """

    target: str
    drop: float = 0.0
    double: float = 0.0
    change: float = 0.0
    delay: float = 0.0
    late: float = 1.0
    seed: int = 0
    cut: bool = False
    recording: list[bytes] = field(default_factory=list)

    def __enter__(self) -> BadNetwork:
        self._tasks: set[asyncio.Future] = set()
        self._dice = random.Random(self.seed)
        self._host, port = self.target.removeprefix("http://").split(":")
        self._port = int(port)
        self._loop = asyncio.new_event_loop()
        started = threading.Event()

        async def live() -> None:
            self._stop = asyncio.Event()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            started.set()
            await self._stop.wait()
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(live()), daemon=True
        )
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader, writer) -> None:
        with contextlib.suppress(
            OSError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while not self.cut:
                request = await self._message(reader)
                self.recording.append(request)
                answer = await self._carry(request)
                if answer is None:
                    break
                self.recording.append(answer)
                writer.write(answer)
                await writer.drain()
        writer.transport.abort()

    async def _carry(self, request: bytes) -> bytes | None:
        if self._happens(self.late):
            await asyncio.sleep(self._dice.uniform(0, self.delay))
        if self.cut or self._happens(self.drop):
            return None
        if self._happens(self.double):
            asyncio.get_running_loop().call_later(
                self._dice.uniform(0, self.delay + 0.01),
                lambda: self._tasks.add(asyncio.ensure_future(self._quietly(request))),
            )
        answer = await self._forward(self._perhaps_changed(request))
        return None if self._happens(self.drop) else self._perhaps_changed(answer)

    async def _quietly(self, request: bytes) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._forward(request)

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            return await self._message(reader)
        finally:
            writer.transport.abort()

    async def _message(self, reader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head + await reader.readexactly(length)

    def _happens(self, share: float) -> bool:
        return self._dice.random() < share

    def _perhaps_changed(self, message: bytes) -> bytes:
        body = message.index(b"\r\n\r\n") + 4
        if body == len(message) or not self._happens(self.change):
            return message
        changed = bytearray(message)
        changed[self._dice.randrange(body, len(message))] ^= 1 << self._dice.randrange(
            8
        )
        return bytes(changed)
