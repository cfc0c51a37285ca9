"""A run's history, replayed from its transcript without any secret.

Every record goes through a fresh ledger; signatures, proofs, lists, the hash chain,
counts and the agreement on one model per version are verified on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from hre_torch.crypto.signatures import SIGNATURE_BYTES
from hre_torch.errors import MessageError
from hre_torch.protocol.ciphers import Body
from hre_torch.protocol.entries import Entry, chain_after
from hre_torch.protocol.envelope import Envelope, decode, parse_header
from hre_torch.protocol.framing import signed_bytes
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Upload,
)
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task

__all__ = ["History", "Replay"]

_KINDS: Final = Deposit | Receipt | ReleaseOrder | Release


@dataclass(slots=True)
class History:
    """What a transcript shows.

    Attributes:
        task: the task that its operator has signed.
        uploads: deposits that verified.
        upload_bytes: octets of these uploads as their owners sent them.
        releases: releases that verified, oldest first.
        bases: the version that each upload builds on, by the upload's digest.
    """

    task: Task
    uploads: int = 0
    upload_bytes: int = 0
    releases: list[Release] = field(default_factory=list)
    bases: dict[bytes, int] = field(default_factory=dict)


class Replay:
    """Both servers' ledger, fed from a transcript.

    Args:
        task: the task of the transcript.

    Attributes:
        history: what was seen so far.
    """

    def __init__(self, task: Task) -> None:
        self.history = History(task)
        self._task = task
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._max_bytes = self._suite.max_message_bytes(task)
        self._ledger = Ledger(task.config, task.roster.names)
        self._ordered: ReleaseOrder | None = None

    def feed(self, body: bytes) -> None:
        """Take in the next record.

        Raises:
            HREError: it does not verify, or does not follow what came before.
        """
        envelope: Envelope[Any] = decode(
            body,
            _KINDS,  # type: ignore[arg-type]
            cfg=self._task.cfg,
            max_bytes=self._max_bytes,
        )
        header, roster = envelope.header, self._task.roster
        if isinstance(header, Deposit):
            envelope.verify(roster.data_service.signing_key)
            self._deposit(header, envelope.parts)
        elif isinstance(header, Receipt):
            envelope.verify(roster.key_transform.signing_key)
            self._ledger.accept(header.upload)
        elif isinstance(header, ReleaseOrder):
            envelope.verify(roster.data_service.signing_key)
            self._ordered = header
        else:
            envelope.verify(roster.key_transform.signing_key)
            self._release(header)

    def _deposit(self, deposit: Deposit, parts: tuple[bytes, ...]) -> None:
        upload: Upload = parse_header(deposit.upload_header, Upload)
        if upload.cfg != self._task.cfg:
            raise MessageError("the deposit wraps an upload of another task")
        envelope = Envelope(
            upload,
            deposit.upload_header,
            (),
            deposit.upload_proof,
            deposit.upload_signature,
        )
        envelope.verify(self._task.roster.card(upload.sender).signing_key)
        if self._ledger.find(envelope.digest) is not None:
            return
        if deposit.parts != tuple(upload.parts[i] for i in self._suite.forwarded):
            raise MessageError(
                "the forwarded parts are not those that the upload's header lists"
            )
        body = Body(parts, deposit.upload_header, deposit.upload_proof)
        self._suite.check_forwarded(self._task, body)
        self._ledger.enter(Entry.of(upload, envelope.digest))
        history = self.history
        history.uploads += 1
        history.upload_bytes += _size_of(envelope)
        history.bases[envelope.digest] = upload.base_version

    def _release(self, release: Release) -> None:
        uploads = [item.digest for item in release.uploads]
        expired = [item.digest for item in release.expired]
        ordered = self._ordered
        if ordered is None or list(ordered.uploads) != uploads:
            raise MessageError(
                f"release {release.version} lists uploads that the DSP never ordered"
            )
        proposal = self._ledger.check(release.version, uploads, expired)
        chain = chain_after(
            self._ledger.chain,
            release.version,
            release.uploads,
            release.expired,
            release.commitment,
        )
        if (release.previous, release.chain) != (self._ledger.chain, chain):
            raise MessageError(
                f"the hash chain of release {release.version} does not recompute"
            )
        self._ledger.release(proposal, release.commitment)
        self.history.releases.append(release)


def _size_of(upload: Envelope[Upload]) -> int:
    """Return how many octets an upload has on the wire."""
    head = len(signed_bytes(upload.header_bytes, upload.proof)) + SIGNATURE_BYTES
    return head + sum(part.size for part in upload.header.parts)
