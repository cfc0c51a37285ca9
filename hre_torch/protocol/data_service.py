"""The data service provider (DSP): stores and adds uploads, starts key transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from hre_torch.errors import MessageError, ReleaseError, TransformError
from hre_torch.observer import Observer, silent
from hre_torch.protocol.ciphers import Body
from hre_torch.protocol.envelope import Envelope, seal
from hre_torch.protocol.ledger import Entry, Ledger, LedgerState
from hre_torch.protocol.messages import (
    Ack,
    Deposit,
    Download,
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

__all__ = ["DataServiceProvider", "DataServiceState"]


@dataclass(slots=True)
class _Stored:
    """An upload that is not released yet: its signed header and its decoded body."""

    envelope: Envelope[Upload]
    forwarded: tuple[bytes, ...]
    total: Any


@dataclass(slots=True)
class _Released:
    """A release: the KTS's signed list, and the sum."""

    encoded: bytes
    count: int
    total: Any


class StoredState(msgspec.Struct):
    """An unreleased upload as bytes."""

    header: bytes
    proof: bytes
    signature: bytes
    forwarded: tuple[bytes, ...]
    total: tuple[bytes, ...]


class ReleasedState(msgspec.Struct):
    """A release that somebody has still to fetch, as bytes."""

    encoded: bytes
    count: int
    total: tuple[bytes, ...]


class DataServiceState(msgspec.Struct):
    """Everything a DSP needs to go on after a restart, keys aside."""

    ledger: LedgerState
    uploads: dict[bytes, StoredState]
    releases: dict[int, ReleasedState]
    fetched: dict[str, int]


