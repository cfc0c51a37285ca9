"""The key transform server (KTS): keeps its own ledger, signs releases, re-encrypts."""

from __future__ import annotations

from typing import Any

import msgspec

from hre_torch.errors import MessageError, TaskError, TransformError
from hre_torch.observer import Observer, silent
from hre_torch.protocol.ciphers import Body
from hre_torch.protocol.envelope import Envelope, decode, parse_header, seal
from hre_torch.protocol.ledger import Entry, Ledger, LedgerState, chain_after
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    TransformReply,
    TransformRequest,
    Upload,
)
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Secret, Task
from hre_torch.protocol.workers import Workers

__all__ = ["KeyTransformServer", "KeyTransformState"]


class KeyTransformState(msgspec.Struct):
    """Everything a KTS needs to go on after a restart, keys aside."""

    ledger: LedgerState
    newest_release: bytes | None
    uploads: dict[bytes, tuple[bytes, ...]]
    releases: dict[int, tuple[bytes, ...]]
    fetched: dict[str, int]


class KeyTransformServer:
    """The KTS's end of the protocol, a pure function of its state.

    Args:
        task: the task.
        secret: the KTS's keys.
        workers: where block-wise arithmetic runs.
        observe: told of the phase `second_phase`.
        state: where an earlier KTS of the same task stopped.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        observe: Observer = silent,
        state: KeyTransformState | None = None,
    ) -> None:
        self.task = task
        self._secret = secret
        self._observe = observe
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._cipher = self._suite.key_transform(task, secret, workers)
        self._ledger = Ledger(
            task.config, task.roster.names, state.ledger if state else None
        )
        self._newest: Envelope[Release] | None = None
        self._uploads: dict[bytes, Any] = {}
        self._releases: dict[int, Any] = {}
        self._fetched = dict.fromkeys(task.roster.names, 0)
        if state is not None:
            self._restore(state)

    @property
    def version(self) -> int:
        """Number of releases signed so far."""
        return self._ledger.version

    def deposit(self, deposit: Envelope[Deposit]) -> Envelope[Receipt]:
        """Log an upload; the identical deposit again is no mistake.

        Raises:
            SignatureError, TaskError: DSP or participant did not sign, or is unknown.
            MessageError: header or forwarded parts are malformed.
            ProofError, InvalidElementError: the forwarded parts do not verify.
            EquivocationError, StaleUploadError, BackPressure: see `Ledger.enter`.
        """
        deposit.verify(self.task.roster.data_service.signing_key)
        upload = self._upload(deposit.header)
        entry = Entry.of(upload.header, upload.digest)
        self._ledger.check_entry(entry)
        if self._ledger.find(upload.digest) is None:
            self._check_forwarded(deposit.header, upload.header)
            body = Body(deposit.parts, upload.header_bytes, upload.proof)
            with self._observe("log"):
                self._uploads[upload.digest] = self._cipher.load(body)
            self._ledger.enter(entry)
            self._ledger.accept(upload.digest)
        receipt = Receipt(
            cfg=self.task.cfg, sender=self._secret.name, upload=upload.digest
        )
        return seal(receipt, self._secret.signing)

    def approve(self, order: Envelope[ReleaseOrder]) -> Envelope[Release]:
        """Check a release list against the own ledger and sign it, once.

        The newest order again gets the same signed release again.

        Raises:
            SignatureError: the order is not the DSP's.
            ReleaseError: the list breaks a rule.
        """
        order.verify(self.task.roster.data_service.signing_key)
        header = order.header
        if self._newest is not None and header.version == self.version:
            signed = self._newest.header
            digests = tuple(item.digest for item in signed.uploads)
            if (header.uploads, header.commitment) == (digests, signed.commitment):
                return self._newest
        proposal = self._ledger.check(header.version, header.uploads, header.expired)
        uploads = tuple(entry.listed() for entry in proposal.uploads)
        expired = tuple(entry.listed() for entry in proposal.expired)
        release = Release(
            cfg=self.task.cfg,
            sender=self._secret.name,
            version=header.version,
            uploads=uploads,
            expired=expired,
            commitment=header.commitment,
            previous=self._ledger.chain,
            chain=chain_after(
                self._ledger.chain, header.version, uploads, expired, header.commitment
            ),
        )
        self._releases[header.version] = self._cipher.add(
            [self._uploads[entry.digest] for entry in proposal.uploads]
        )
        self._ledger.release(proposal, header.commitment)
        for entry in (*proposal.uploads, *proposal.expired):
            del self._uploads[entry.digest]
        self._newest = seal(release, self._secret.signing)
        return self._newest

    def transform(
        self, request: Envelope[TransformRequest]
    ) -> Envelope[TransformReply]:
        """Run the second phase for one recipient.

        Raises:
            SignatureError: the request is not the DSP's.
            TaskError: the recipient is not a participant.
            TransformError: it names releases that were never signed.
            InvalidElementError, MessageError: its body is malformed.
        """
        request.verify(self.task.roster.data_service.signing_key)
        header = request.header
        if header.recipient not in self.task.roster.names:
            raise TaskError(f"{header.recipient!r} is not a participant of this task")
        if not 1 <= header.first <= header.last <= self.version:
            raise TransformError(
                f"releases {header.first}..{header.last} were never signed here; the "
                f"newest is {self.version}"
            )
        self._forget(header.recipient, header.first - 1)
        releases = range(header.first, header.last + 1)
        if not all(version in self._releases for version in releases):
            raise TransformError(
                f"releases {header.first}..{header.last} are no longer kept; "
                f"{header.recipient!r} must start from a snapshot"
            )
        with self._observe("second_phase"):
            total = self._releases[header.first]
            if header.last > header.first:
                total = self._cipher.add([self._releases[v] for v in releases])
            parts = self._cipher.transform(total, request.parts, header.recipient)
        reply = TransformReply(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=header.recipient,
            first=header.first,
            last=header.last,
        )
        return seal(reply, self._secret.signing, parts)

    def state(self) -> KeyTransformState:
        """Return everything that a restart needs, keys aside."""
        dump = self._cipher.dump
        return KeyTransformState(
            ledger=self._ledger.state(),
            newest_release=None if self._newest is None else self._newest.encode(),
            uploads={digest: dump(total) for digest, total in self._uploads.items()},
            releases={
                version: dump(total) for version, total in self._releases.items()
            },
            fetched=dict(self._fetched),
        )

    def _restore(self, state: KeyTransformState) -> None:
        if state.newest_release is not None:
            self._newest = decode(
                state.newest_release, Release, cfg=self.task.cfg, max_bytes=0
            )
        restore = self._cipher.restore
        self._uploads = {d: restore(parts) for d, parts in state.uploads.items()}
        self._releases = {v: restore(parts) for v, parts in state.releases.items()}
        self._fetched |= state.fetched

    def _check_forwarded(self, deposit: Deposit, upload: Upload) -> None:
        expected = tuple(upload.parts[i] for i in self._suite.forwarded)
        if deposit.parts != expected:
            raise MessageError(
                "the parts of a deposit are not those that the upload's header lists"
            )

    def _forget(self, recipient: str, since: int) -> None:
        self._fetched[recipient] = max(self._fetched[recipient], since)
        everybody = min(self._fetched.values())
        for version in [v for v in self._releases if v <= everybody]:
            del self._releases[version]

    def _upload(self, deposit: Deposit) -> Envelope[Upload]:
        header = parse_header(deposit.upload_header, Upload)
        if header.cfg != self.task.cfg:
            raise MessageError("the deposit wraps an upload of another task")
        upload = Envelope(
            header,
            deposit.upload_header,
            (),
            deposit.upload_proof,
            deposit.upload_signature,
        )
        upload.verify(self.task.roster.card(header.sender).signing_key)
        return upload
