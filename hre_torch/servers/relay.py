"""Snapshots for participants that come late: the DSP carries what it cannot read.

A late participant asks; the others see all who ask whenever they look, and each says,
signed, which models of which versions it knows; whoever does not find its own among the
snapshots so far seals the released weights. Here the snapshot is kept that most
identities name, the newer one of two. Where they are too few, the KTS is asked which
model is settled. All of it is forgotten in a restart, since everything can be asked for
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.routing import Route

from hre_torch.errors import HREError, MessageError, TaskError
from hre_torch.protocol.heads import LedgerHead
from hre_torch.protocol.messages import (
    Asked,
    Snapshot,
    SnapshotQuery,
    SnapshotReply,
    SnapshotRequest,
    Upload,
    Voucher,
    Wanted,
    WantedRequest,
    Witness,
    named_models,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import DIGEST_BYTES, Envelope, decode, seal
from hre_torch.servers.kts_client import KTSClient
from hre_torch.servers.logs import log_event
from hre_torch.servers.request_reader import Expected, RequestReader
from hre_torch.servers.routes import SMALL, Responder, SignedQueries

__all__ = ["SnapshotRelay"]


@dataclass
class _Open:
    """A participant's newest request, and the best snapshot that answers it."""

    request: bytes
    digest: bytes
    refused: tuple[str, ...] = ()
    snapshot: bytes = b""
    model: tuple[int, bytes] = (0, b"")
    sender: str = ""
    witnesses: dict[str, Witness] = field(default_factory=dict)
    """Who has named the snapshot's model, its sender aside."""

    def believed(self) -> tuple[int, bytes]:
        """Return the snapshot's model, unless its sender has sealed a false one."""
        return (0, b"") if self.sender in self.refused else self.model


@dataclass(frozen=True)
class _Word:
    """The newest that an identity has said of released weights."""

    base_version: int
    models: dict[int, bytes]
    witness: Witness

    def names(self, model: tuple[int, bytes]) -> bool:
        """Return whether it says that a version has this digest."""
        version, digest = model
        return self.models.get(version) == digest


