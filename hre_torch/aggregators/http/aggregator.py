"""One participant's connection to a DSP elsewhere."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar, cast

import httpx

from hre_torch.aggregators.http.exchange import Answer, Exchange
from hre_torch.aggregators.replies import LostError
from hre_torch.aggregators.retries import RetryPolicy
from hre_torch.errors import AggregatorError, HREError, WrongTaskError
from hre_torch.protocol.aggregator import Aggregator
from hre_torch.protocol.envelope import (
    Envelope,
    Header,
    Refusal,
    decode,
    kind_of,
    seal,
)
from hre_torch.protocol.framing import LENGTHS_BYTES, lengths_of
from hre_torch.protocol.messages import Ack, Download, Release, StatementReply
from hre_torch.protocol.requests import (
    Asked,
    Fetch,
    Request,
    SnapshotReply,
    Status,
    StatusRequest,
    TaskReply,
    TaskRequest,
    Wanted,
    WantedRequest,
)
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task

__all__ = ["HTTPAggregator"]

H = TypeVar("H", bound=Header)

_MOST_ROSTER_BYTES: Final = 1 << 26
"""Of the signed roster, which is longer than any message where many participate."""
_SNAPSHOT_SLACK: Final = 4096
"""Octets of a relayed snapshot besides the weights themselves."""


class HTTPAggregator(Aggregator):
    """Carries a participant's messages to the DSP over HTTP.

    An answer counts only if the DSP has signed it and it is about the message that was
    sent; whatever else comes back, the identical octets are sent again. So a network
    may lose, double, delay or change what it likes: an upload is entered exactly once.

    Args:
        name: the participant.
        url: of the DSP.
        task: the task.
        secret: the participant's keys; requests are signed, since answering costs work.
        policy: how patient to be.
        ca_file: PEM certificates to trust instead of the system's.
        on_close: called when the connection is closed.
        transport: for tests.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        task: Task,
        secret: Secret,
        policy: RetryPolicy | None = None,
        ca_file: Path | None = None,
        on_close: Callable[[], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if secret.name != name:
            raise AggregatorError(
                f"these are the keys of {secret.name!r}, not of {name!r}"
            )
        self._name = name
        self._task = task
        self.secret = secret
        self._on_close = on_close
        self._moment = 0
        self._lock = threading.Lock()
        self.exchange = Exchange(
            task,
            url,
            max_bytes=max(
                SUITES.get(task.config.suite).max_message_bytes(task),
                8 * task.config.n_values + _SNAPSHOT_SLACK,
            ),
            policy=policy or RetryPolicy(),
            ca_file=ca_file,
            transport=transport,
        )

    def submit(self, upload: bytes) -> bytes:
        """Send an upload until the DSP has acknowledged or refused these very octets.

        Raises:
            AggregatorError: no attempt brought an answer; the upload may have arrived.
        """
        header, proof = lengths_of(upload)
        digest = hashlib.sha256(upload[: LENGTHS_BYTES + header + proof]).digest()
        answer = self.exchange.ask(
            "/v1/uploads",
            lambda: upload,
            Ack,
            fits=lambda ack: ack.upload == digest,
        )
        return cast(Answer, answer).octets

    def fetch(self, since: int, *, merge: bool = True) -> Iterator[bytes]:
        """Yield what is new for this participant, asking again after each download."""
        while True:
            answer = self._fetch_next(since, merge=merge)
            if answer is None:
                return
            yield answer.octets
            if isinstance(answer.envelope.header, Refusal):
                return
            since = self._releases(answer.envelope.header)[-1].version

    def declare(self, statement: bytes) -> bytes:
        """Send a statement until there is an answer to these very octets.

        Raises:
            AggregatorError: no attempt brought an answer.
        """
        header, proof = lengths_of(statement)
        digest = hashlib.sha256(statement[: LENGTHS_BYTES + header + proof]).digest()
        answer = self.exchange.ask(
            "/v1/statements",
            lambda: statement,
            StatementReply,
            fits=lambda reply: reply.statement == digest,
        )
        return cast(Answer, answer).octets

    def status(self) -> Status:
        """Return where the task stands for this participant.

        Raises:
            AggregatorError: the DSP could not be reached.
            HREError: it refuses.
        """

        def ask(moment: int) -> StatusRequest:
            return StatusRequest(cfg=self._task.cfg, sender=self._name, moment=moment)

        answer = self.request(
            "/v1/status", ask, Status, fits=lambda it: it.recipient == self._name
        )
        return cast(Envelope[Status], answer).header

    def served_roster(self) -> bytes:
        """Return the roster file that the DSP shows, of whatever task; empty for none.

        Nothing of it is checked but that the participant is a member there.

        Raises:
            WrongTaskError: it serves a task of which the participant is no member.
            AggregatorError: the DSP could not be reached.
            HREError: it refuses.
        """
        own = self._task.cfg

        def read(answer: bytes, sent: bytes) -> bytes:
            if kind_of(answer) != "refusal":
                reply = decode(answer, TaskReply, max_bytes=_MOST_ROSTER_BYTES)
                return b"".join(reply.parts)
            refusal = decode(answer, Refusal, max_bytes=0).header
            if refusal.about != hashlib.sha256(sent).digest():
                raise LostError("other octets arrived than were sent")
            if refusal.cfg == own:
                raise refusal.exception()
            raise WrongTaskError(
                f"the DSP serves another task, {refusal.cfg.hex()[:16]}, in which "
                f"{self._name!r} has no part; this roster's is {own.hex()[:16]}: check "
                "the URL, and fetch the roster that its operator signed last"
            )

        def message() -> bytes:
            moment = self._next_moment()
            request = TaskRequest(cfg=own, sender=self._name, moment=moment)
            return seal(request, self.secret.signing).encode()

        return self.exchange.send("/v1/task", message, read, _MOST_ROSTER_BYTES)

    def wanted_snapshots(self) -> tuple[Asked, ...]:
        """Return who asks for a snapshot, besides this participant.

        Raises:
            AggregatorError: the DSP could not be reached.
        """

        def ask(moment: int) -> WantedRequest:
            return WantedRequest(cfg=self._task.cfg, sender=self._name, moment=moment)

        answer = self.request(
            "/v1/snapshots/wanted",
            ask,
            Wanted,
            fits=lambda it: it.recipient == self._name,
        )
        return cast(Envelope[Wanted], answer).header.asked

    def help_with(self, message: bytes) -> None:
        """Hand a voucher or a sealed snapshot to the DSP.

        Raises:
            AggregatorError: the DSP could not be reached.
        """
        kind = {"snapshot": "/v1/snapshots", "voucher": "/v1/snapshots/vouch"}
        self.exchange.ask(
            kind[kind_of(message)],
            lambda: message,
            SnapshotReply,
            fits=lambda _: False,
            may_be_empty=True,
        )

    def request(
        self,
        route: str,
        make: Callable[[int], Request],
        kind: type[H],
        *,
        fits: Callable[[H], bool],
        may_be_empty: bool = False,
    ) -> Envelope[H] | None:
        """Sign and send a request, with a new moment for every attempt.

        Raises:
            AggregatorError: the DSP could not be reached.
            HREError: it refuses.
        """
        answer = self._ask(route, make, kind, fits=fits, may_be_empty=may_be_empty)
        if answer is None:
            return None
        if isinstance(answer.envelope.header, Refusal):
            raise answer.envelope.header.exception()
        return answer.envelope

    def end_within(self, seconds: float) -> None:
        """See `Aggregator.end_within`."""
        self.exchange.end_within(seconds)

    def close(self) -> None:
        """Close the connections."""
        self.exchange.close()
        if self._on_close is not None:
            self._on_close()

    def _fetch_next(self, since: int, *, merge: bool) -> Answer | None:
        def ask(moment: int) -> Fetch:
            return Fetch(
                cfg=self._task.cfg,
                sender=self._name,
                moment=moment,
                since=since,
                merge=merge,
                opened=self.opened,
            )

        def fits(download: Download) -> bool:
            try:
                first = self._releases(download)[0].version
            except (HREError, IndexError):
                return False
            return download.recipient == self._name and first == since + 1

        return self._ask("/v1/fetch", ask, Download, fits=fits, may_be_empty=True)

    def _ask(
        self,
        route: str,
        make: Callable[[int], Request],
        kind: type[H],
        *,
        fits: Callable[[H], bool],
        may_be_empty: bool = False,
    ) -> Answer | None:
        def message() -> bytes:
            return seal(make(self._next_moment()), self.secret.signing).encode()

        return self.exchange.ask(
            route, message, kind, fits=fits, may_be_empty=may_be_empty
        )

    def _next_moment(self) -> int:
        with self._lock:
            self._moment = max(time.time_ns(), self._moment + 1)
            return self._moment

    def _releases(self, download: Download) -> list[Release]:
        return [
            decode(data, Release, cfg=self._task.cfg, max_bytes=0).header
            for data in download.releases
        ]
