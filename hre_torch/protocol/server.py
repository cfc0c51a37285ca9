"""What both servers have in common: a task, a ledger, a shelf, a box of evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from hre_torch.errors import SpentUpdateError
from hre_torch.observer import Observer, silent
from hre_torch.protocol.ciphers import DataServiceCipher, KeyTransformCipher
from hre_torch.protocol.entries import Entry
from hre_torch.protocol.envelope import Envelope, decode, seal
from hre_torch.protocol.evidence import Evidence, EvidenceBox
from hre_torch.protocol.heads import Count, LedgerHead
from hre_torch.protocol.journal import Journal
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.shelf import Shelf
from hre_torch.protocol.statements import Statements
from hre_torch.protocol.states import ServerState
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.workers import Workers

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
        self._shelf = Shelf(
            task.roster.names, self._cipher, self._journal, state, options.get("keep")
        )
        self._evidence = EvidenceBox(self._journal, state.evidence if state else ())

    @abstractmethod
    def _half_of_suite(self, workers: Workers) -> Cipher:
        """Return this server's half of the task's suite."""

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

    def head(self) -> Envelope[LedgerHead]:
        """Return where the ledger stands, signed."""
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
        )
        return seal(head, self._secret.signing)

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proof of contradictions that this server has come across."""
        return self._evidence.all()

    def _compare_with_earlier(self, upload: Envelope[Upload]) -> None:
        """Keep evidence if its sender has signed another one of the same number."""
        header = upload.header
        earlier = self._ledger.named(header.sender, header.sequence)
        self._evidence.compare(self._shelf.signed(earlier), upload)

    def _check_entry(self, entry: Entry) -> None:
        """Check whether the ledger lets an upload in: see `Ledger.check_entry`."""
        try:
            self._ledger.check_entry(entry)
        except SpentUpdateError as error:
            error.release = self._shelf.lists.get(error.listed, b"")
            raise

    def _strike(self, entry: Entry) -> None:
        """Drop what an upload voids, now that both servers have that upload."""
        for struck in self._ledger.strike(entry):
            self._shelf.drop(struck.digest)

    def _tidy_ledger(self) -> None:
        """Let go of what nobody will ask about any more, after a release."""
        forgotten = self._ledger.forget(self._shelf.fetched)
        if forgotten:
            self._journal.outlived(forgotten)
        for version in {entry.version for entry in forgotten}:
            if not self._ledger.names(version):
                self._shelf.lists.pop(version, None)
        self._journal.named(*self._ledger.changed_models())

    def _release(self, encoded: bytes) -> Envelope[Release]:
        """Return a signed release from the form in which it is kept."""
        return decode(encoded, Release, cfg=self.task.cfg, max_bytes=0)
