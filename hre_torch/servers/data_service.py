"""The data service provider (DSP): stores and adds uploads, starts key transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from hre_torch.errors import AggregatorError, HREError, MessageError, ReleaseError
from hre_torch.protocol.entries import Entry
from hre_torch.protocol.heads import Records
from hre_torch.protocol.messages import (
    Ack,
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    StatementReply,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suite import Body
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.downloads import DownloadServer
from hre_torch.servers.journal import DataServiceState, Journal
from hre_torch.servers.server import ServerOptions
from hre_torch.servers.statements import Statements

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


class DataServiceProvider(DownloadServer):
    """The DSP's end of the protocol, a pure function of its state.

    Args:
        task: the task.
        secret: the DSP's keys.
        workers: where block-wise arithmetic runs.
        state: where an earlier DSP of the same task stopped.
        options: see `ServerOptions`: phases `check`, `add` and `first_phase`.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        state: DataServiceState | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(task, secret, workers, state=state, **options)
        suite = self._suite
        self._sizes = (suite.proof_size(task), *suite.upload_sizes(task))
        self._summed: tuple[list[bytes], Any] | None = None
        self._ordered = 0
        # Those about the newest version, which settle it; the KTS keeps all of them.
        self._statements = Statements(task, Journal())

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

        Where it is refused, its number is used up, and the error names it.

        Raises:
            SignatureError, TaskError: it is not from whom it says, or from a stranger.
            MessageError, InvalidElementError: its body is malformed.
            EquivocationError, SpentUpdateError, StaleUploadError, BackPressure: see
                `Ledger.check_entry`.
            BehindError: this server goes on from an old copy.
        """
        header = upload.header
        upload.verify(self.task.roster.participant(header.sender).signing_key)
        try:
            self._enter(upload)
        except AggregatorError:
            raise
        except HREError as error:
            if self._ledger.use(header.sender, header.sequence):
                self._journal.refused(header.sender, header.sequence)
            self._mark(error, upload.digest)
            raise
        return self._deposit(upload)

    def _enter(self, upload: Envelope[Upload]) -> None:
        header = upload.header
        sizes = (len(upload.proof), *(part.size for part in header.parts))
        if sizes != self._sizes:
            raise MessageError(
                f"proof and parts of an upload have {self._sizes} octets in this task, "
                f"these have {sizes}"
            )
        self._compare_with_earlier(upload)
        self.check_current(upload.digest)
        entry = Entry.of(header, upload.digest)
        known = self._ledger.find(upload.digest) is not None
        if not known:
            self._hear(header)
        self._check_entry(entry)
        if not known:
            self._check_history(header)
            with self._observe("check"):
                total = self._cipher.load(
                    Body(upload.parts, upload.header_bytes, upload.proof)
                )
            self._ledger.enter(entry)
            self._pending.put(entry, upload, upload.parts, total)

    def unconfirmed(self) -> list[Envelope[Deposit]]:
        """Return the deposits of all pending uploads, to forward after a restart."""
        return [
            self._deposit(self._pending.uploads[entry.digest].envelope)
            for entry in self._ledger.unreleased()
            if entry.status == "pending"
        ]

    def lacking(self, records: Envelope[Records]) -> list[Envelope[Deposit]]:
        """Return the deposits of accepted uploads that the KTS has not any more.

        Args:
            records: what it has; nothing is lacking where it has other releases.
        """
        if records.header.chain != self._ledger.chain:
            return []
        return [
            self._deposit(self._pending.uploads[digest].envelope)
            for digest in self._ledger.accepted()
            if digest not in records.header.accepted
        ]

    def confirm(self, receipt: Envelope[Receipt]) -> Envelope[Ack]:
        """Accept an upload that the KTS has logged, and acknowledge it.

        What it voids is dropped: the KTS has dropped that, too.

        Raises:
            SignatureError: the receipt is not the KTS's.
            ReleaseError: it is for an upload that never came here.
            BehindError: this server goes on from an old copy.
        """
        receipt.verify(self.task.roster.key_transform.signing_key)
        version, chain = receipt.header.version, receipt.header.chain
        # The list that was ordered last may be signed by now, and on its way.
        if version <= self.version or version > self._ordered:
            self._horizon.notice(version, chain)
            self.check_current(receipt.header.upload)
        return self._ack(self._accept(receipt.header.upload))

    def _accept(self, upload: bytes) -> Entry:
        """Mark an upload as accepted: the KTS has logged it, and dropped its voids."""
        known = self._ledger.find(upload)
        if known is not None and known.status == "pending":
            self._strike(known)
            self._journal.accepted(known.digest)
        return self._ledger.accept(upload)

    def withdraw(self, upload: bytes, error: HREError) -> Envelope[Ack] | None:
        """Drop a pending upload that the KTS refuses, so that its owner may go on.

        Args:
            upload: its digest.
            error: the KTS's; it names the upload from now on.

        Returns:
            The acknowledgement, if the KTS has taken another copy of it meanwhile: then
            it is not refused.
        """
        entry = self._ledger.find(upload)
        if entry is not None and entry.status != "pending":
            return self._ack(entry)
        if entry is not None:
            self._ledger.withdraw(upload)
            self._pending.drop(upload)
        self._mark(error, upload)
        return None

    def holds_up(self, upload: Upload, order: ReleaseOrder) -> bool:
        """Whether an upload voids something in a list that waits for its signature."""
        named = (self._ledger.named(upload.sender, void) for void in upload.voids)
        return any(digest in order.uploads for digest in named)

    def acknowledge(self, upload: bytes) -> Envelope[Ack] | None:
        """Acknowledge again what was accepted before; None for any other digest."""
        entry = self._ledger.find(upload)
        if entry is None or entry.status == "pending":
            return None
        return self._ack(entry)

    def check_statement(self, statement: Envelope[Statement]) -> None:
        """Check what a participant wants to have passed on to the KTS.

        Raises:
            SignatureError, TaskError: it is not from whom it says, or from a stranger.
        """
        header = statement.header
        statement.verify(self.task.roster.participant(header.sender).signing_key)
        if (header.version, header.chain) == (self.version, self._ledger.chain):
            self._statements.add(statement)

    def pass_on(
        self, verdict: Envelope[Verdict], statement: bytes
    ) -> Envelope[StatementReply]:
        """Return the answer to a statement, which holds that of the KTS.

        Args:
            verdict: what the KTS answers.
            statement: digest of the statement.

        Raises:
            SignatureError: the verdict is not the KTS's.
        """
        verdict.verify(self.task.roster.key_transform.signing_key)
        reply = StatementReply(
            cfg=self.task.cfg,
            sender=self._secret.name,
            statement=statement,
            verdict=verdict.encode(),
        )
        return seal(reply, self._secret.signing)

    def standing(self, name: str) -> Standing:
        """Return where the task stands for one participant.

        Raises:
            TaskError: the roster has no such name.
        """
        self.task.roster.participant(name)
        return Standing(
            version=self.version,
            oldest=min(self._pending.releases, default=self.version + 1),
            next_sequence=self._ledger.next_sequence(name),
            pending=self._ledger.waiting(name),
        )

    def propose(self) -> Envelope[ReleaseOrder] | None:
        """Propose a release, as soon as t distinct identities have accepted uploads."""
        proposal = None if self.behind else self._ledger.propose()
        if proposal is None:
            return None
        total = self._sum([entry.digest for entry in proposal.uploads])
        self._ordered = self._ledger.version + 1
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
        self._pending.release(proposal, release, total)
        self._tidy_ledger()
        self._statements.forget({self.version})

    def _take_over(self, release: Envelope[Release]) -> None:
        # A restart may have lost the receipts of what the KTS lists.
        for item in (*release.header.uploads, *release.header.expired):
            self._accept(item.digest)
        self.record(release)

    def _deposit(self, upload: Envelope[Upload]) -> Envelope[Deposit]:
        deposit = Deposit(
            cfg=self.task.cfg,
            sender=self._secret.name,
            upload_header=upload.header_bytes,
            upload_proof=upload.proof,
            upload_signature=upload.signature,
            version=self.version,
            chain=self._ledger.chain,
        )
        # Once released, an upload is only a line in the ledger, here and at the KTS.
        stored = self._pending.uploads.get(upload.digest)
        forwarded = () if stored is None else self._cipher.forward(stored.total)
        return seal(deposit, self._secret.signing, forwarded)

    def _mark(self, error: HREError, upload: bytes) -> None:
        """Have an error say that it is the last word about an upload."""
        error.upload, error.version = upload, self.version

    def _ack(self, entry: Entry) -> Envelope[Ack]:
        self.check_current()
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
                totals = self._pending.totals(digests)
                self._summed = (digests, self._cipher.add(totals))
        return self._summed[1]

    def state(self) -> DataServiceState:
        """Return everything that a restart needs, keys aside."""
        return DataServiceState(
            ledger=self._ledger.state(),
            uploads=self._pending.upload_states(),
            releases=self._pending.release_states(),
            fetched=dict(self._pending.fetched),
            evidence=self._evidence.encoded(),
            lists=dict(self._pending.lists),
        )
