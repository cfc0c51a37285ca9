"""The DSP as a service: the only server that participants talk to."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import Route

from hre_torch.errors import (
    AggregatorError,
    BehindError,
    HREError,
    MessageError,
)
from hre_torch.protocol.heads import Records
from hre_torch.protocol.messages import (
    Ack,
    Deposit,
    Fetch,
    Receipt,
    Release,
    ReleaseOrder,
    Statement,
    Status,
    StatusRequest,
    TaskReply,
    TaskRequest,
    TransformReply,
    Upload,
    Verdict,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import DIGEST_BYTES, Envelope, decode, seal, signed_bytes
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.kts_client import KTSClient, Reconciler, UnreachableError
from hre_torch.servers.logs import log_event
from hre_torch.servers.metrics import Metrics, Rejections
from hre_torch.servers.readiness import Readiness, Watch, admin_app
from hre_torch.servers.relay import SnapshotRelay
from hre_torch.servers.request_reader import Expected, RequestReader
from hre_torch.servers.routes import SMALL, Responder, SignedQueries
from hre_torch.servers.steps import Durable, Steps

__all__ = ["DataServiceService"]

_RELEASE_PATIENCE: Final = 10.0
"""Seconds that a fetch waits for a release that is being signed."""


def _upload_digest(deposit: Deposit) -> bytes:
    """Return the digest of the upload that a deposit wraps."""
    signed = signed_bytes(deposit.upload_header, deposit.upload_proof)
    return hashlib.sha256(signed).digest()


class DataServiceService:
    """A DSP behind HTTP.

    Args:
        task: the task.
        secret: the DSP's keys.
        open_role: makes the role from what the store holds.
        store: where its changes become durable.
        kts_client: the connection to the KTS.
        metrics: what may be measured; pass it to the role as its observer too.
        published: what `/v1/task` shows to members: the signed roster file.

    Attributes:
        app: what participants talk to.
        admin: what whoever runs the server looks at.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        open_role: Callable[[], DataServiceProvider],
        store: Durable,
        kts_client: KTSClient,
        metrics: Metrics,
        *,
        published: bytes = b"",
    ) -> None:
        self.task = task
        self._secret = secret
        self._open_role = open_role
        self._reopen()
        self._store = store
        self._steps = Steps(store, self._reopen)
        self._kts = kts_client
        self._metrics = metrics
        self._readiness = Readiness(metrics)
        self._responder = Responder(
            task, secret, metrics, self._readiness, link="participants"
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self.admin = admin_app(self._readiness, metrics, lambda: self._loop)
        self._relay = SnapshotRelay(task, secret)
        self._rejections = Rejections(metrics)
        self._published = published
        self._order: Envelope[ReleaseOrder] | None = None
        self._backlog = True
        self._forwarding = False
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._suite = SUITES.get(task.config.suite)
        self._max_bytes = self._suite.max_message_bytes(task)
        self._reader = RequestReader(
            task.cfg, {card.name: card.signing_key for card in task.roster.participants}
        )
        self.app = Starlette(routes=self._routes(), lifespan=self._live)

    def _routes(self) -> list[Route]:
        sizes = self._suite.upload_sizes(self.task)

        def check_sizes(upload: Envelope[Upload]) -> None:
            announced = tuple(part.size for part in upload.header.parts)
            if announced != sizes:
                raise MessageError(
                    f"the parts of an upload have {sizes} octets in this task, these "
                    f"have {announced}"
                )

        proof = self._suite.proof_size(self.task)
        named = DIGEST_BYTES * (self.task.config.staleness_bound + 1)
        uploads = Expected(Upload, SMALL + named, proof, sum(sizes), check_sizes)
        queries = SignedQueries(self.task, self._responder, self._reader)
        return [
            self._responder.route("/v1/uploads", self._reader, uploads, self._upload),
            self._responder.route(
                "/v1/statements",
                self._reader,
                Expected(Statement, SMALL, 0, 0),
                self._declare,
            ),
            queries.route("/v1/fetch", Fetch, self._fetch),
            queries.route("/v1/status", StatusRequest, self._status),
            *self._relay.routes(self._responder, self._reader, queries, self._kts),
            queries.route("/v1/task", TaskRequest, self._show_task, any_task=True),
            self._readiness.route(),
        ]

    async def _upload(self, message: bytes) -> bytes:
        if self._backlog or self._forwarding:
            # What was begun before a restart comes first, so that lists of uploads
            # follow from the order in which these were acknowledged.
            await self._care.settled(_RELEASE_PATIENCE)
        try:
            admitted = await self._steps.run(self._admit, message)
            if admitted is None:
                await self._care.settled(_RELEASE_PATIENCE)
                admitted = await self._steps.run(self._admit, message)
        except BehindError:
            # Perhaps the KTS has what is lacking here.
            self._compared = False
            self._care.call()
            raise
        if admitted is None:
            raise UnreachableError(
                "the upload voids one that waits for a release to be signed, and the "
                "key transform server does not answer; send the upload again"
            )
        upload, deposit, ack = admitted
        if ack is None:
            try:
                ack = await self._deposit(upload.digest, deposit)
            except (UnreachableError, BehindError):
                self._backlog, self._compared = True, False
                self._care.call()
                raise
            self._metrics.uploads.inc()
        self._relay.witness(upload)
        if self._order is not None or self._backlog:
            self._care.call()
        return ack.encode()

    async def _deposit(self, upload: bytes, deposit: bytes) -> Envelope[Ack]:
        """Have the KTS log an upload; if it refuses, the upload is dropped here too.

        Unless another copy of the same message was taken meanwhile.
        """
        try:
            receipt = await self._kts.ask("/v1/deposits", deposit, Receipt)
            return await self._steps.run(self._confirm, receipt)
        except AggregatorError:
            raise
        except HREError as error:
            ack = await self._steps.run(self._withdraw, upload, error)
            if self._order is not None:
                self._care.call()
            if ack is None:
                raise
            return ack

    def _withdraw(self, upload: bytes, error: HREError) -> Envelope[Ack] | None:
        ack = self._role.withdraw(upload, error)
        # What it would have voided may be due again.
        self._propose()
        return ack

    def _admit(
        self, message: bytes
    ) -> tuple[Envelope[Upload], bytes, Envelope[Ack] | None] | None:
        """Take an upload in; None if a list has to be signed first that it would void.

        Whether the KTS signs that list or drops what is in it must not depend on which
        of two messages is faster: the list could never be signed again.
        """
        upload = decode(message, Upload, cfg=self.task.cfg, max_bytes=self._max_bytes)
        known = self._role.acknowledge(upload.digest)
        if known is not None:
            return upload, b"", known
        order = self._order
        if order is not None and self._role.holds_up(upload.header, order.header):
            return None
        deposit = self._role.admit(upload).encode()
        self._count_pending(upload.header.sender)
        return upload, deposit, None

    def _confirm(self, receipt: Envelope[Receipt]) -> Envelope[Ack]:
        ack = self._role.confirm(receipt)
        self._propose()
        return ack

    def _propose(self) -> None:
        """Fix the next release now, so that its list follows from the order of uploads.

        Nothing is proposed while a list waits for its signature.
        """
        if self._order is None:
            self._order = self._role.propose()

    async def _finish_with_kts(self) -> None:
        """Finish whatever was begun.

        Raises:
            HREError: something is left to do.
        """
        try:
            if not self._compared:
                await self._compare()
            await self._forward_and_release()
        except HREError:
            # Whatever the KTS was in the meantime, it may come back with an old store.
            self._compared = False
            raise
        finally:
            self._tell()

    async def _forward_and_release(self) -> None:
        if self._backlog:
            self._backlog, self._forwarding = False, True
            try:
                await self._forward_pending()
            except HREError:
                self._backlog = True
                raise
            finally:
                self._forwarding = False
        while self._order is not None:
            release = await self._kts.ask("/v1/orders", self._order.encode(), Release)
            await self._steps.run(self._record, release)

    async def _compare(self) -> None:
        """Compare ledgers with the KTS; each takes over what the other has signed.

        Raises:
            BehindError: this server or the KTS goes on from an old copy.
        """
        said = await self._steps.run(self._role.records)
        while True:
            answer = await self._kts.ask("/v1/records", said.encode(), Records)
            following = await self._steps.run(self._heed, answer)
            if following.header == said.header:
                break
            said = following
        await self._steps.run(self._role.check_current)
        if answer.header.chain != self._role.chain:
            raise BehindError(
                "the key transform server was restored from an older copy: it is at "
                f"release {answer.header.version}, this server at {self._role.version}"
            )
        for deposit in await self._steps.run(self._role.lacking, answer):
            await self._deposit(_upload_digest(deposit.header), deposit.encode())
        self._compared = True

    def _heed(self, answer: Envelope[Records]) -> Envelope[Records]:
        """Take over what the KTS has; return what this server has after that."""
        version = self._role.version
        self._role.compare(answer)
        if self._role.version != version:
            self._order = None
            self._count_pending(*self.task.roster.names)
        return self._role.records(answer.header)

    def _tell(self) -> None:
        """Tell whether this server goes on from an old copy."""
        self._readiness.report("behind", self._role.behind)
        self._metrics.behind.set(self._role.lag)

    async def _forward_pending(self) -> None:
        await self._steps.run(self._propose)
        for upload, deposit in await self._steps.run(self._unconfirmed):
            try:
                await self._deposit(upload, deposit)
            except AggregatorError:
                raise
            except HREError as error:
                log_event("withdrawn", upload=upload.hex()[:16], message=str(error))

    def _unconfirmed(self) -> list[tuple[bytes, bytes]]:
        """Return digests of uploads that the KTS has not confirmed, and deposits."""
        return [
            (_upload_digest(it.header), it.encode()) for it in self._role.unconfirmed()
        ]

    def _record(self, release: Envelope[Release]) -> None:
        self._role.record(release)
        self._order = None
        # What was accepted meanwhile may be due already, and no other upload may come.
        self._propose()
        header = release.header
        log_event(
            "release",
            version=header.version,
            uploads=len(header.uploads),
            expired=len(header.expired),
        )
        self._count_pending(*self.task.roster.names)

    async def _fetch(
        self, message: bytes, request: Envelope[Fetch]
    ) -> Envelope[Any] | None:
        await self._care.settled(_RELEASE_PATIENCE)
        name = request.header.sender
        async with self._fetching[name]:
            transform = await self._steps.run(self._begin, request.header)
            if transform is None:
                return None
            try:
                reply = await self._kts.ask("/v1/transforms", transform, TransformReply)
            except UnreachableError:
                self._care.call()  # Who else would find out that the KTS is back?
                raise
            return await self._steps.run(self._finish, reply)

    def _begin(self, fetch: Fetch) -> bytes | None:
        name = fetch.sender
        wanted = self._role.next_range(
            name, fetch.since, merge=fetch.merge, opened=fetch.opened
        )
        return None if wanted is None else self._role.begin(name, *wanted).encode()

    def _finish(self, reply: Envelope[TransformReply]) -> Envelope[Any]:
        return self._role.finish(reply)

    async def _declare(self, message: bytes) -> bytes:
        """Have the KTS log what a participant states of a release."""
        statement = decode(message, Statement, cfg=self.task.cfg, max_bytes=0)
        await self._steps.run(self._role.check_statement, statement)
        try:
            verdict = await self._kts.ask("/v1/statements", message, Verdict)
        except UnreachableError:
            self._care.call()
            raise
        reply = await self._steps.run(self._role.pass_on, verdict, statement.digest)
        self._rejections.note(verdict.header)
        return reply.encode()

    async def _status(
        self, message: bytes, request: Envelope[StatusRequest]
    ) -> Envelope[Any]:
        await self._care.settled(_RELEASE_PATIENCE)
        name = request.header.sender
        # Who was killed and is back must hear of what it sent last, and may not do it
        # again; whatever its machine still sends is read first.
        await self._reader.quiet(name, _RELEASE_PATIENCE)
        standing = await self._steps.run(lambda: self._role.standing(name))
        status = Status(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=name,
            moment=request.header.moment,
            version=standing.version,
            oldest=standing.oldest,
            next_sequence=standing.next_sequence,
        )
        return seal(status, self._secret.signing)

    async def _show_task(
        self, message: bytes, request: Envelope[TaskRequest]
    ) -> Envelope[Any]:
        reply = TaskReply(
            cfg=self.task.cfg,
            sender=self._secret.name,
            recipient=request.header.sender,
            moment=request.header.moment,
        )
        parts = (self._published,) if self._published else ()
        return seal(reply, self._secret.signing, parts)

    def _count_pending(self, *names: str) -> None:
        self._metrics.version.set(self._role.version)
        for name in names:
            pending = self._role.standing(name).pending
            self._metrics.pending.labels(name).set(pending)

    def _reopen(self) -> None:
        self._role = self._open_role()
        self._order = None
        self._backlog = True
        self._compared = False

    async def _probe_disk(self) -> None:
        await asyncio.to_thread(self._store.probe, self._max_bytes)

    @asynccontextmanager
    async def _live(self, app: Starlette) -> AsyncIterator[None]:
        await self._steps.run(self._count_pending, *self.task.roster.names)
        self._loop = asyncio.get_running_loop()
        self._care = Reconciler(
            self._finish_with_kts, partial(self._readiness.report, "reconciler")
        )
        self._care.start()
        probes = {"disk": self._probe_disk, "kts": self._kts.reach}
        async with Watch(self._readiness, probes):
            self._readiness.report("start")
            yield
        await self._care.stop()
        await self._kts.close()
        self._steps.close()
