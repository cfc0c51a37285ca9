"""The KTS as a service: it hears from the DSP only, and believes none of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from starlette.applications import Starlette
from starlette.routing import Route

from hre_torch.errors import BehindError
from hre_torch.protocol.heads import Records
from hre_torch.protocol.messages import (
    Deposit,
    ReleaseOrder,
    SnapshotQuery,
    Statement,
    TransformRequest,
)
from hre_torch.protocol.roster import DATA_SERVICE, Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import (
    DIGEST_BYTES,
    MAX_HEADER_BYTES,
    Envelope,
    Header,
    decode,
)
from hre_torch.servers.key_transform import KeyTransformServer
from hre_torch.servers.logs import log_event
from hre_torch.servers.metrics import Metrics, Rejections
from hre_torch.servers.readiness import Readiness, Watch, admin_app
from hre_torch.servers.request_reader import (
    BODIES_PER_SENDER,
    Expected,
    RequestReader,
)
from hre_torch.servers.routes import SMALL, Responder
from hre_torch.servers.steps import Durable, Steps

__all__ = ["KeyTransformService"]

_DEPOSIT_HEADER: Final = 1 << 17
"""A deposit's header wraps the header and the proof of an upload, and besides this many
octets the digests of models in it."""

H = TypeVar("H", bound=Header)


class KeyTransformService:
    """A KTS behind HTTP.

    Args:
        task: the task.
        secret: the KTS's keys.
        open_role: makes the role from what the store holds.
        store: where its changes become durable.
        metrics: what may be measured; pass it to the role as its observer too.

    Attributes:
        app: what the DSP talks to.
        admin: what whoever runs the server looks at.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        open_role: Callable[[], KeyTransformServer],
        store: Durable,
        metrics: Metrics,
    ) -> None:
        self.task = task
        self._open_role = open_role
        self._metrics = metrics
        self._reopen()
        self._steps = Steps(store, self._reopen)
        self._max_bytes = SUITES.get(task.config.suite).max_message_bytes(task)
        self._store = store
        self._readiness = Readiness(metrics)
        self._responder = Responder(task, secret, metrics, self._readiness, link="dsp")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.admin = admin_app(self._readiness, metrics, lambda: self._loop)
        senders = {DATA_SERVICE: task.roster.data_service.signing_key}
        # The DSP sends for all participants.
        bodies = BODIES_PER_SENDER * len(task.roster.participants)
        self._reader = RequestReader(task.cfg, senders, bodies)
        # The DSP carries these, and their own signatures tell whose they are.
        self._carried = RequestReader(
            task.cfg, {card.name: card.signing_key for card in task.roster.participants}
        )
        self._rejections = Rejections(metrics)
        named = DIGEST_BYTES * (task.config.staleness_bound + 1)
        self.app = Starlette(
            routes=[
                self._route(
                    "/v1/deposits", Deposit, self._deposit, _DEPOSIT_HEADER + named
                ),
                self._route("/v1/orders", ReleaseOrder, self._approve),
                self._route("/v1/transforms", TransformRequest, self._transform),
                self._route(
                    "/v1/statements",
                    Statement,
                    self._declare,
                    SMALL,
                    reader=self._carried,
                ),
                self._route(
                    "/v1/heads",
                    SnapshotQuery,
                    self._show_head,
                    SMALL,
                    reader=self._carried,
                ),
                self._route("/v1/records", Records, self._compare),
                self._readiness.route(),
            ],
            lifespan=self._live,
        )

    def _route(
        self,
        path: str,
        kind: type[H],
        step: Callable[[Envelope[H]], Envelope[Header]],
        max_header: int = MAX_HEADER_BYTES,
        reader: RequestReader | None = None,
    ) -> Route:
        def work_now(message: bytes) -> bytes:
            envelope = decode(
                message, kind, cfg=self.task.cfg, max_bytes=self._max_bytes
            )
            return step(envelope).encode()

        async def work(message: bytes) -> bytes:
            try:
                return await self._steps.run(work_now, message)
            finally:
                self._tell()

        expected = Expected(kind, max_header, max_proof=0, max_body=self._max_bytes)
        return self._responder.route(path, reader or self._reader, expected, work)

    def _compare(self, records: Envelope[Records]) -> Envelope[Header]:
        self._role.compare(records)
        self._compared = True
        self._metrics.version.set(self._role.version)
        return self._role.records(records.header)  # type: ignore[return-value]

    def _check_compared(self) -> None:
        """Promise nothing before the DSP has said what it knows.

        Raises:
            BehindError: it has not, since this server's start.
        """
        if not self._compared:
            raise BehindError(
                "this server has just started, and has not compared its ledger with "
                "the data service provider's yet"
            )

    def _tell(self) -> None:
        """Tell whether this server goes on from an old copy."""
        self._readiness.report("behind", self._role.behind)
        self._metrics.behind.set(self._role.lag)

    def _deposit(self, deposit: Envelope[Deposit]) -> Envelope[Header]:
        self._check_compared()
        receipt = self._role.deposit(deposit)
        self._metrics.uploads.inc()
        return receipt  # type: ignore[return-value]

    def _approve(self, order: Envelope[ReleaseOrder]) -> Envelope[Header]:
        self._check_compared()
        release = self._role.approve(order)
        self._metrics.version.set(release.header.version)
        log_event(
            "release",
            version=release.header.version,
            uploads=len(release.header.uploads),
            expired=len(release.header.expired),
        )
        return release  # type: ignore[return-value]

    def _transform(self, request: Envelope[TransformRequest]) -> Envelope[Header]:
        return self._role.transform(request)  # type: ignore[return-value]

    def _declare(self, statement: Envelope[Statement]) -> Envelope[Header]:
        verdict = self._role.declare(statement)
        log_event(
            "statement",
            version=statement.header.version,
            participant=statement.header.sender,
            opened=statement.header.opened,
        )
        self._rejections.note(verdict.header)
        return verdict  # type: ignore[return-value]

    def _show_head(self, query: Envelope[SnapshotQuery]) -> Envelope[Header]:
        self._check_compared()
        self._role.check_current()
        return self._role.head(query.digest)  # type: ignore[return-value]

    def _reopen(self) -> None:
        self._role = self._open_role()
        self._compared = False

    async def _probe_disk(self) -> None:
        await asyncio.to_thread(self._store.probe, self._max_bytes)

    @asynccontextmanager
    async def _live(self, app: Starlette) -> AsyncIterator[None]:
        self._metrics.version.set(self._role.version)
        for verdict in self._role.verdicts:
            self._rejections.note(verdict.header)
        self._loop = asyncio.get_running_loop()
        self._tell()
        async with Watch(self._readiness, {"disk": self._probe_disk}):
            self._readiness.report("start")
            yield
        self._steps.close()
