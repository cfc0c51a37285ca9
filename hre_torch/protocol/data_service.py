"""The data service provider (DSP): stores and adds uploads, starts key transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hre_torch.errors import MessageError, ReleaseError, TransformError
from hre_torch.observer import Observer, silent
from hre_torch.protocol.ciphers import Body
from hre_torch.protocol.entries import Entry, Proposal
from hre_torch.protocol.envelope import MAX_HEADER_BYTES, Envelope, decode, seal
from hre_torch.protocol.evidence import Evidence, EvidenceBox
from hre_torch.protocol.journal import Journal
from hre_torch.protocol.ledger import Ledger
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
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.shelf import Shelf
from hre_torch.protocol.states import DataServiceState
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

__all__ = ["DataServiceProvider", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a task stands for one participant.

    Attributes:
        version: newest release.
        oldest: oldest release that is still kept; `version + 1` if none is.
        next_sequence: lowest sequence number that the participant has not used.
        pending: its uploads that are neither released nor expired.
    """

    version: int
    oldest: int
    next_sequence: int
    pending: int


@dataclass(frozen=True, slots=True)
class _Begun:
    """A key transform that waits for the KTS: its releases, own part, signed lists."""

    first: int
    last: int
    own: Any
    signed: tuple[bytes, ...]


