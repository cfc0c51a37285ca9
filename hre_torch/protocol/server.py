"""What both servers have in common: a task, a ledger, a shelf, a box of evidence."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from hre_torch.observer import Observer, silent
from hre_torch.protocol.ciphers import DataServiceCipher, KeyTransformCipher
from hre_torch.protocol.envelope import Envelope, decode
from hre_torch.protocol.evidence import Evidence, EvidenceBox
from hre_torch.protocol.journal import Journal
from hre_torch.protocol.ledger import Ledger
from hre_torch.protocol.messages import Release, Upload
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.shelf import Shelf
from hre_torch.protocol.states import ServerState
from hre_torch.protocol.suite import Suite
from hre_torch.protocol.task import Task

__all__ = ["Server"]

Cipher = TypeVar("Cipher", DataServiceCipher[Any], KeyTransformCipher[Any])


class Server(Generic[Cipher]):
    """A server of one task; every change of its state is told to a journal.

    Args:
        task: the task.
        secret: this server's keys.
        suite: the task's suite, which has checked the task.
        cipher: this server's half of the suite.
        observe: told of the phases of its arithmetic.
        state: where an earlier server of the same task stopped.
        journal: told of every change of the state.
        keep: how many of the newest releases can still be fetched by whoever has not;
            None keeps all until everybody has them.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        suite: Suite,
        cipher: Cipher,
        *,
        observe: Observer = silent,
        state: ServerState | None = None,
        journal: Journal | None = None,
        keep: int | None = None,
    ) -> None:
        self.task = task
        self._secret = secret
        self._suite = suite
        self._cipher: Cipher = cipher
        self._observe = observe
        self._journal = journal or Journal()
        self._ledger = Ledger(
            task.config, task.roster.names, state.ledger if state else None
        )
        self._shelf = Shelf(task.roster.names, cipher, self._journal, state, keep)
        self._evidence = EvidenceBox(self._journal, state.evidence if state else ())

    @property
    def version(self) -> int:
        """Number of releases so far."""
        return self._ledger.version

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proof of contradictions that this server has come across."""
        return self._evidence.all()

    def _compare_with_earlier(self, upload: Envelope[Upload]) -> None:
        """Keep evidence if its sender has signed another one of the same number."""
        header = upload.header
        earlier = self._ledger.named(header.sender, header.sequence)
        self._evidence.compare(self._shelf.signed(earlier), upload)

    def _release(self, encoded: bytes) -> Envelope[Release]:
        """Return a signed release from the form in which it is kept."""
        return decode(encoded, Release, cfg=self.task.cfg, max_bytes=0)
