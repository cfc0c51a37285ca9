"""One participant's connection to a DSP elsewhere.

A message is sent, octet for octet, until a signed answer to it comes back.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import httpx

from hre_torch.errors import AggregatorError, HREError, MessageError, WrongTaskError
from hre_torch.http_client import (
    Gathered,
    LostError,
    Outage,
    RetryPolicy,
    authentic,
    client_options,
    loss_of,
)
from hre_torch.participant.aggregator import Aggregator
from hre_torch.protocol.messages import (
    Ack,
    Asked,
    Download,
    Fetch,
    Release,
    Request,
    SnapshotReply,
    StatementReply,
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
from hre_torch.protocol.wire import (
    LENGTHS_BYTES,
    Envelope,
    Header,
    Refusal,
    decode,
    kind_of,
    lengths_of,
    seal,
)

__all__ = ["Answer", "Exchange", "HTTPAggregator"]

H = TypeVar("H", bound=Header)
T = TypeVar("T")

_PERMANENT: Final = {
    405: "this is no route for messages; check the URL",
    411: "something on the way takes the length off messages; it must not",
    413: "a proxy on the way, or the DSP, takes no message that long; raise its limit",
}
"""HTTP answers that no repetition will change."""
_NOT_FOUND: Final = 404
_TOO_EARLY: Final = 425


@dataclass(frozen=True, slots=True)
class Answer:
    """An authentic answer: its octets, and what they say."""

    octets: bytes
    envelope: Envelope[Any]


class Exchange:
    """One participant's HTTP connections to the DSP; safe to use from several threads.

    Args:
        task: the task.
        url: of the DSP, such as `"https://dsp.example"`.
        max_bytes: most octets of body that the task allows.
        policy: how patient to be.
        ca_file: PEM certificates to trust instead of the system's.
        transport: for tests.
    """

    def __init__(
        self,
        task: Task,
        url: str,
        *,
        max_bytes: int,
        policy: RetryPolicy,
        ca_file: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._task = task
        self._url = url
        self._max_bytes = max_bytes
        self._policy = policy
        self._outage = Outage(f"the DSP at {url}")
        self._answered = False
        self._ending = threading.Event()
        self._end = math.inf
        self._client = httpx.Client(
            timeout=policy.silence, transport=transport, **client_options(url, ca_file)
        )

    def ask(
        self,
        route: str,
        message: Callable[[], bytes],
        kind: type[H],
        *,
        fits: Callable[[H], bool],
        may_be_empty: bool = False,
    ) -> Answer | None:
        """Return the DSP's signed answer, or None where it has nothing to say.

        Args:
            route: where to send.
            message: makes what to send, for every attempt.
            kind: header class of the answer that is hoped for.
            fits: whether such an answer is one to this message.
            may_be_empty: whether the DSP may have nothing to say.

        Raises:
            AggregatorError: no attempt brought an answer.
        """

        def read(answer: bytes, octets: bytes) -> Answer | None:
            if not answer:
                if may_be_empty:
                    return None
                raise LostError("an empty answer")
            envelope = authentic(
                answer,
                octets,
                kind,
                key=self._task.roster.data_service.signing_key,
                cfg=self._task.cfg,
                max_bytes=self._max_bytes,
            )
            if isinstance(envelope.header, kind) and not fits(envelope.header):
                raise LostError("an answer to another message")
            return Answer(answer, envelope)

        return self.send(route, message, read, self._max_bytes)

    def send(
        self,
        route: str,
        message: Callable[[], bytes],
        read: Callable[[bytes, bytes], T],
        most: int,
    ) -> T:
        """Return what `read` makes of an answer, given that and what was sent.

        Args:
            route: where to send.
            message: makes what to send, for every attempt.
            read: raises `LostError` or `MessageError` where this is no answer.
            most: octets of body that an answer may have.

        Raises:
            AggregatorError: no attempt brought an answer.
        """
        pauses = self._policy.pauses()
        while True:
            octets = message()
            try:
                answer = read(self._post(route, octets, most), octets)
            except MessageError as error:
                self._pause_after(route, LostError(str(error)), pauses, error)
            except (httpx.HTTPError, LostError) as error:
                self._pause_after(route, loss_of(error), pauses, error)
            else:
                self._answered = True
                self._outage.ends()
                return answer

    def end_within(self, seconds: float) -> None:
        """Try nothing again after so many seconds, whatever the policy says."""
        self._end = time.monotonic() + seconds
        self._ending.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _post(self, route: str, octets: bytes, most: int) -> bytes:
        request = self._client.build_request("POST", route, content=octets)
        response = self._client.send(request, stream=True)
        try:
            answer = Gathered(most).extend(response.iter_raw()).octets()
        finally:
            response.close()
        if response.headers.get("content-type", "").startswith("text/plain"):
            raise _complaint(response.status_code, answer)
        return answer

    def _pause_after(
        self, route: str, lost: LostError, pauses: Iterator[float], error: Exception
    ) -> None:
        """Wait for the next attempt.

        Raises:
            AggregatorError: there is none.
        """
        vain = lost.permanent or (lost.misconfigured and not self._answered)
        pause = None if vain else next(pauses, None)
        if pause is None or time.monotonic() + pause > self._end:
            raise AggregatorError(
                f"the DSP at {self._url} gives no answer on {route} ({lost})"
                + ("" if vain else "; check the URL and the network")
                + "; nothing is lost"
            ) from error
        self._outage.lasts(lost)
        self._rest(pause)

    def _rest(self, pause: float) -> None:
        if self._ending.is_set():
            time.sleep(pause)
        else:
            self._ending.wait(pause)


def _complaint(status: int, answer: bytes) -> LostError:
    """Return what an answer in plain text, which no DSP has signed, comes to."""
    if status == _TOO_EARLY:
        return LostError(
            "it has had a request of this participant with a later time: the clock of "
            "this machine was set back, or its key is in use on another machine"
        )
    said = f"HTTP {status}: {answer[:200].decode(errors='replace').strip()!r}"
    if status in _PERMANENT:
        return LostError(f"{said}; {_PERMANENT[status]}", permanent=True)
    return LostError(said, misconfigured=status == _NOT_FOUND)


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
