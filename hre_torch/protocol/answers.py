"""Which answers over a network count: those of the right server, to what was sent.

Everything in a message is covered by its sender's signature, and an answer names what
it answers. So a changed, cut or exchanged answer, or the answer to a request that was
changed on its way, is told apart from a refusal: the former means "send it again".
"""

from __future__ import annotations

import hashlib
from typing import TypeVar, cast

from hre_torch.errors import (
    AggregatorError,
    MessageError,
    ProtocolError,
    SpentUpdateError,
)
from hre_torch.protocol.messages import (
    Ack,
    Release,
    Statement,
    StatementReply,
    Upload,
    Verdict,
)
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Header, Refusal, decode, kind_of

__all__ = ["read_answer", "read_decision", "read_verdict", "ruling_release"]

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


def read_decision(
    answer: bytes, upload: Envelope[Upload], sent: bytes, task: Task
) -> Envelope[Ack] | Envelope[Refusal]:
    """Return the DSP's last word about an upload: it is accepted, or never will be.

    Args:
        answer: what came back.
        upload: what was sent; its parts are not looked at.
        sent: the same, encoded.
        task: the task.

    Raises:
        AggregatorError: this is not the DSP's answer to these octets.
        HREError: the DSP refuses them for now, for the reason that it names; it has
            promised nothing, so only the identical octets may be sent again.
    """
    key = task.roster.data_service.signing_key
    try:
        envelope = read_answer(answer, sent, Ack, key=key, cfg=task.cfg, max_bytes=0)
        header: Header = envelope.header
        if isinstance(header, Refusal) and header.error == SpentUpdateError.__name__:
            ruling_release(header, upload.header, task)
    except ProtocolError as error:
        raise AggregatorError(
            f"what came back is not the DSP's answer to this upload ({error}); send "
            "the identical bytes again"
        ) from error
    if isinstance(header, Refusal) and not header.upload:
        raise header.exception()
    if envelope.header.upload != upload.digest:
        raise AggregatorError(
            "the DSP answered about another upload than the one that was sent; send "
            "the identical bytes again"
        )
    return envelope


def ruling_release(refusal: Refusal, upload: Upload, task: Task) -> Release:
    """Return the release for whose sake an upload is refused.

    Raises:
        ProtocolError: there is none that contains what the upload voids.
    """
    signed = decode(refusal.release, Release, cfg=task.cfg, max_bytes=0)
    signed.verify(task.roster.key_transform.signing_key)
    listed = {(item.name, item.sequence) for item in signed.header.uploads}
    if listed.isdisjoint((upload.sender, number) for number in upload.voids):
        raise MessageError(
            f"release {signed.header.version} contains nothing that the upload voids"
        )
    return signed.header


def read_verdict(
    answer: bytes, statement: Envelope[Statement], sent: bytes, task: Task
) -> Verdict:
    """Return where the statements about a release stand, as the KTS has signed it.

    Args:
        answer: what came back for a statement.
        statement: what was sent.
        sent: the same, encoded.
        task: the task.

    Raises:
        AggregatorError: this is not an answer to these octets.
        HREError: a server refuses them, for the reason that it names.
    """
    key = task.roster.data_service.signing_key
    try:
        envelope = read_answer(
            answer, sent, StatementReply, key=key, cfg=task.cfg, max_bytes=0
        )
        if isinstance(envelope.header, StatementReply):
            return _verdict_in(envelope.header, statement, task)
    except ProtocolError as error:
        raise AggregatorError(
            f"what came back is not an answer to this statement ({error}); state it "
            "again"
        ) from error
    raise envelope.header.exception()


def _verdict_in(
    reply: StatementReply, statement: Envelope[Statement], task: Task
) -> Verdict:
    """Return a checked verdict on the release that a statement is about.

    Raises:
        MessageError, SignatureError, WrongTaskError: there is none in the reply.
    """
    if reply.statement != statement.digest:
        raise MessageError("it answers another statement")
    verdict = decode(reply.verdict, Verdict, cfg=task.cfg, max_bytes=0)
    verdict.verify(task.roster.key_transform.signing_key)
    about = statement.header
    if (verdict.header.version, verdict.header.chain) != (about.version, about.chain):
        raise MessageError("its verdict is on another release")
    return verdict.header
