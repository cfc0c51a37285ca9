"""What both servers have in common: task, ledger, pending uploads, evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from hre_torch.errors import (
    BehindError,
    ReleaseError,
    SpentUpdateError,
    StaleUploadError,
)
from hre_torch.observer import Observer, silent
from hre_torch.protocol.entries import Entry, Proposal
from hre_torch.protocol.evidence import Evidence, EvidenceBox
from hre_torch.protocol.heads import Count, Horizon, LedgerHead, Records
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.roster import KeyCard, Secret
from hre_torch.protocol.suite import DataServiceCipher, KeyTransformCipher
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import MAX_HEADER_BYTES, Envelope, decode, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.journal import Journal, ServerState
from hre_torch.servers.pending_store import PendingStore
from hre_torch.servers.statements import Statements

__all__ = ["Server", "ServerOptions"]

Cipher = TypeVar("Cipher", DataServiceCipher[Any], KeyTransformCipher[Any])


class ServerOptions(TypedDict, total=False):
    """What a server is told besides task and keys.

    Attributes:
        observe: told of the phases of its arithmetic.
        journal: told of every change of its state.
        keep: how many of the newest releases can still be fetched by whoever has not;
            without it all are kept until everybody has them.
    """

    observe: Observer
    journal: Journal
    keep: int


class Server(ABC, Generic[Cipher]):
    """A server of one task; every change of its state is told to a journal.

    Args:
        task: the task.
        secret: this server's keys.
        workers: where block-wise arithmetic runs.
        state: where an earlier server of the same task stopped.
        options: see `ServerOptions`.

    Raises:
        TaskError: the suite cannot serve the task, or the keys are not those of a
            card of its roster.
    """

    _statements: Statements

    def __init__(
        self,
        task: Task,
        secret: Secret,
        workers: Workers,
        *,
        state: ServerState | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        task.roster.require_keys(secret)
        self.task = task
        self._secret = secret
        self._suite = SUITES.get(task.config.suite)
        self._suite.check(task)
        self._cipher: Cipher = self._half_of_suite(workers)
        self._observe = options.get("observe", silent)
        self._journal = options.get("journal") or Journal()
        self._ledger = Ledger(
            task.config, task.roster.names, state.ledger if state else None
        )
        self._pending = PendingStore(
            task.roster.names,
            self._cipher,
            self._journal,
            state,
            settled=self._ledger.settled()[0],
            keep=options.get("keep"),
        )
        self._evidence = EvidenceBox(
            lambda found: self._journal.witnessed(found),
            state.evidence if state else (),
        )
        # One participant alone never stops a server, however few a task assumes to lie.
        enough = max(task.config.assumed_colluders + 1, 2)
        self._horizon = Horizon(self._ledger, f"the {self._other.name}", enough)

    @abstractmethod
    def _half_of_suite(self, workers: Workers) -> Cipher:
        """Return this server's half of the task's suite."""

    @property
    @abstractmethod
    def _other(self) -> KeyCard:
        """The other server's key card."""

    @property
    def version(self) -> int:
        """Number of releases so far."""
        return self._ledger.version

    def settled(self) -> tuple[int, bytes]:
        """Return the newest version whose model c + 1 identities name, and the digest.

        At the start that is version 0. See `CommonModels`. Statements count as well,
        which settle the last version of a task, upon which nobody uploads.
        """
        return self._statements.settled(self._ledger)

    def head(self, request: bytes = b"") -> Envelope[LedgerHead]:
        """Return where the ledger stands, signed.

        Args:
            request: digest of what this answers, if anything.
        """
        ledger = self._ledger
        settled_version, settled_digest = self.settled()
        head = LedgerHead(
            cfg=self.task.cfg,
            sender=self._secret.name,
            version=ledger.version,
            chain=ledger.chain,
            counts=tuple(
                Count(name, ledger.next_sequence(name), ledger.waiting(name))
                for name in self.task.roster.names
            ),
            settled_version=settled_version,
            settled_digest=settled_digest,
            settled_chain=ledger.chain_at(settled_version) or b"",
            request=request,
        )
        return seal(head, self._secret.signing)

    @property
    def chain(self) -> bytes:
        """Hash chain over the releases so far."""
        return self._ledger.chain

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proof of contradictions that this server has come across."""
        return self._evidence.all()

    @property
    def behind(self) -> str:
        """Why this server acknowledges nothing, in words; empty while it is current."""
        return self._horizon.reason()

    @property
    def lag(self) -> int:
        """How many releases, or else uploads, others have that this server lacks."""
        return self._horizon.lag or len(self._horizon.missing)

    def records(self, heard: Records | None = None) -> Envelope[Records]:
        """Return what this server has of the task's history, for the other one.

        Args:
            heard: what the other one has, if it has said so.
        """
        records = Records(
            cfg=self.task.cfg,
            sender=self._secret.name,
            version=self.version,
            chain=self._ledger.chain,
            releases=() if heard is None else self._lists_beside(heard),
            accepted=self._ledger.accepted(),
        )
        return seal(records, self._secret.signing)

    def compare(self, records: Envelope[Records]) -> None:
        """Compare the own ledger with the other server's, and catch up if possible.

        Lists that the KTS has signed are taken over where this server has the uploads
        that they name. What then is still lacking is told by `behind`.

        Raises:
            SignatureError: the records are not the other server's.
            EquivocationError: the KTS has signed two lists for one version.
            ReleaseError: a list breaks a rule, or continues another history.
        """
        records.verify(self._other.signing_key)
        header = records.header
        self._horizon.compare(header.version, header.chain)
        for encoded in header.releases:
            if not self._catch_up(self._release(encoded)):
                break
        if header.version == self.version:
            self._horizon.expect(
                frozenset(d for d in header.accepted if not self._ledger.find(d))
            )

    def _compare_with_earlier(self, upload: Envelope[Upload]) -> None:
        """Keep evidence if its sender has signed another one of the same number."""
        header = upload.header
        earlier = self._ledger.named(header.sender, header.sequence)
        self._evidence.compare(self._pending.signed(earlier), upload)

    def _check_entry(self, entry: Entry) -> None:
        """Check whether the ledger lets an upload in: see `Ledger.check_entry`."""
        try:
            self._ledger.check_entry(entry)
        except SpentUpdateError as error:
            error.release = self._pending.lists.get(error.listed, b"")
            raise

    def _strike(self, entry: Entry) -> None:
        """Drop what an upload voids, now that both servers have that upload."""
        for struck in self._ledger.strike(entry):
            self._pending.drop(struck.digest)

    def check_current(self, upload: bytes | None = None) -> None:
        """Refuse a step that a server must not make that goes on from an old copy.

        Args:
            upload: the one that it is about; one that is lacking here is welcome.

        Raises:
            BehindError: others have signed what this server does not hold.
        """
        missing = self._horizon.missing
        welcome = upload is not None and (
            upload in missing or self._ledger.find(upload) is not None
        )
        if self._horizon.lag or (missing and not welcome):
            raise BehindError(
                f"the {self._secret.name} acknowledges nothing: {self.behind}. If it "
                "does not catch up by itself, start a new task from the last released "
                "weights (`hre-torch roster sign --start`); never restore a server's "
                "folder from a copy"
            )

    def _hear(self, upload: Upload) -> None:
        """Take note of the history that an upload's sender knows, if it is not ours.

        A single sender may lie. Where more agree than may lie, this server is behind.

        Raises:
            BehindError: it is.
        """
        if self._is_foreign(upload):
            self._horizon.claim(upload.sender, upload.base_version, upload.chain)
            self.check_current()

    def _check_history(self, upload: Upload) -> None:
        """Refuse an upload that is based on another history than this server's.

        Raises:
            StaleUploadError: it is.
        """
        if self._is_foreign(upload):
            raise StaleUploadError(
                f"the upload is based on another release {upload.base_version} than "
                "this server has: its sender, or this server, goes on from an old copy"
            )

    def _is_foreign(self, upload: Upload) -> bool:
        known = self._ledger.chain_at(upload.base_version)
        # Too old, where the chain is not known any more, is for the ledger to say.
        newer = upload.base_version > self.version
        return newer if known is None else known != upload.chain

    def _catch_up(self, release: Envelope[Release]) -> bool:
        """Take a signed list over if this server can; return whether it has it now."""
        release.verify(self.task.roster.key_transform.signing_key)
        header: Release = release.header
        if header.version <= self.version:
            self._evidence.compare(self._recorded(header.version), release)
            return True
        named = (*header.uploads, *header.expired)
        if not all(self._ledger.find(item.digest) for item in named):
            return False
        self._take_over(release)
        return True

    @abstractmethod
    def _take_over(self, release: Envelope[Release]) -> None:
        """Consume what a signed list names, which follows the newest one here."""

    def _checked(self, header: Release) -> Proposal:
        """Return what a list names, once it is sure that it follows the newest one."""
        proposal = self._ledger.check(
            header.version,
            [item.digest for item in header.uploads],
            [item.digest for item in header.expired],
        )
        if header.previous != self._ledger.chain:
            raise ReleaseError(
                f"release {header.version} continues another history than this server's"
            )
        uploads, expired = proposal.listed_uploads(), proposal.listed_expired()
        chain = self._ledger.chain_after(proposal, header.commitment)
        if (header.uploads, header.expired, header.chain) != (uploads, expired, chain):
            raise ReleaseError(
                f"the hash chain of release {header.version} does not recompute: it "
                "names uploads otherwise than this server knows them"
            )
        return proposal

    def _recorded(self, version: int) -> Envelope[Release] | None:
        encoded = self._pending.list_of(version)
        return None if encoded is None else self._release(encoded)

    def _lists_beside(self, heard: Records) -> tuple[bytes, ...]:
        """Return signed lists that the other server lacks, as far as they are kept.

        They are the next ones for it, as many as a message holds. If it has another
        list for its newest version, this server's is among them.
        """
        known = self._ledger.chain_at(heard.version)
        version = heard.version + (known in (None, heard.chain))
        lists: list[bytes] = []
        octets = 0
        while (encoded := self._pending.list_of(version)) is not None:
            octets += len(encoded)
            if octets > MAX_HEADER_BYTES // 2:
                break
            lists.append(encoded)
            version += 1
        return tuple(lists)

    def _tidy_ledger(self) -> None:
        """Let go of what nobody will ask about any more, after a release."""
        forgotten = self._ledger.forget(self._pending.fetched)
        if forgotten:
            self._journal.outlived(forgotten)
        for version in {entry.version for entry in forgotten}:
            if not self._ledger.names(version):
                self._pending.lists.pop(version, None)
        self._journal.named(*self._ledger.changed_models())
        self._pending.settle(self._ledger.settled()[0])

    def _release(self, encoded: bytes) -> Envelope[Release]:
        """Return a signed release from the form in which it is kept."""
        return decode(encoded, Release, cfg=self.task.cfg, max_bytes=0)
