"""The key transform server (KTS): keeps its own ledger, signs releases, re-encrypts."""

from __future__ import annotations

from typing import Any, Unpack

from hre_torch.errors import (
    MessageError,
    ReleaseError,
    SnapshotNeededError,
    TransformError,
)
from hre_torch.protocol.entries import Entry, Proposal
from hre_torch.protocol.messages import (
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    TransformReply,
    TransformRequest,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import KeyCard, Secret
from hre_torch.protocol.suite import Body, KeyTransformCipher
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import DIGEST_BYTES, Envelope, parse_header, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.journal import KeyTransformState
from hre_torch.servers.server import Server, ServerOptions
from hre_torch.servers.statements import Statements

__all__ = ["KeyTransformServer"]


class KeyTransformServer(Server[KeyTransformCipher[Any]]):
    """The KTS's end of the protocol, a pure function of its state.

    Args:
        task: the task.
        secret: the KTS's keys.
        workers: where block-wise arithmetic runs.
        state: where an earlier KTS of the same task stopped.
        options: see `ServerOptions`: phases `log` and `second_phase`.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        state: KeyTransformState | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(task, secret, workers, state=state, **options)
        self._sizes = self._suite.upload_sizes(task)
        self._newest: Envelope[Release] | None = None
        if state is not None and state.newest_release is not None:
            self._newest = self._release(state.newest_release)
        self._statements = Statements(
            task,
            self._journal,
            state.statements if state else (),
            state.verdicts if state else (),
        )

    def _half_of_suite(self, workers: Workers) -> KeyTransformCipher[Any]:
        return self._suite.key_transform(self.task, self._secret, workers)

    @property
    def _other(self) -> KeyCard:
        return self.task.roster.data_service

    def deposit(self, deposit: Envelope[Deposit]) -> Envelope[Receipt]:
        """Log an upload; the identical deposit again is no mistake.

        Raises:
            SignatureError, TaskError: DSP or participant did not sign, or is unknown.
            MessageError: header or forwarded parts are malformed.
            ProofError, InvalidElementError: the forwarded parts do not verify.
            EquivocationError, SpentUpdateError, StaleUploadError, BackPressure: see
                `Ledger.check_entry`.
            BehindError: this server goes on from an old copy.
        """
        deposit.verify(self.task.roster.data_service.signing_key)
        self._horizon.notice(deposit.header.version, deposit.header.chain)
        upload = self._upload(deposit.header)
        header = upload.header
        self._compare_with_earlier(upload)
        self.check_current(upload.digest)
        entry = Entry.of(header, upload.digest)
        known = self._ledger.find(upload.digest) is not None
        if not known:
            self._hear(header)
        self._check_entry(entry)
        if not known:
            self._check_history(header)
            self._check_forwarded(deposit.header, header)
            body = Body(deposit.parts, upload.header_bytes, upload.proof)
            with self._observe("log"):
                total = self._cipher.load(body)
            self._strike(entry)
            self._ledger.enter(entry)
            self._pending.put(entry, upload, deposit.parts, total)
            self._ledger.accept(upload.digest)
            self._journal.accepted(upload.digest)
        receipt = Receipt(
            cfg=self.task.cfg,
            sender=self._secret.name,
            upload=upload.digest,
            version=self.version,
            chain=self._ledger.chain,
        )
        return seal(receipt, self._secret.signing)

    def approve(self, order: Envelope[ReleaseOrder]) -> Envelope[Release]:
        """Check a release list against the own ledger and sign it, once.

        An order for the newest version gets the release again that is signed for it,
        whatever the order lists: a DSP that never got that release may have accepted
        more uploads since, and must not be stuck.

        Raises:
            SignatureError: the order is not the DSP's.
            ReleaseError: the list breaks a rule.
            BehindError: this server goes on from an old copy.
        """
        order.verify(self.task.roster.data_service.signing_key)
        header = order.header
        if self._newest is not None and header.version == self.version:
            return self._newest
        self.check_current()
        proposal = self._ledger.check(header.version, header.uploads, header.expired)
        release = Release(
            cfg=self.task.cfg,
            sender=self._secret.name,
            version=header.version,
            uploads=proposal.listed_uploads(),
            expired=proposal.listed_expired(),
            commitment=header.commitment,
            previous=self._ledger.chain,
            chain=self._ledger.chain_after(proposal, header.commitment),
        )
        signed = seal(release, self._secret.signing)
        self._conclude(proposal, signed)
        return signed

    @property
    def verdicts(self) -> tuple[Envelope[Verdict], ...]:
        """Verdicts on releases about which somebody may still ask, oldest first."""
        return self._statements.verdicts()

    def declare(self, statement: Envelope[Statement]) -> Envelope[Verdict]:
        """Log what a participant states about a release; say where statements stand.

        Raises:
            SignatureError, TaskError: it is not from whom it says, or from a stranger.
            ReleaseError: there is no such release, or nobody asks about it any more.
            MessageError: what should be a digest is none.
        """
        header = statement.header
        statement.verify(self.task.roster.participant(header.sender).signing_key)
        release = self._stated(header)
        self._statements.add(statement)
        known = self._statements.verdict(header.version)
        if known is not None:
            return known
        opened = self._statements.opened(header.version)
        opened |= self._ledger.namers(header.version)
        rejected = self._statements.rejected(header.version) - opened
        colluders = self.task.config.assumed_colluders
        verdict = Verdict(
            cfg=self.task.cfg,
            sender=self._secret.name,
            version=header.version,
            chain=header.chain,
            contributors=tuple(sorted({item.name for item in release.uploads})),
            rejected=tuple(sorted(rejected)),
            opened=tuple(sorted(opened)),
            final=len(rejected) >= colluders + 2 and len(opened) <= colluders,
        )
        signed = seal(verdict, self._secret.signing)
        if verdict.final:
            self._statements.judge(signed)
        return signed

    def transform(
        self, request: Envelope[TransformRequest]
    ) -> Envelope[TransformReply]:
        """Run the second phase for one recipient.

        Raises:
            SignatureError: the request is not the DSP's.
            TaskError: the recipient is not a participant.
            TransformError: it names releases that were never signed.
            SnapshotNeededError: it names releases that are no longer kept.
            InvalidElementError, MessageError: its body is malformed.
        """
        request.verify(self.task.roster.data_service.signing_key)
        header = request.header
        self.task.roster.participant(header.recipient)
        if not 1 <= header.first <= header.last <= self.version:
            raise TransformError(
                f"releases {header.first}..{header.last} were never signed here; the "
                f"newest is {self.version}"
            )
        config = self.task.config
        merges = self._suite.merges_in(config.combine, config.n_buffers, config.clip)
        if header.first < header.last and not merges:
            raise TransformError(
                f"releases {header.first}..{header.last} were asked for as one sum, "
                f"but suite {self._suite.name!r} with combine={config.combine!r}, "
                f"{config.n_buffers} averaged buffer values and clip={config.clip} "
                "opens each release alone"
            )
        self._pending.forget(header.recipient, min(header.opened, header.first - 1))
        kept = [
            self._pending.releases.get(version)
            for version in range(header.first, header.last + 1)
        ]
        totals = [release.total for release in kept if release is not None]
        if len(totals) < len(kept):
            raise SnapshotNeededError(
                f"releases {header.first}..{header.last} are no longer kept; "
                f"{header.recipient!r} must start from a snapshot"
            )
        with self._observe("second_phase"):
            total = totals[0] if len(totals) == 1 else self._cipher.add(totals)
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
        return KeyTransformState(
            ledger=self._ledger.state(),
            uploads=self._pending.upload_states(),
            releases=self._pending.release_states(),
            fetched=dict(self._pending.fetched),
            evidence=self._evidence.encoded(),
            lists=dict(self._pending.lists),
            newest_release=None if self._newest is None else self._newest.encode(),
            statements=self._statements.encoded(),
            verdicts=tuple(verdict.encode() for verdict in self.verdicts),
        )

    def _stated(self, statement: Statement) -> Release:
        """Return the release that a statement is about."""
        version = statement.version
        kept = self._pending.releases.get(version)
        newest = self._newest.header if self._newest is not None else None
        if newest is not None and version == newest.version:
            release = newest
        elif kept is not None:
            release = self._release(kept.encoded).header
        else:
            raise ReleaseError(
                f"release {version} was never signed here, or is no longer kept; the "
                f"newest is {self.version}"
            )
        if statement.chain != release.chain:
            raise ReleaseError(
                f"what is stated of release {version} is about another list than the "
                "one that was signed here"
            )
        if len(statement.state_digest) not in (0, DIGEST_BYTES):
            raise MessageError(
                f"a digest has {DIGEST_BYTES} octets, not {len(statement.state_digest)}"
            )
        return release

    def _take_over(self, release: Envelope[Release]) -> None:
        self._conclude(self._checked(release.header), release)

    def _conclude(self, proposal: Proposal, signed: Envelope[Release]) -> None:
        """Consume what a signed list names, and keep the sum of it."""
        total = self._cipher.add(
            self._pending.totals(entry.digest for entry in proposal.uploads)
        )
        self._ledger.release(proposal, signed.header.commitment)
        self._newest = signed
        self._pending.release(proposal, signed, total)
        self._tidy_ledger()
        self._statements.forget({*self._pending.releases, self.version})

    def _check_forwarded(self, deposit: Deposit, upload: Upload) -> None:
        sizes = tuple(part.size for part in upload.parts)
        if sizes != self._sizes:
            raise MessageError(
                f"the parts of an upload have {self._sizes} octets in this task, these "
                f"have {sizes}"
            )
        expected = tuple(upload.parts[i] for i in self._suite.forwarded)
        if deposit.parts != expected:
            raise MessageError(
                "the parts of a deposit are not those that the upload's header lists"
            )

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
        upload.verify(self.task.roster.participant(header.sender).signing_key)
        return upload
