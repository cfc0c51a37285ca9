"""Which answers over a network count: those of the right server, to what was sent.

Everything in a message is covered by its sender's signature, and an answer names what
it answers. So a changed, cut or exchanged answer, or the answer to a request that was
changed on its way, is told apart from a refusal: the former means "send it again".
"""

from __future__ import annotations

import hashlib
from typing import TypeVar, cast

from hre_torch.errors import MessageError
from hre_torch.protocol.envelope import Envelope, Header, Refusal, decode, kind_of

__all__ = ["read_answer"]

H = TypeVar("H", bound=Header)


def read_answer(
    answer: bytes,
    sent: bytes,
    kind: type[H],
    *,
    key: bytes,
    cfg: bytes,
    max_bytes: int,
) -> Envelope[H] | Envelope[Refusal]:
    """Decode and verify what came back for a message.

    Args:
        answer: what came back.
        sent: what was sent.
        kind: the header class that is hoped for.
        key: the answering server's signing key.
        cfg: the task.
        max_bytes: most octets of body that the task allows.

    Returns:
        The answer, or the server's own refusal of exactly these octets.

    Raises:
        ProtocolError: neither; the message or its answer was changed on its way.
    """
    expected: type[Header] = Refusal if kind_of(answer) == "refusal" else kind
    envelope = decode(answer, expected, cfg=cfg, max_bytes=max_bytes)
    envelope.verify(key)
    header = envelope.header
    if isinstance(header, Refusal) and header.about != hashlib.sha256(sent).digest():
        raise MessageError("other octets arrived than were sent; send them again")
    return cast(Envelope[H] | Envelope[Refusal], envelope)
