"""What counts as an answer over HTTP: signed by whom it should be, and not too long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from hre_torch.errors import ProtocolError
from hre_torch.protocol.answers import read_answer
from hre_torch.protocol.envelope import Envelope, Header
from hre_torch.protocol.framing import MAX_HEADER_BYTES

__all__ = ["Gathered", "LostError", "authentic"]

H = TypeVar("H", bound=Header)

_SLACK: Final = 4096
"""Octets of lengths, proof and signature besides header and body."""


class LostError(Exception):
    """What came back is no answer; whoever asked asks again.

    Attributes:
        hopeless: whether asking again is in vain.
        misconfigured: whether it is where nothing from there was ever an answer.
    """

    def __init__(
        self, reason: str, *, hopeless: bool = False, misconfigured: bool = False
    ) -> None:
        super().__init__(reason)
        self.hopeless = hopeless
        self.misconfigured = misconfigured


class Gathered:
    """The octets of an answer, as they arrive.

    Args:
        max_bytes: most octets of body that the task allows.
    """

    def __init__(self, max_bytes: int) -> None:
        self._most = MAX_HEADER_BYTES + max_bytes + _SLACK
        self._octets = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take some more.

        Raises:
            LostError: they are too many.
        """
        self._octets += chunk
        if len(self._octets) > self._most:
            raise LostError(f"an answer of more than {self._most} octets")

    def extend(self, chunks: Iterable[bytes]) -> Gathered:
        """Take everything.

        Raises:
            LostError: it is too much.
        """
        for chunk in chunks:
            self.add(chunk)
        return self

    def octets(self) -> bytes:
        """Return what has come."""
        return bytes(self._octets)


def authentic(
    answer: bytes,
    sent: bytes,
    kind: type[H],
    *,
    key: bytes,
    cfg: bytes,
    max_bytes: int,
) -> Envelope[Any]:
    """Return an answer, or a refusal, that the far end has signed for these octets.

    Args:
        answer: what came back.
        sent: what was sent.
        kind: header class of the answer that is hoped for.
        key: the far end's signing key.
        cfg: the task.
        max_bytes: most octets of body that the task allows.

    Raises:
        LostError: it is none.
    """
    try:
        return read_answer(answer, sent, kind, key=key, cfg=cfg, max_bytes=max_bytes)
    except ProtocolError as error:
        raise LostError(str(error)) from error
