"""Reads messages from strangers: no octet is kept before its sender is known.

A message begins with its signed head: lengths, header, proof, signature. The head is
small and bounded, and says who sends how many octets of what; it is checked as soon as
it has arrived. Only then is the body kept, whose exact size the task fixes. Everything
else is read to its end (so that its sender hears why) and thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from hre_torch.crypto.keys.signatures import SIGNATURE_BYTES, SigningKey
from hre_torch.errors import HREError, MessageError, SignatureError
from hre_torch.protocol.wire import (
    LENGTHS_BYTES,
    Envelope,
    Header,
    decode_head,
    lengths_of,
)
from hre_torch.servers.limits import VERIFIED

__all__ = ["Expected", "RefusedError", "RequestReader"]

GRACE_SECONDS: Final = 10.0
"""Time that every message has, however short."""
LEAST_RATE: Final = 32_768
"""Octets per second below which a sender is too slow: a quarter of a megabit."""
BODIES_PER_SENDER: Final = 2
"""Bodies of one participant read at once; a third one ends the oldest."""


@dataclass(frozen=True)
class Expected:
    """What a route accepts.

    Attributes:
        kind: header class.
        max_header: most octets of header.
        max_proof: most octets of proof.
        max_body: most octets of parts.
        check: further checks of the head, before the body is kept.
        any_task: whether messages of other tasks are welcome, if a sender of this
            task has signed them.
    """

    kind: type[Header]
    max_header: int
    max_proof: int
    max_body: int
    check: Callable[[Any], None] | None = None
    any_task: bool = False

    @property
    def max_octets(self) -> int:
        """Most octets of a whole message."""
        head = LENGTHS_BYTES + self.max_header + self.max_proof + SIGNATURE_BYTES
        return head + self.max_body


class RefusedError(Exception):
    """An error of the protocol, and the SHA-256 of the octets that it is about."""

    def __init__(self, error: HREError, about: bytes) -> None:
        super().__init__(str(error))
        self.error = error
        self.about = about


class RequestReader:
    """Reads messages of one task.

    Args:
        cfg: the task.
        senders: names and signing keys of those who may send.
        bodies: of one sender read at once; one more ends the oldest.
    """

    def __init__(
        self,
        cfg: bytes,
        senders: Mapping[str, bytes],
        bodies: int = BODIES_PER_SENDER,
    ) -> None:
        self._cfg = cfg
        self._senders = senders
        self._nobody = SigningKey.generate().public
        self._bodies = bodies
        self._reading: dict[str, list[asyncio.Timeout]] = {}
        self._left = asyncio.Event()

    async def receive(self, request: Request, expected: Expected) -> bytes:
        """Return a message whose head is that of a known sender.

        Raises:
            RefusedError: what arrived is not acceptable, for a reason of the protocol.
            HTTPException: it is not for a reason of HTTP: length, speed, end.
        """
        length = _announced_length(request, expected.max_octets)
        reader = _Reader(self, expected, length)
        try:
            async with asyncio.timeout(GRACE_SECONDS + length / LEAST_RATE) as patience:
                reader.patience = patience
                async for chunk in request.stream():
                    reader.feed(chunk)
                    if reader.sender:
                        request.scope[VERIFIED] = True
        except TimeoutError:
            raise HTTPException(408, "too slow; send the message again") from None
        except ClientDisconnect:
            raise HTTPException(400, "the message ended early") from None
        finally:
            self._leave(reader)
        return reader.message()

    def screen(self, head: bytes, expected: Expected) -> Envelope[Any]:
        """Return the checked head of a message.

        Raises:
            HREError: it is malformed, of another task, or not of a known sender.
        """
        cfg = None if expected.any_task else self._cfg
        envelope = decode_head(head, expected.kind, cfg=cfg)
        self._verify(envelope)
        if sum(part.size for part in envelope.header.parts) > expected.max_body:
            raise MessageError(
                f"the header announces more than the {expected.max_body} octets of "
                "body that this task allows"
            )
        if expected.check is not None:
            expected.check(envelope)
        return envelope

    def _verify(self, envelope: Envelope[Any]) -> None:
        """Check a signature; strangers cannot tell a name in the roster from others.

        Raises:
            SignatureError: nobody who may send this has signed it.
        """
        sender = envelope.header.sender
        known = self._senders.get(sender)
        try:
            envelope.verify(self._nobody if known is None else known)
        except SignatureError:
            known = None
        if known is None:
            raise SignatureError(
                f"nobody who may send this has signed it as {sender!r}: check the "
                "name, the key file, the roster and the URL"
            )

    def enter(self, sender: str, patience: asyncio.Timeout | None) -> None:
        """Take note of a body that is being read; a sender's oldest may have to end."""
        if patience is None:
            return
        bodies = self._reading.setdefault(sender, [])
        bodies.append(patience)
        if len(bodies) > self._bodies:
            oldest = bodies.pop(0)
            if not oldest.expired():
                oldest.reschedule(0)

    async def quiet(self, sender: str, patience: float) -> None:
        """Wait until nothing of a sender is being read, or `patience` seconds pass."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while sender in self._reading:
                    await self._left.wait()

    def _leave(self, reader: _Reader) -> None:
        bodies = self._reading.get(reader.sender, [])
        if reader.patience in bodies:
            bodies.remove(reader.patience)
        if not bodies:
            self._reading.pop(reader.sender, None)
        self._left.set()
        self._left = asyncio.Event()


class _Reader:
    """The octets of one message so far; after a refusal only their hash."""

    def __init__(self, reader: RequestReader, expected: Expected, length: int) -> None:
        self._reader = reader
        self._expected = expected
        self._length = length
        self._octets = bytearray()
        self._screened = False
        self._refusal: HREError | None = None
        self._hash = hashlib.sha256()
        self.sender = ""
        self.patience: asyncio.Timeout | None = None

    def feed(self, chunk: bytes) -> None:
        """Take some more octets."""
        if self._refusal is not None:
            self._hash.update(chunk)
            return
        self._octets += chunk
        if not self._screened:
            try:
                self._screen()
            except HREError as error:
                self._refusal = error
                self._hash.update(self._octets)
                self._octets.clear()

    def message(self) -> bytes:
        """Return the whole message.

        Raises:
            RefusedError: it was refused, or ended before its head did.
        """
        if self._refusal is not None:
            raise RefusedError(self._refusal, self._hash.digest())
        octets = bytes(self._octets)
        if not self._screened:
            raise RefusedError(
                MessageError(f"{len(octets)} octets are no whole message"),
                hashlib.sha256(octets).digest(),
            )
        return octets

    def _screen(self) -> None:
        if len(self._octets) < LENGTHS_BYTES:
            return
        header, proof = lengths_of(bytes(self._octets[:LENGTHS_BYTES]))
        expected = self._expected
        if header > expected.max_header or proof > expected.max_proof:
            raise MessageError(
                f"header of {header} or proof of {proof} octets is over the limits of "
                f"{expected.max_header} and {expected.max_proof} of this message"
            )
        size = LENGTHS_BYTES + header + proof + SIGNATURE_BYTES
        if len(self._octets) < min(size, self._length):
            return
        head = self._reader.screen(bytes(self._octets[:size]), expected)
        announced = size + sum(part.size for part in head.header.parts)
        if announced != self._length:
            raise MessageError(
                f"the head announces {announced} octets and HTTP {self._length}"
            )
        self._screened = True
        self.sender = head.header.sender
        self._reader.enter(self.sender, self.patience)


def _announced_length(request: Request, most: int) -> int:
    if {"content-length", "transfer-encoding"} <= set(request.headers):
        # Proxies disagree about where such a message ends (RFC 9112, 6.1 and 11.2).
        raise HTTPException(
            400,
            "announce the length or send chunks, not both",
            headers={"connection": "close"},
        )
    try:
        length = int(request.headers["content-length"])
    except (KeyError, ValueError):
        raise HTTPException(411, "announce the length of the message") from None
    if length > most:
        raise HTTPException(413, f"a message here has at most {most} octets")
    return length