class DataServiceProvider:
    """The DSP's end of the protocol, a pure function of its state.

    Args:
        task: the task.
        secret: the DSP's keys.
        workers: where block-wise arithmetic runs.
        observe: told of the phases `add` and `first_phase`.
        state: where an earlier DSP of the same task stopped.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        observe: Observer = silent,
        state: DataServiceState | None = None,
    ) -> None:
        self.task = task
        self._secret = secret
        self._observe = observe
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._cipher = self._suite.data_service(task, secret, workers)
        self._sizes = self._suite.upload_sizes(task)
        self._ledger = Ledger(
            task.config, task.roster.names, state.ledger if state else None
        )
        self._uploads: dict[bytes, _Stored] = {}
        self._releases: dict[int, _Released] = {}
        self._fetched = dict.fromkeys(task.roster.names, 0)
        self._summed: tuple[list[bytes], Any] | None = None
        self._transforms: dict[str, tuple[int, int, Any]] = {}
        if state is not None:
            self._restore(state)

    @property
    def version(self) -> int:
        """Number of releases so far."""
        return self._ledger.version

    def base_version(self, upload: bytes) -> int:
        """Return the version that an entered upload, named by its digest, builds on.

        Raises:
            ReleaseError: no such upload was ever entered.
        """
        entry = self._ledger.find(upload)
        if entry is None:
            raise ReleaseError(f"upload {upload.hex()[:16]} was never entered here")
        return entry.base_version

    def admit(self, upload: Envelope[Upload]) -> Envelope[Deposit]:
        """Check and store an upload; the identical upload again is no mistake.

        Raises:
            SignatureError, TaskError: it is not from whom it says, or from a stranger.
            MessageError, InvalidElementError: its body is malformed.
            EquivocationError, StaleUploadError, BackPressure: see `Ledger.enter`.
        """
        header = upload.header
        upload.verify(self.task.roster.card(header.sender).signing_key)
        sizes = tuple(part.size for part in header.parts)
        if sizes != self._sizes:
            raise MessageError(
                f"the parts of an upload have {self._sizes} octets in this task, these "
                f"have {sizes}"
            )
        entry = Entry.of(header, upload.digest)
        self._ledger.check_entry(entry)
        if self._ledger.find(upload.digest) is None:
            with self._observe("check"):
                total = self._cipher.load(
                    Body(upload.parts, upload.header_bytes, upload.proof)
                )
            self._ledger.enter(entry)
            forwarded = tuple(upload.parts[i] for i in self._suite.forwarded)
            self._uploads[upload.digest] = _Stored(upload, forwarded, total)
        deposit = Deposit(
            cfg=self.task.cfg,
            sender=self._secret.name,
            upload_header=upload.header_bytes,
            upload_proof=upload.proof,
            upload_signature=upload.signature,
        )
        stored = self._uploads.get(upload.digest)
        forwarded = () if stored is None else stored.forwarded
        return seal(deposit, self._secret.signing, forwarded)

    def confirm(self, receipt: Envelope[Receipt]) -> Envelope[Ack]:
        """Accept an upload that the KTS has logged, and acknowledge it.

        Raises:
            SignatureError: the receipt is not the KTS's.
            ReleaseError: it is for an upload that never came here.
        """
        receipt.verify(self.task.roster.key_transform.signing_key)
        entry = self._ledger.accept(receipt.header.upload)
        ack = Ack(
            cfg=self.task.cfg,
            sender=self._secret.name,
            upload=entry.digest,
            sequence=entry.sequence,
            version=self._ledger.version,
        )
        return seal(ack, self._secret.signing)

    def propose(self) -> Envelope[ReleaseOrder] | None:
        """Propose a release, as soon as t distinct identities have accepted uploads."""
        proposal = self._ledger.propose()
        if proposal is None:
            return None
        total = self._sum([entry.digest for entry in proposal.uploads])
        order = ReleaseOrder(
            cfg=self.task.cfg,
            sender=self._secret.name,
            version=self._ledger.version + 1,
            uploads=tuple(entry.digest for entry in proposal.uploads),
            expired=tuple(entry.digest for entry in proposal.expired),
            commitment=self._cipher.commitment(total),
        )
        return seal(order, self._secret.signing)

    def record(self, release: Envelope[Release]) -> None:
        """Add the uploads of a signed release; repeating the newest is no mistake.

        Raises:
            SignatureError: it is not the KTS's.
            ReleaseError: the list breaks a rule or the chain does not continue.
        """
        release.verify(self.task.roster.key_transform.signing_key)
        header = release.header
        if (
            header.version == self._ledger.version
            and header.chain == self._ledger.chain
        ):
            return
        proposal = self._ledger.check(
            header.version,
            [item.digest for item in header.uploads],
            [item.digest for item in header.expired],
        )
        if header.previous != self._ledger.chain:
            raise ReleaseError(
                f"release {header.version} continues another history than this server's"
            )
        total = self._sum([entry.digest for entry in proposal.uploads])
        if header.commitment != self._cipher.commitment(total):
            raise ReleaseError(
                f"release {header.version} commits to another sum than this server has"
            )
        self._summed = None
        self._ledger.release(proposal, header.commitment)
        for entry in (*proposal.uploads, *proposal.expired):
            del self._uploads[entry.digest]
        self._releases[header.version] = _Released(
            release.encode(), len(proposal.uploads), total
        )

    def next_range(
        self, recipient: str, since: int, *, merge: bool = True
    ) -> tuple[int, int] | None:
        """Return the releases that the recipient's next download holds, or None.

        Consecutive releases are merged up to a total count of K where the suite
        allows it. What every participant has fetched is forgotten.

        Args:
            recipient: who asks.
            since: last release that the recipient has opened.
            merge: False to get releases singly.

        Raises:
            TransformError: the recipient is so far behind that its next release is
                no longer kept, or claims releases that do not exist.
        """
        self.task.roster.card(recipient)
        if since > self.version:
            raise TransformError(
                f"{recipient!r} asks for what follows release {since}, but the newest "
                f"is {self.version}: it belongs to another federation"
            )
        self._forget(recipient, since)
        if since == self.version:
            return None
        if since + 1 not in self._releases:
            raise TransformError(
                f"release {since + 1} is no longer kept; {recipient!r} must start from "
                "a snapshot of the released weights"
            )
        last = since + 1
        count = self._releases[last].count
        while merge and self._suite.merges and last < self.version:
            count += self._releases[last + 1].count
            if count > self.task.config.max_additions:
                break
            last += 1
        return since + 1, last

    def begin(
        self, recipient: str, first: int, last: int
    ) -> Envelope[TransformRequest]:
        """Run the first phase for the releases `first..last`."""
        releases = [self._releases[v].total for v in range(first, last + 1)]
        with self._observe("first_phase"):
            total = self._cipher.merge(releases)
            parts, kept = self._cipher.begin(total, recipient)
        self._transforms[recipient] = (first, last, kept)
        request = TransformRequest(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=recipient,
            first=first,
            last=last,
        )
        return seal(request, self._secret.signing, parts)

    def finish(self, reply: Envelope[TransformReply]) -> Envelope[Download]:
        """Turn the KTS's reply into the recipient's download.

        Raises:
            SignatureError: the reply is not the KTS's.
            TransformError: it answers no open request.
        """
        reply.verify(self.task.roster.key_transform.signing_key)
        header = reply.header
        first, last, kept = self._transforms.get(header.recipient, (0, 0, None))
        if (header.first, header.last) != (first, last):
            raise TransformError(
                f"the reply is for releases {header.first}..{header.last} of "
                f"{header.recipient!r}, which were not asked for; begin again"
            )
        parts = self._cipher.finish(kept, reply.parts)
        del self._transforms[header.recipient]
        download = Download(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=header.recipient,
            releases=tuple(self._releases[v].encoded for v in range(first, last + 1)),
            version=self.version,
        )
        return seal(download, self._secret.signing, parts)

    def _sum(self, digests: list[bytes]) -> Any:
        """Return the sum of some uploads; the newest one asked for is kept."""
        if self._summed is None or self._summed[0] != digests:
            with self._observe("add"):
                totals = [self._uploads[digest].total for digest in digests]
                self._summed = (digests, self._cipher.add(totals))
        return self._summed[1]

    def _forget(self, recipient: str, since: int) -> None:
        self._fetched[recipient] = max(self._fetched[recipient], since)
        everybody = min(self._fetched.values())
        for version in [v for v in self._releases if v <= everybody]:
            del self._releases[version]

    def state(self) -> DataServiceState:
        """Return everything that a restart needs, keys aside."""
        return DataServiceState(
            ledger=self._ledger.state(),
            uploads={
                digest: StoredState(
                    stored.envelope.header_bytes,
                    stored.envelope.proof,
                    stored.envelope.signature,
                    stored.forwarded,
                    self._cipher.dump(stored.total),
                )
                for digest, stored in self._uploads.items()
            },
            releases={
                version: ReleasedState(
                    released.encoded, released.count, self._cipher.dump(released.total)
                )
                for version, released in self._releases.items()
            },
            fetched=dict(self._fetched),
        )

    def _restore(self, state: DataServiceState) -> None:
        for digest, stored in state.uploads.items():
            header = msgspec.msgpack.decode(stored.header, type=Upload)
            envelope = Envelope(
                header, stored.header, (), stored.proof, stored.signature
            )
            total = self._cipher.restore(stored.total)
            self._uploads[digest] = _Stored(envelope, stored.forwarded, total)
        for version, released in state.releases.items():
            total = self._cipher.restore(released.total)
            self._releases[version] = _Released(released.encoded, released.count, total)
        self._fetched |= state.fetched
