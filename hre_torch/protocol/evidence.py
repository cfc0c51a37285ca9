"""Transferable proof that somebody has told two stories.

An honest participant seals one upload per sequence number, an honest KTS signs one
release per version. Two signed headers that share the number and differ convict their
sender before anybody who has the roster: no third party, no trust in the accuser.

An honest DSP orders no release of an upload that it has refused for good. Its signed
refusal and a signed list that names the upload convict it. It acknowledges what a list
of the last S releases names whenever that comes again, so that a list need not even be
newer than the refusal; one that is older may be forgotten, and proves nothing.

A participant or a DSP that goes on from an old copy of its state convicts itself as
well: to the others it cannot be told from one that cheats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from hre_torch.errors import EquivocationError, MessageError, WrongTaskError
from hre_torch.protocol.messages import Listed, Release, Upload, Witness
from hre_torch.protocol.roster import KEY_TRANSFORM, KeyCard
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import (
    Envelope,
    Name,
    Refusal,
    decode,
    parse_header,
)

__all__ = ["Evidence", "EvidenceBox", "check_evidence", "decode_evidence", "refuted"]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two signed headers that do not go together if the accused is honest.

    Attributes:
        accused: who signed them, or the first: the second is a release then.
        first: one of them, as it was received.
        second: the other.
    """

    accused: Name
    first: Witness
    second: Witness

    @classmethod
    def of(cls, first: Envelope[Any], second: Envelope[Any]) -> Evidence:
        """Return the evidence that two messages are, against the first one's sender."""
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
        SignatureError: a header is not signed by whom it names.
        MessageError: the headers are malformed, or an honest sender may sign both.
        WrongTaskError: they are of another task.
    """
    first = _signed(evidence.first, evidence.accused, task)
    if isinstance(first.header, Refusal):
        release = _signed(evidence.second, KEY_TRANSFORM, task).header
        return _broken_refusal(first.header, release, task)
    second = _signed(evidence.second, evidence.accused, task)
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


def refuted(
    refusal: Witness, listed: Listed, lists: Iterable[bytes], task: Task
) -> Evidence | None:
    """Return the evidence that one of some lists breaks a refusal, if one does.

    Args:
        refusal: the DSP's signed refusal of an upload.
        listed: how the list names that upload.
        lists: signed lists, encoded.
        task: the task.
    """
    for data in lists:
        release = decode(data, Release, cfg=task.cfg, max_bytes=0)
        if listed in release.header.uploads:
            word = Witness(release.header_bytes, release.proof, release.signature)
            evidence = Evidence(task.roster.data_service.name, refusal, word)
            with suppress(MessageError):
                check_evidence(evidence, task)
                return evidence
    return None


class EvidenceBox:
    """Contradictions that a server has come across; one for each that is accused.

    Args:
        tell: called with each, encoded, when it is found.
        encoded: from an earlier server of the same task.

    Raises:
        MessageError: what was stored is no evidence.
    """

    def __init__(
        self, tell: Callable[[bytes], None], encoded: Iterable[bytes] = ()
    ) -> None:
        self._tell = tell
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
            self._tell(self._kept[accused].encode())
        raise EquivocationError(
            f"{_charge(known)}; a retry must resend identical bytes. Both headers are "
            "kept as evidence"
        )


def _broken_refusal(
    refusal: Refusal, release: Upload | Release | Refusal, task: Task
) -> str:
    """Return what a refusal and a release prove together.

    Raises:
        MessageError: an honest DSP may have signed the one and ordered the other.
    """
    if not isinstance(release, Release):
        raise MessageError("the second header is no release; a refusal needs one")
    listed = [item for item in release.uploads if item.digest == refusal.upload]
    if not listed or release.version <= refusal.version - task.config.staleness_bound:
        raise MessageError(
            f"release {release.version} does not break the refusal that was signed at "
            f"version {refusal.version}: an honest {refusal.sender!r} may sign it"
        )
    return (
        f"{refusal.sender!r} has refused upload {listed[0].sequence} of "
        f"{listed[0].name!r} for good, but release {release.version} contains it"
    )


def _signed(
    each: Witness, accused: str, task: Task
) -> Envelope[Upload | Release | Refusal]:
    """Return one header, once it is known to be the accused's.

    Raises:
        MessageError, WrongTaskError, TaskError, SignatureError: as `check_evidence`.
    """
    header: Upload | Release | Refusal = parse_header(
        each.header, Upload | Release | Refusal
    )
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


def _card(header: Upload | Release | Refusal, task: Task) -> KeyCard:
    if isinstance(header, Upload):
        return task.roster.participant(header.sender)
    if isinstance(header, Refusal):
        return task.roster.data_service
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
