"""Attacks a DSP with many connections; run as a program of its own.

    python hostile_clients.py URL CONNECTIONS RECORDED_UPLOAD BURST

`BURST` connections are opened at the same moment, 200 a second on the average. Prints,
as JSON, how often which HTTP status (or none) came back for which attack.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter

PER_SECOND = 200
GIVE_UP = 4.0


def post(route: str, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return (
        f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
        + body
    )


async def say(writer, data: bytes, pause: float = 0.0, piece: int = 0) -> None:
    if not pause:
        writer.write(data)
        await writer.drain()
        return
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
        await writer.drain()
        await asyncio.sleep(pause)


def attacks(upload: bytes):
    """Name the attacks: what is sent, pause between pieces, size of a piece."""
    forged = bytearray(upload)
    forged[len(upload) // 2] ^= 1
    signature = bytearray(upload)
    signature[40] ^= 1
    return {
        "slow head": (post("/v1/uploads", upload), 0.5, 10),
        "slow body": (post("/v1/uploads", upload), 0.5, 400),
        "truncated": (post("/v1/uploads", upload)[:-100], 0, 0),
        "oversize": (post("/v1/uploads", b"x", 1 << 40), 0, 0),
        "no length": (b"POST /v1/uploads HTTP/1.1\r\nhost: x\r\n\r\n", 0, 0),
        "garbage": (os.urandom(2000), 0, 0),
        "garbage body": (post("/v1/uploads", os.urandom(1000)), 0, 0),
        "changed body": (post("/v1/uploads", bytes(forged)), 0, 0),
        "changed head": (post("/v1/uploads", bytes(signature)), 0, 0),
        "replay": (post("/v1/uploads", upload), 0, 0),
        "wrong route": (post("/v1/fetch", upload), 0, 0),
        "flood": (b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n" * 20, 0, 0),
        "long head": (b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000, 0, 0),
    }


async def attack(host, port, name, plan, seen, start) -> None:
    data, pause, piece = plan
    await asyncio.sleep(start)
    status = "none"
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.timeout(GIVE_UP):
                await say(writer, data, pause, piece)
                line = await reader.readline()
                status = line.split()[1].decode() if line else "closed"
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError, IndexError):
        pass
    seen[f"{name}: {status}"] += 1


async def main(url: str, connections: int, recorded: str, burst: int) -> None:
    host, port = url.removeprefix("http://").split(":")
    with open(recorded, "rb") as file:
        plans = list(attacks(file.read()).items())
    seen: Counter[str] = Counter()

    def start(index: int) -> float:
        return index // burst * burst / PER_SECOND

    await asyncio.gather(
        *(
            attack(host, int(port), *plans[index % len(plans)], seen, start(index))
            for index in range(connections)
        )
    )
    print(json.dumps(dict(sorted(seen.items()))))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
