"""Transferable proof that somebody has told two stories.

An honest participant seals one upload per sequence number, an honest KTS signs one
release per version. Two signed headers that share the number and differ convict their
sender before anybody who has the roster: no third party, no trust in the accuser.

A participant that goes on from an old copy of its state convicts itself as well: to the
others it cannot be told from one that cheats.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from hre_torch.errors import EquivocationError, MessageError, WrongTaskError
from hre_torch.protocol.envelope import Envelope, Name, parse_header
from hre_torch.protocol.journal import Journal
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.requests import Witness
from hre_torch.protocol.roster import KeyCard
from hre_torch.protocol.task import Task

__all__ = ["Evidence", "EvidenceBox", "check_evidence", "decode_evidence"]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two signed headers of one sender that no honest sender signs both.

    Attributes:
        accused: who signed them.
        first: one of them, as it was received.
        second: the other.
    """

    accused: Name
    first: Witness
    second: Witness

    @classmethod
    def of(cls, first: Envelope[Any], second: Envelope[Any]) -> Evidence:
        """Return the evidence that two messages of one sender are."""
        headers = (
            Witness(each.header_bytes, each.proof, each.signature)
            for each in (first, second)
        )
        return cls(first.header.sender, *headers)

    def encode(self) -> bytes:
        """Return the bytes that `decode_evidence` reads."""
        return msgspec.msgpack.encode(self)


def decode_evidence(data: bytes) -> Evidence:
    """Return evidence from bytes; it proves nothing before it has been checked.

    Raises:
        MessageError: it is not an encoded `Evidence`.
    """
    try:
        return msgspec.msgpack.decode(data, type=Evidence)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(
            f"this is no evidence: {error}; ask the accuser for the file again"
        ) from None


def check_evidence(evidence: Evidence, task: Task) -> str:
    """Return what the evidence proves, in a sentence.

    Args:
        evidence: from whomever.
        task: the task, whose roster says which key is whose.

    Raises:
        TaskError: the roster does not know the accused.
        SignatureError: the accused did not sign both headers.
        MessageError: the headers are malformed, or an honest sender may sign both.
        WrongTaskError: they are of another task.
    """
    first, second = (
        _signed(each, evidence.accused, task)
        for each in (evidence.first, evidence.second)
    )
    if type(first.header) is not type(second.header) or _number(first) != _number(
        second
    ):
        raise MessageError(
            "the two headers are not two versions of one message: an honest "
            f"{evidence.accused!r} may sign both"
        )
    if first.digest == second.digest:
        raise MessageError("the two headers are the same: that proves nothing")
    return _charge(first)


class EvidenceBox:
    """Contradictions that a server has come across; one for each that is accused.

    Args:
        journal: told of each.
        encoded: from an earlier server of the same task.

    Raises:
        MessageError: what was stored is no evidence.
    """

    def __init__(self, journal: Journal, encoded: Iterable[bytes] = ()) -> None:
        self._journal = journal
        self._kept = {each.accused: each for each in map(decode_evidence, encoded)}

    def all(self) -> tuple[Evidence, ...]:
        """Return what is in the box, oldest first."""
        return tuple(self._kept.values())

    def encoded(self) -> tuple[bytes, ...]:
        """Return what is in the box as bytes."""
        return tuple(each.encode() for each in self.all())

    def compare(self, known: Envelope[Any] | None, heard: Envelope[Any]) -> None:
        """Compare a message with what its sender has said under the same number.

        Args:
            known: what it said before; None if this server has that no longer.
            heard: what it says now, its signature checked.

        Raises:
            EquivocationError: the two differ; both are kept.
        """
        if known is None or known.digest == heard.digest:
            return
        accused = heard.header.sender
        if accused not in self._kept:
            self._kept[accused] = Evidence.of(known, heard)
            self._journal.witnessed(self._kept[accused].encode())
        raise EquivocationError(
            f"{_charge(known)}; a retry must resend identical bytes. Both headers are "
            "kept as evidence"
        )


def _signed(each: Witness, accused: str, task: Task) -> Envelope[Upload | Release]:
    """Return one header, once it is known to be the accused's.

    Raises:
        MessageError, WrongTaskError, TaskError, SignatureError: as `check_evidence`.
    """
    header: Upload | Release = parse_header(each.header, Upload | Release)
    if header.cfg != task.cfg:
        raise WrongTaskError(
            f"the evidence is about task {header.cfg.hex()[:16]}, this is "
            f"{task.cfg.hex()[:16]}; check it against the task it belongs to"
        )
    card = _card(header, task)
    if not header.sender == card.name == accused:
        raise MessageError(
            f"{accused!r} is accused of a message that names {header.sender!r} as its "
            f"sender and only {card.name!r} may send; whoever wrote it is not proven"
        )
    envelope = Envelope(header, each.header, (), each.proof, each.signature)
    envelope.verify(card.signing_key)
    return envelope


def _card(header: Upload | Release, task: Task) -> KeyCard:
    if isinstance(header, Upload):
        return task.roster.participant(header.sender)
    return task.roster.key_transform


def _number(envelope: Envelope[Any]) -> int:
    header: Upload | Release = envelope.header
    return header.sequence if isinstance(header, Upload) else header.version


def _charge(envelope: Envelope[Any]) -> str:
    what = "uploads" if isinstance(envelope.header, Upload) else "releases"
    number = "sequence number" if what == "uploads" else "version"
    return (
        f"{envelope.header.sender!r} has signed two different {what} with {number} "
        f"{_number(envelope)}"
    )
