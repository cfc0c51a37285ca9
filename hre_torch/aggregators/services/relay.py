"""Snapshots for participants that come late: the DSP carries what it cannot read.

A late participant asks; the others see that somebody asks whenever they fetch, and one
of them seals the released weights. With the snapshot go headers of uploads that are
based on its version: their signatures vouch for the hash of those weights. All of it is
forgotten in a restart, since everything can be asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hre_torch.aggregators.services.enquiries import SMALL, Enquiries
from hre_torch.aggregators.services.intake import Expected, Intake
from hre_torch.aggregators.services.routes import MEDIA_TYPE, Desk
from hre_torch.errors import TaskError
from hre_torch.protocol.envelope import Envelope, decode, seal
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.requests import (
    Snapshot,
    SnapshotQuery,
    SnapshotReply,
    SnapshotRequest,
    Witness,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task

__all__ = ["SnapshotRelay"]

_MOST_RELEASES: Final = 64
"""Age of the oldest weights whose witnesses are kept, where S allows older ones: by
then a snapshot of them has long been asked for anew."""


@dataclass
class _Asked:
    """A participant's newest request, and the first snapshot that answered it."""

    request: bytes
    digest: bytes
    snapshot: bytes = b""
    version: int = 0


@dataclass
class SnapshotRelay:
    """Requests, snapshots and witnesses of one task.

    Args:
        task: the task.
        secret: the DSP's keys.
    """

    task: Task
    secret: Secret
    _asked: dict[str, _Asked] = field(default_factory=dict)
    _witnesses: dict[int, dict[str, Witness]] = field(default_factory=dict)

    def routes(self, desk: Desk, intake: Intake, enquiries: Enquiries) -> list[Route]:
        """Return the routes on which participants ask, look, offer and collect."""
        offers = Expected(Snapshot, SMALL, 0, 8 * self.task.config.n_values + SMALL)

        async def asked(message: bytes, request: Envelope[Any]) -> None:
            self.ask(message, request)

        async def collected(
            message: bytes, query: Envelope[Any]
        ) -> Envelope[SnapshotReply] | None:
            return self.collect(query)

        async def offered(message: bytes) -> None:
            snapshot = decode(
                message, Snapshot, cfg=self.task.cfg, max_bytes=offers.max_body
            )
            self.offer(message, snapshot)

        async def wanted(request: Request) -> Response:
            message = self.wanted(request.query_params.get("besides", ""))
            if message is None:
                return Response(status_code=204)
            return Response(message, media_type=MEDIA_TYPE)

        return [
            enquiries.route("/v1/snapshots/ask", SnapshotRequest, asked),
            enquiries.route("/v1/snapshots/collect", SnapshotQuery, collected),
            desk.route("/v1/snapshots", intake, offers, offered),
            Route("/v1/snapshots/wanted", wanted),
        ]

    def witness(self, upload: Envelope[Upload]) -> None:
        """Keep who vouches for the weights that a checked upload is based on.

        Witnesses for weights more than S releases older than the newest that an upload
        is based on go, since a snapshot of these would be too old to push upon. So does
        a snapshot for the upload's sender, who has weights by now.
        """
        header = upload.header
        self._asked.pop(header.sender, None)
        version = self._witnesses.setdefault(header.base_version, {})
        version[header.sender] = Witness(
            upload.header_bytes, upload.proof, upload.signature
        )
        oldest = max(self._witnesses) - min(
            self.task.config.staleness_bound, _MOST_RELEASES
        )
        for old in [kept for kept in self._witnesses if kept < oldest]:
            del self._witnesses[old]

    def ask(self, message: bytes, request: Envelope[SnapshotRequest]) -> None:
        """Take a late participant's request; a newer one replaces it."""
        self._asked[request.header.sender] = _Asked(message, request.digest)

    def wanted(self, besides: str) -> bytes | None:
        """Return a request that nobody has answered and that is not `besides`' own."""
        for name, asked in self._asked.items():
            if name != besides and not asked.snapshot:
                return asked.request
        return None

    def offer(self, message: bytes, snapshot: Envelope[Snapshot]) -> None:
        """Keep a snapshot for whoever asked for it.

        Raises:
            TaskError: nobody asks for it.
        """
        header = snapshot.header
        asked = self._asked.get(header.recipient)
        if asked is None or asked.digest != header.request:
            raise TaskError(f"{header.recipient!r} does not ask for such a snapshot")
        if not asked.snapshot:
            asked.snapshot, asked.version = message, header.version

    def collect(self, query: Envelope[SnapshotQuery]) -> Envelope[SnapshotReply] | None:
        """Return the snapshot that answers a request, and its witnesses so far."""
        asked = self._asked.get(query.header.sender)
        if asked is None or asked.digest != query.header.request or not asked.snapshot:
            return None
        reply = SnapshotReply(
            cfg=self.task.cfg,
            sender=self.secret.name,
            recipient=query.header.sender,
            moment=query.header.moment,
            witnesses=tuple(self._witnesses.get(asked.version, {}).values()),
        )
        return seal(reply, self.secret.signing, (asked.snapshot,))
