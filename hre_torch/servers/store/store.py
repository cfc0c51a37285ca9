"""The store of one server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from hre_torch.durable_files import sync_folder
from hre_torch.errors import HREError, StoreError
from hre_torch.observer import Observer, silent
from hre_torch.protocol.entries import Entry
from hre_torch.protocol.roster import DATA_SERVICE
from hre_torch.protocol.task import Task
from hre_torch.servers.journal import DataServiceState, Journal, KeyTransformState
from hre_torch.servers.store.blobs import BlobStore, BodyFiles
from hre_torch.servers.store.contents import Contents, read_contents, told_as_lost
from hre_torch.servers.store.disk import NEW_TASK, disk_errors, probe_room
from hre_torch.servers.store.recorder import Recorder
from hre_torch.servers.store.rows import Rows, has_lost_log
from hre_torch.servers.store.witness import Witness, contradiction, unwitnessed

__all__ = ["BODIES", "DATABASE", "WITNESS", "Store"]

_LOGGER: Final = logging.getLogger("hre_torch")
DATABASE: Final = "ledger.sqlite"
BODIES: Final = "bodies"
WITNESS: Final = "witness"


class Store:
    """One server's durable state; safe to use from several threads.

    Made by `Store.open`. Give `journal` to the role, and run every step of the role
    that is not a mere question inside `transaction`.

    Args:
        folder: where everything lies.
        task: the task.
        role: `"dsp"` or `"kts"`.
        observe: told of the phase `commit`.
    """

    def __init__(
        self, folder: Path, task: Task, role: str, *, observe: Observer = silent
    ) -> None:
        self._folder = folder
        self._cfg = task.cfg
        self._signer = task.roster.key_transform.signing_key
        self._role = role
        self._observe = observe
        self._lock = threading.RLock()
        self._depth = 0
        self._ready = False
        self._failed = False
        self._closed = False
        with disk_errors(folder):
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._files = BodyFiles(folder / BODIES)
            self._witness = Witness(folder / WITNESS)
            try:
                self._connect()
            except BaseException:
                self._witness.close()
                raise

    @classmethod
    def open(
        cls,
        folder: Path,
        task: Task,
        role: Literal["dsp", "kts"],
        *,
        observe: Observer = silent,
    ) -> Store:
        """Open or make the store in a folder; nobody else may have it open.

        Args:
            folder: a folder on a local disk, made if it is not there.
            task: the task; a store belongs to one.
            role: whose state it is.
            observe: told of the phase `commit`.

        Raises:
            StoreError: the folder is of another task or role, is in use, is damaged, or
                cannot be written.
        """
        return cls(folder, task, role, observe=observe)

    @property
    def journal(self) -> Journal:
        """What the role is told to tell."""
        return self._recorder

    def load(self) -> DataServiceState | KeyTransformState | None:
        """Read everything back, check it, and return the state to start the role from.

        A pending upload whose body is damaged is dropped. A damaged sum comes back as
        the uploads it has to be computed from again; the role does so, and tells its
        journal.

        Returns:
            None if nothing was ever kept.

        Raises:
            StoreError: something is damaged; says what, and what to do.
        """
        with self._lock, disk_errors(self._folder):
            self._ready = False
            if self._failed:
                self._rows.close()
                self._connect()
            # A new role starts from the disk; what could wait, it will say again.
            self._recorder.clear()
            contents = read_contents(self._rows, self._blobs, self._signer)
            self._check(contents)
            self._blobs.sweep_orphans()
            self._witness.write(contents.step, self._rows.tally)
            self._witness.settle()
            self._rows.mark()
            self._ready, self._failed = True, False
            self._drop(contents.lost)
        return _state(contents)

    def _drop(self, lost: list[Entry]) -> None:
        """Drop pending uploads whose bodies are damaged, and log that."""
        for entry in lost:
            _LOGGER.warning("the store in %s: %s", self._folder, told_as_lost(entry))
            self._recorder.lost(entry)
        if lost:
            self._write()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make durable, in one piece, what the journal is told inside.

        A step that ends in a refusal, any `HREError`, has told its journal the truth
        and is made durable before the error goes on. After any other exception nobody
        knows how far the step came: nothing of it is kept, and `load` must be called.

        One thread at a time; inside another transaction this one does nothing.

        Raises:
            StoreError: the disk failed; no answer may leave.
        """
        with self._lock:
            if self._depth == 0:
                self._check_usable()
            self._depth += 1
            self._recorder.listening = True
            try:
                yield
            except BaseException as error:
                if isinstance(error, StoreError) or not isinstance(error, HREError):
                    self._fail()
                self._commit()
                raise
            else:
                self._commit()
            finally:
                self._depth -= 1
                self._recorder.listening = self._depth > 0

    def probe(self, octets: int) -> None:
        """See whether so many octets more could be kept; may be called in any thread.

        Raises:
            StoreError: they could not, or the disk takes nothing at all.
        """
        with disk_errors(self._folder):
            probe_room(self._folder, octets)

    def close(self) -> None:
        """Write what had time, and close; closing twice is no mistake."""
        with self._lock:
            if self._closed:
                return
            try:
                if self._ready and self._recorder.waiting:
                    self._write()
                if self._ready:
                    with disk_errors(self._folder):
                        self._rows.unmark()
            finally:
                self._closed = True
                self._rows.close()
                self._witness.close()

    def _connect(self) -> None:
        """Open the database, and make its tables if it is new."""
        path = self._folder / DATABASE
        # SQLite gives its other files the mode of this one.
        path.touch(mode=0o600)
        complaint = unwitnessed(self._witness.read(), log_lost=has_lost_log(path))
        self._refuse([complaint] if complaint else [])
        self._rows = Rows(path)
        self._blobs = BlobStore(self._rows, self._files)
        self._recorder = Recorder(self._rows, self._blobs, self.transaction)
        try:
            if self._rows.is_new():
                complaint = contradiction(self._witness.read(), 0, b"")
                self._refuse([complaint] if complaint else [])
                self._rows.create(self._cfg, self._role)
                self._witness.write(0, self._rows.tally)
                sync_folder(self._folder)
                sync_folder(self._folder.resolve().parent)
        except BaseException:
            self._rows.close()
            raise

    def _check(self, contents: Contents) -> None:
        """Refuse contents that are damaged, foreign, or not the newest."""
        self._refuse(contents.findings)
        if (contents.cfg, contents.role) != (self._cfg, self._role):
            raise StoreError(
                f"the store in {self._folder} is that of the {contents.role} of task "
                f"{contents.cfg.hex()[:16]}, this is the {self._role} of task "
                f"{self._cfg.hex()[:16]}; give every task and role its own folder"
            )
        complaint = contradiction(self._witness.read(), contents.step, self._rows.tally)
        self._refuse([complaint] if complaint else [])

    def _refuse(self, findings: list[str]) -> None:
        if findings:
            raise StoreError(
                f"the store in {self._folder} is damaged: {'; '.join(findings)}. If "
                "the newest files still exist somewhere, bring them back together; "
                f"otherwise {NEW_TASK}"
            )

    def _commit(self) -> None:
        """Write what the outermost step said, if an answer depends on any of it."""
        if self._depth == 1 and self._ready and self._recorder.urgent:
            self._write()

    def _write(self) -> None:
        """Make everything said so far durable."""
        try:
            with self._observe("commit"), disk_errors(self._folder):
                self._rows.begin()
                self._recorder.write()
                step = self._rows.advance()
                self._rows.commit()
                self._witness.write(step, self._rows.tally)
                self._recorder.clear()
                self._blobs.sweep()
                self._rows.shrink()
        except BaseException:
            self._fail()
            self._rows.abandon()
            raise

    def _fail(self) -> None:
        """Refuse everything from now on: memory may know what the disk does not."""
        self._ready, self._failed = False, True
        self._recorder.clear()

    def _check_usable(self) -> None:
        if self._closed or not self._ready:
            state = "has failed" if self._failed else "was not loaded"
            raise StoreError(
                f"the store in {self._folder} {'is closed' if self._closed else state}"
                ": make a new role from what `load` returns, since only that one is "
                "sure to know just what the disk knows"
            )


def _state(contents: Contents) -> DataServiceState | KeyTransformState | None:
    if contents.step == 0:
        return None
    common = (
        contents.ledger,
        contents.uploads,
        contents.releases,
        contents.fetched,
        tuple(contents.evidence),
        contents.lists,
    )
    if contents.role == DATA_SERVICE:
        return DataServiceState(*common)
    return KeyTransformState(
        *common,
        newest_release=contents.newest_release,
        statements=tuple(contents.statements),
        verdicts=tuple(contents.verdicts),
    )
