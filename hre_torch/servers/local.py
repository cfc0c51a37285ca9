"""The embedded backend: DSP and KTS in this process, encoded bytes between everybody.

Nothing is passed by reference: every message is encoded, crosses a *link* as bytes and
is decoded on the other side, exactly as it would be over a network. A tap sees every
byte of every link.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from hre_torch.errors import HREError
from hre_torch.observer import Observer, silent
from hre_torch.participant.aggregator import Aggregator
from hre_torch.protocol.heads import LedgerHead
from hre_torch.protocol.messages import (
    Ack,
    Deposit,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    StatementReply,
    TransformReply,
    TransformRequest,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM, Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Header, decode, refuse
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.journal import DataServiceState, KeyTransformState
from hre_torch.servers.key_transform import KeyTransformServer

__all__ = ["LocalAggregator", "LocalServers", "LocalServersState", "Tap"]

Tap = Callable[[str, bytes], None]
"""Called with the link, such as `"dsp->kts"`, and the bytes that cross it."""

H = TypeVar("H", bound=Header)


class LocalServersState(msgspec.Struct):
    """Everything both servers need to go on after a restart, keys aside."""

    data_service: DataServiceState
    key_transform: KeyTransformState


class LocalServers:
    """A DSP and a KTS that talk to each other in bytes, inside this process.

    Args:
        task: the task.
        secrets: secrets by name; those of `"dsp"` and `"kts"` are used.
        workers: where block-wise arithmetic runs.
        observe: told of the servers' phases.
        state: where earlier servers of the same task stopped.
    """

    def __init__(
        self,
        task: Task,
        secrets: Mapping[str, Secret],
        *,
        workers: Workers | None = None,
        observe: Observer = silent,
        state: LocalServersState | None = None,
    ) -> None:
        workers = workers or Workers()
        self.task = task
        self._key = secrets[DATA_SERVICE].signing
        self._max_bytes = SUITES.get(task.config.suite).max_message_bytes(task)
        self._data_service = DataServiceProvider(
            task,
            secrets[DATA_SERVICE],
            workers,
            observe=observe,
            state=state.data_service if state else None,
        )
        self._key_transform = KeyTransformServer(
            task,
            secrets[KEY_TRANSFORM],
            workers,
            observe=observe,
            state=state.key_transform if state else None,
        )
        self._compare()
        self._lock = threading.RLock()
        # Participant to the thread in which it joined, and who pushes no more.
        self.joined: dict[str, int] = {}
        self.finished: set[str] = set()
        self.taps: list[Tap] = []
        self.on_release: list[Callable[[Release], None]] = []

    @property
    def version(self) -> int:
        """Number of releases so far."""
        return self._data_service.version

    def base_version(self, upload: bytes) -> int:
        """Return the version that an upload, named by its digest, builds on."""
        return self._data_service.base_version(upload)

    def submit(self, name: str, upload: bytes) -> bytes:
        """Carry an upload from participant `name`; return an `Ack` or a `Refusal`."""
        self._tapped(f"{name}->dsp", upload)
        with self._lock:
            try:
                reply = self._admit(upload).encode()
            except HREError as error:
                about = hashlib.sha256(upload).digest()
                reply = self._refusal(error, about)
            else:
                # Accepted is accepted: what goes wrong from here on is no refusal.
                self._release_if_due()
        self._tapped(f"dsp->{name}", reply)
        return reply

    def fetch(
        self, name: str, since: int, *, merge: bool, opened: int | None = None
    ) -> Iterator[bytes]:
        """Yield what participant `name` lacks: `Download` messages, or a `Refusal`.

        Args:
            name: who asks.
            since: see `Aggregator.fetch`.
            merge: see there.
            opened: see `Aggregator.opened`.
        """
        while True:
            with self._lock:
                try:
                    download: tuple[int | None, bytes] | None = self._next_download(
                        name, since, merge=merge, opened=opened
                    )
                except HREError as error:
                    download = (None, self._refusal(error))
            if download is None:
                return
            last, data = download
            self._tapped(f"dsp->{name}", data)
            yield data
            if last is None:
                return
            since = last

    def declare(self, name: str, statement: bytes) -> bytes:
        """Carry a statement of participant `name`; return the reply or a `Refusal`."""
        self._tapped(f"{name}->dsp", statement)
        with self._lock:
            try:
                reply = self._pass_on(statement).encode()
            except HREError as error:
                reply = self._refusal(error, hashlib.sha256(statement).digest())
        self._tapped(f"dsp->{name}", reply)
        return reply

    def conclude(self) -> None:
        """Have each server sign where it stands, and tell the other."""
        with self._lock:
            self._cross("dsp->kts", self._data_service.head(), LedgerHead)
            self._cross("kts->dsp", self._key_transform.head(), LedgerHead)

    def state(self) -> LocalServersState:
        """Return everything that a restart needs, keys aside."""
        with self._lock:
            return LocalServersState(
                self._data_service.state(), self._key_transform.state()
            )

    def _compare(self) -> None:
        """See that both servers go on from states of the same moment.

        Raises:
            BehindError: one is older, and cannot catch up with what the other has.
        """
        dsp, kts = self._data_service, self._key_transform
        said = dsp.records()
        while True:
            kts.compare(said)
            answer = kts.records(said.header)
            dsp.compare(answer)
            following = dsp.records(answer.header)
            if following.header == said.header:
                break
            said = following
        dsp.check_current()
        for deposit in dsp.lacking(answer):
            kts.deposit(deposit)
        kts.check_current()

    def _admit(self, data: bytes) -> Envelope[Ack]:
        upload = decode(data, Upload, cfg=self.task.cfg, max_bytes=self._max_bytes)
        deposit = self._cross("dsp->kts", self._data_service.admit(upload), Deposit)
        try:
            receipt = self._key_transform.deposit(deposit)
        except HREError as error:
            self._data_service.withdraw(upload.digest, error)
            raise
        return self._data_service.confirm(self._cross("kts->dsp", receipt, Receipt))

    def _pass_on(self, data: bytes) -> Envelope[StatementReply]:
        statement = decode(data, Statement, cfg=self.task.cfg, max_bytes=0)
        self._data_service.check_statement(statement)
        verdict = self._key_transform.declare(
            self._cross("dsp->kts", statement, Statement)
        )
        return self._data_service.pass_on(
            self._cross("kts->dsp", verdict, Verdict), statement.digest
        )

    def _release_if_due(self) -> None:
        order = self._data_service.propose()
        if order is None:
            return
        signed = self._key_transform.approve(
            self._cross("dsp->kts", order, ReleaseOrder)
        )
        release = self._cross("kts->dsp", signed, Release)
        self._data_service.record(release)
        for listener in self.on_release:
            listener(release.header)

    def _next_download(
        self, name: str, since: int, *, merge: bool, opened: int | None
    ) -> tuple[int, bytes] | None:
        wanted = self._data_service.next_range(name, since, merge=merge, opened=opened)
        if wanted is None:
            return None
        request = self._data_service.begin(name, *wanted)
        reply = self._key_transform.transform(
            self._cross("dsp->kts", request, TransformRequest)
        )
        download = self._data_service.finish(
            self._cross("kts->dsp", reply, TransformReply)
        )
        return wanted[1], download.encode()

    def _cross(self, link: str, envelope: Envelope[H], kind: type[H]) -> Envelope[H]:
        data = envelope.encode()
        self._tapped(link, data)
        return decode(data, kind, cfg=self.task.cfg, max_bytes=self._max_bytes)

    def _refusal(self, error: HREError, about: bytes = b"") -> bytes:
        return refuse(
            error, cfg=self.task.cfg, sender=DATA_SERVICE, key=self._key, about=about
        )

    def _tapped(self, link: str, data: bytes) -> None:
        for tap in self.taps:
            tap(link, data)


class LocalAggregator(Aggregator):
    """One participant's connection to servers in the same process.

    Args:
        name: the participant.
        servers: the embedded servers.
    """

    def __init__(self, name: str, *, servers: LocalServers) -> None:
        self._name = name
        self._servers = servers
        servers.joined[name] = threading.get_ident()

    def joined(self) -> int:
        """Return how many participants have a connection."""
        return len(self._servers.joined)

    def others_may_push(self) -> bool:
        """Return whether a participant in another thread has not finished."""
        self._servers.finished.add(self._name)
        here = threading.get_ident()
        return any(
            thread != here and name not in self._servers.finished
            for name, thread in self._servers.joined.items()
        )

    def submit(self, upload: bytes) -> bytes:
        """Hand the bytes of an upload to the DSP."""
        self._servers.joined[self._name] = threading.get_ident()
        return self._servers.submit(self._name, upload)

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        """Yield what is new for this participant."""
        return self._servers.fetch(self._name, since, merge=merge, opened=self.opened)

    def declare(self, statement: bytes) -> bytes:
        """Hand the bytes of a statement to the DSP."""
        return self._servers.declare(self._name, statement)

    def close(self) -> None:
        """Nothing to give back: the servers outlive their connections."""