class DataServiceProvider:
    """The DSP's end of the protocol, a pure function of its state.

    Args:
        task: the task.
        secret: the DSP's keys.
        workers: where block-wise arithmetic runs.
        observe: told of the phases `add` and `first_phase`.
        state: where an earlier DSP of the same task stopped.
        journal: told of every change of the state.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        observe: Observer = silent,
        state: DataServiceState | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.task = task
        self._secret = secret
        self._observe = observe
        self._journal = journal or Journal()
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._cipher = self._suite.data_service(task, secret, workers)
        self._sizes = (self._suite.proof_size(task), *self._suite.upload_sizes(task))
        self._ledger = Ledger(
            task.config, task.roster.names, state.ledger if state else None
        )
        self._shelf = Shelf(task.roster.names, self._cipher, self._journal, state)
        self._evidence = EvidenceBox(self._journal, state.evidence if state else ())
        self._summed: tuple[list[bytes], Any] | None = None
        self._transforms: dict[str, _Begun] = {}

    @property
    def version(self) -> int:
        """Number of releases so far."""
        return self._ledger.version

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proof of contradictions that this server has come across."""
        return self._evidence.all()

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
        upload.verify(self.task.roster.participant(header.sender).signing_key)
        sizes = (len(upload.proof), *(part.size for part in header.parts))
        if sizes != self._sizes:
            raise MessageError(
                f"proof and parts of an upload have {self._sizes} octets in this task, "
                f"these have {sizes}"
            )
        earlier = self._ledger.named(header.sender, header.sequence)
        self._evidence.compare(self._shelf.signed(earlier), upload)
        entry = Entry.of(header, upload.digest)
        self._ledger.check_entry(entry)
        if self._ledger.find(upload.digest) is None:
            with self._observe("check"):
                total = self._cipher.load(
                    Body(upload.parts, upload.header_bytes, upload.proof)
                )
            self._ledger.enter(entry)
            self._shelf.put(entry, upload, upload.parts, total)
        return self._deposit(upload)

    def unconfirmed(self) -> list[Envelope[Deposit]]:
        """Return the deposits of all pending uploads, to forward after a restart."""
        return [
            self._deposit(self._shelf.uploads[entry.digest].envelope)
            for entry in self._ledger.unreleased()
            if entry.status == "pending"
        ]

    def confirm(self, receipt: Envelope[Receipt]) -> Envelope[Ack]:
        """Accept an upload that the KTS has logged, and acknowledge it.

        Raises:
            SignatureError: the receipt is not the KTS's.
            ReleaseError: it is for an upload that never came here.
        """
        receipt.verify(self.task.roster.key_transform.signing_key)
        known = self._ledger.find(receipt.header.upload)
        if known is not None and known.status == "pending":
            self._journal.accepted(known.digest)
        return self._ack(self._ledger.accept(receipt.header.upload))

    def withdraw(self, upload: bytes) -> None:
        """Drop a pending upload that the KTS refuses, so that its owner may go on.

        Raises:
            ReleaseError: it is not pending.
        """
        self._ledger.withdraw(upload)
        self._shelf.drop(upload)

    def acknowledge(self, upload: bytes) -> Envelope[Ack] | None:
        """Acknowledge again what was accepted before; None for any other digest."""
        entry = self._ledger.find(upload)
        if entry is None or entry.status == "pending":
            return None
        return self._ack(entry)

    def standing(self, name: str) -> Standing:
        """Return where the task stands for one participant.

        Raises:
            TaskError: the roster has no such name.
        """
        self.task.roster.participant(name)
        return Standing(
            version=self.version,
            oldest=min(self._shelf.releases, default=self.version + 1),
            next_sequence=self._ledger.next_sequence(name),
            pending=len(self._ledger.unreleased(name)),
        )

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
            EquivocationError: the KTS has signed another list for that version.
            ReleaseError: the list breaks a rule or the chain does not continue.
        """
        release.verify(self.task.roster.key_transform.signing_key)
        header = release.header
        self._evidence.compare(self._recorded(header.version), release)
        if (
            header.version == self._ledger.version
            and header.chain == self._ledger.chain
        ):
            return
        proposal = self._checked(header)
        total = self._sum([entry.digest for entry in proposal.uploads])
        if header.commitment != self._cipher.commitment(total):
            raise ReleaseError(
                f"release {header.version} commits to another sum than this server has"
            )
        self._summed = None
        self._ledger.release(proposal, header.commitment)
        self._shelf.release(proposal, release, total)

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
        self.task.roster.participant(recipient)
        if since > self.version:
            raise TransformError(
                f"{recipient!r} asks for what follows release {since}, but the newest "
                f"is {self.version}: it belongs to another federation"
            )
        self._shelf.forget(recipient, since)
        releases = self._shelf.releases
        if since == self.version:
            return None
        if since + 1 not in releases:
            raise TransformError(
                f"release {since + 1} is no longer kept; {recipient!r} must start from "
                "a snapshot of the released weights"
            )
        last = since + 1
        count, octets = releases[last].count, len(releases[last].encoded)
        while merge and self._suite.merges and last < self.version:
            count += releases[last + 1].count
            octets += len(releases[last + 1].encoded)
            # The download's header carries all their signed lists.
            if count > self.task.config.max_additions or octets > MAX_HEADER_BYTES // 2:
                break
            last += 1
        return since + 1, last

    def begin(
        self, recipient: str, first: int, last: int
    ) -> Envelope[TransformRequest]:
        """Run the first phase for the releases `first..last`."""
        kept = [self._shelf.releases[v] for v in range(first, last + 1)]
        with self._observe("first_phase"):
            total = self._cipher.merge([release.total for release in kept])
            parts, own = self._cipher.begin(total, recipient)
        signed = tuple(release.encoded for release in kept)
        self._transforms[recipient] = _Begun(first, last, own, signed)
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
        begun = self._transforms.get(header.recipient)
        if begun is None or (header.first, header.last) != (begun.first, begun.last):
            raise TransformError(
                f"the reply is for releases {header.first}..{header.last} of "
                f"{header.recipient!r}, which were not asked for; begin again"
            )
        parts = self._cipher.finish(begun.own, reply.parts)
        del self._transforms[header.recipient]
        download = Download(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=header.recipient,
            releases=begun.signed,
            version=self.version,
        )
        return seal(download, self._secret.signing, parts)

    def _checked(self, header: Release) -> Proposal:
        proposal = self._ledger.check(
            header.version,
            [item.digest for item in header.uploads],
            [item.digest for item in header.expired],
        )
        if header.previous != self._ledger.chain:
            raise ReleaseError(
                f"release {header.version} continues another history than this server's"
            )
        listed = (proposal.listed_uploads(), proposal.listed_expired())
        chain = self._ledger.chain_after(proposal, header.commitment)
        if (header.uploads, header.expired, header.chain) != (*listed, chain):
            raise ReleaseError(
                f"the hash chain of release {header.version} does not recompute: it "
                "names uploads otherwise than this server knows them"
            )
        return proposal

    def _recorded(self, version: int) -> Envelope[Release] | None:
        kept = self._shelf.releases.get(version)
        if kept is None:
            return None
        return decode(kept.encoded, Release, cfg=self.task.cfg, max_bytes=0)

    def _deposit(self, upload: Envelope[Upload]) -> Envelope[Deposit]:
        deposit = Deposit(
            cfg=self.task.cfg,
            sender=self._secret.name,
            upload_header=upload.header_bytes,
            upload_proof=upload.proof,
            upload_signature=upload.signature,
        )
        # Once released, an upload is only a line in the ledger, here and at the KTS.
        stored = self._shelf.uploads.get(upload.digest)
        forwarded = () if stored is None else self._cipher.forward(stored.total)
        return seal(deposit, self._secret.signing, forwarded)

    def _ack(self, entry: Entry) -> Envelope[Ack]:
        ack = Ack(
            cfg=self.task.cfg,
            sender=self._secret.name,
            upload=entry.digest,
            sequence=entry.sequence,
            version=self._ledger.version,
        )
        return seal(ack, self._secret.signing)

    def _sum(self, digests: list[bytes]) -> Any:
        """Return the sum of some uploads; the newest one asked for is kept."""
        if self._summed is None or self._summed[0] != digests:
            with self._observe("add"):
                totals = self._shelf.totals(digests)
                self._summed = (digests, self._cipher.add(totals))
        return self._summed[1]

    def state(self) -> DataServiceState:
        """Return everything that a restart needs, keys aside."""
        return DataServiceState(
            ledger=self._ledger.state(),
            uploads=self._shelf.upload_states(),
            releases=self._shelf.release_states(),
            fetched=dict(self._shelf.fetched),
            evidence=self._evidence.encoded(),
        )