@dataclass
class SnapshotRelay:
    """Requests, snapshots and witnesses of one task.

    Args:
        task: the task.
        secret: the DSP's keys.
    """

    task: Task
    secret: Secret
    _asked: dict[str, _Open] = field(default_factory=dict)
    _words: dict[str, _Word] = field(default_factory=dict)

    def routes(
        self,
        responder: Responder,
        reader: RequestReader,
        queries: SignedQueries,
        kts_client: KTSClient,
    ) -> list[Route]:
        """Return the routes on which participants ask, look, vouch, offer, collect."""
        run = DIGEST_BYTES * (self.task.config.staleness_bound + 3)
        body = 8 * self.task.config.n_values + SMALL
        offers = Expected(Snapshot, SMALL + run, 0, body)
        vouchers = Expected(Voucher, SMALL + run, 0, 0)
        cfg = self.task.cfg

        async def asked(message: bytes, request: Envelope[Any]) -> None:
            self.ask(message, request)

        async def collected(message: bytes, query: Envelope[Any]) -> Envelope[Any]:
            if not self.needs_head(query):
                return self.collect(query)
            try:
                head = await kts_client.ask("/v1/heads", message, LedgerHead)
            except HREError as error:
                log_event("no head of the ledger", message=str(error))
                return self.collect(query)
            return self.collect(query, head.encode())

        async def wanted(message: bytes, request: Envelope[Any]) -> Envelope[Any]:
            return self.wanted(request)

        async def offered(message: bytes) -> None:
            self.offer(
                message, decode(message, Snapshot, cfg=cfg, max_bytes=offers.max_body)
            )

        async def vouched(message: bytes) -> None:
            self.vouch(decode(message, Voucher, cfg=cfg, max_bytes=0))

        return [
            queries.route("/v1/snapshots/ask", SnapshotRequest, asked),
            queries.route("/v1/snapshots/collect", SnapshotQuery, collected),
            queries.route("/v1/snapshots/wanted", WantedRequest, wanted),
            responder.route("/v1/snapshots/vouch", reader, vouchers, vouched),
            responder.route("/v1/snapshots", reader, offers, offered),
        ]

    def witness(self, upload: Envelope[Upload]) -> None:
        """Keep what a checked upload says of the weights that it is based on.

        A snapshot for the upload's sender goes, who has weights by now.
        """
        self._asked.pop(upload.header.sender, None)
        self._keep(upload)

    def vouch(self, voucher: Envelope[Voucher]) -> None:
        """Keep what a participant says of released weights.

        Raises:
            MessageError: it names more versions than there can be.
        """
        header = voucher.header
        if len(header.state_digests) % DIGEST_BYTES:
            raise MessageError("a voucher names whole digests of 32 octets each")
        if len(header.state_digests) > DIGEST_BYTES * (header.base_version + 1):
            raise MessageError("a voucher names versions before the first one")
        self._keep(voucher)

    def ask(self, message: bytes, request: Envelope[SnapshotRequest]) -> None:
        """Take a late participant's request; a newer one replaces it."""
        header = request.header
        self._asked[header.sender] = _Open(message, request.digest, header.refused)

    def wanted(self, request: Envelope[WantedRequest]) -> Envelope[Wanted]:
        """Return all requests but the asker's own."""
        name = request.header.sender
        wanted = Wanted(
            cfg=self.task.cfg,
            sender=self.secret.name,
            recipient=name,
            moment=request.header.moment,
            asked=tuple(
                Asked(asked.request, *asked.believed())
                for other, asked in self._asked.items()
                if other != name
            ),
        )
        return seal(wanted, self.secret.signing)

    def offer(self, message: bytes, snapshot: Envelope[Snapshot]) -> None:
        """Keep a snapshot for whoever asked for it, if none that is better is there.

        Raises:
            TaskError: nobody asks for it.
        """
        header = snapshot.header
        asked = self._asked.get(header.recipient)
        if asked is None or asked.digest != header.request:
            raise TaskError(f"{header.recipient!r} does not ask for such a snapshot")
        model = (header.version, header.state_digest)
        witnesses = {
            name: word.witness
            for name, word in self._words.items()
            if word.names(model) and name != header.sender
        }
        refused = asked.refused
        worth = (header.sender not in refused, len(witnesses), header.version)
        best = (asked.sender not in refused, len(asked.witnesses), asked.model[0])
        if not asked.snapshot or worth > best:
            asked.snapshot, asked.model, asked.witnesses = message, model, witnesses
            asked.sender = header.sender

    def needs_head(self, query: Envelope[SnapshotQuery]) -> bool:
        """Whether too few vouch for the snapshot that answers a request.

        Raises:
            TaskError: there is no such request here, perhaps any more.
        """
        asked = self._answered(query)
        others = asked.witnesses.keys() - {query.header.sender, asked.sender}
        return bool(asked.snapshot) and len(others) < self.task.config.assumed_colluders

    def collect(
        self, query: Envelope[SnapshotQuery], head: bytes = b""
    ) -> Envelope[SnapshotReply]:
        """Return the snapshot that answers a request, if there is one, and witnesses.

        Args:
            query: who asks.
            head: the KTS's answer to it, encoded.

        Raises:
            TaskError: there is no such request here, perhaps any more.
        """
        name = query.header.sender
        asked = self._answered(query)
        reply = SnapshotReply(
            cfg=self.task.cfg,
            sender=self.secret.name,
            recipient=name,
            moment=query.header.moment,
            witnesses=tuple(asked.witnesses.values()),
            head=head,
        )
        parts = (asked.snapshot,) if asked.snapshot else ()
        return seal(reply, self.secret.signing, parts)

    def _answered(self, query: Envelope[SnapshotQuery]) -> _Open:
        name = query.header.sender
        asked = self._asked.get(name)
        if asked is None or asked.digest != query.header.request:
            raise TaskError(f"there is no such request of {name!r} here; ask again")
        return asked

    def _keep(self, said: Envelope[Upload] | Envelope[Voucher]) -> None:
        header = said.header
        before = self._words.get(header.sender)
        if before is not None and before.base_version > header.base_version:
            return  # It came late, or again.
        models = dict(named_models(header.base_version, header.state_digests))
        witness = Witness(said.header_bytes, said.proof, said.signature)
        word = _Word(header.base_version, models, witness)
        self._words[header.sender] = word
        for asked in self._asked.values():
            if asked.snapshot and word.names(asked.model):
                asked.witnesses[header.sender] = witness
