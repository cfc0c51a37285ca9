"""Routes that both servers share: signed answers, refusals and signed requests.

Requests put nothing into the ledger, are signed by a participant and answered once. An
answer costs a key transform or a walk through the ledger, so strangers must not ask,
and nobody may repeat what a participant once asked. A request carries its sender's
*moment*, nanoseconds of a clock, which must be later than that of all requests before.
Moments are forgotten in a restart; what is repeated then costs one more answer. One far
ahead of this server's clock is refused, or its sender could not ask again for so long.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import AggregatorError, BehindError, HREError, MessageError
from hre_torch.protocol.messages import Request
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Header, decode, refuse
from hre_torch.servers.kts_client import UnreachableError
from hre_torch.servers.logs import log_event
from hre_torch.servers.metrics import Metrics
from hre_torch.servers.readiness import Readiness
from hre_torch.servers.request_reader import Expected, RefusedError, RequestReader

__all__ = ["MEDIA_TYPE", "SMALL", "Responder", "SignedQueries"]

MEDIA_TYPE: Final = "application/vnd.hre-torch.v1"
_STATUS: Final = {
    "SignatureError": 403,
    "TaskError": 403,
    "WrongTaskError": 409,
    "EquivocationError": 409,
    "StaleUploadError": 409,
    "BackPressure": 429,
}
"""For people with curl; clients read the signed refusal."""

Work = Callable[[bytes], Awaitable[bytes | None]]


class Responder:
    """Receives messages, has them worked on, and answers in signed envelopes.

    Args:
        task: the task.
        secret: whose answers these are.
        metrics: counts what comes and what is refused.
        readiness: told of a KTS that cannot be reached and of a store that fails.
        link: name of the other end in metrics.
    """

    def __init__(
        self,
        task: Task,
        secret: Secret,
        metrics: Metrics,
        readiness: Readiness,
        link: str,
    ) -> None:
        self._task = task
        self._name = secret.name
        self._key: SigningKey = secret.signing
        self._metrics = metrics
        self._readiness = readiness
        self._link = link

    def route(
        self, path: str, reader: RequestReader, expected: Expected, work: Work
    ) -> Route:
        """Return a route on which `work` answers messages of one kind.

        `work` gets a whole message with a checked head, and returns an encoded answer,
        or None for "nothing".
        """

        async def answer(request: HTTPRequest) -> Response:
            try:
                message = await reader.receive(request, expected)
            except RefusedError as refused:
                return self._refusal(refused.error, refused.about, path)
            except HTTPException as error:
                self._metrics.rejects.labels(f"HTTP {error.status_code}").inc()
                raise
            self._metrics.octets.labels(self._link, "in").inc(len(message))
            try:
                reply = await work(message)
            except AggregatorError as error:
                return self._unavailable(error, path)
            except HREError as error:
                return self._refusal(error, hashlib.sha256(message).digest(), path)
            if reply is None:
                return Response(status_code=204)
            self._metrics.octets.labels(self._link, "out").inc(len(reply))
            return Response(reply, media_type=MEDIA_TYPE)

        return Route(path, answer, methods=["POST"])

    def _refusal(self, error: HREError, about: bytes, path: str) -> Response:
        reason = type(error).__name__
        self._metrics.rejects.labels(reason).inc()
        log_event(
            "refused",
            level=logging.WARNING,
            route=path,
            reason=reason,
            message=str(error),
        )
        body = refuse(
            error, cfg=self._task.cfg, sender=self._name, key=self._key, about=about
        )
        status = _STATUS.get(reason, 422)
        return Response(body, status_code=status, media_type=MEDIA_TYPE)

    def _unavailable(self, error: AggregatorError, path: str) -> Response:
        self._metrics.rejects.labels(type(error).__name__).inc()
        log_event("unavailable", level=logging.ERROR, route=path, message=str(error))
        # Its own words name folders and addresses, which are nobody else's business.
        kind, said = "disk", "the server's store has failed, and its log says how"
        if isinstance(error, UnreachableError):
            kind, said = "kts", "the key transform server does not answer"
        if isinstance(error, BehindError):
            said = str(error)
        else:
            self._readiness.report(kind, str(error))
        return PlainTextResponse(
            f"{said}; send the same message again later\n",
            status_code=503,
            headers={"retry-after": "1"},
        )


_DAY: Final = 24 * 3600 * 10**9
"""Nanoseconds that a participant's clock may be ahead."""
SMALL: Final = 4096
"""Octets of header that a request or an upload may have; honest ones have 500."""

Answer = Callable[[bytes, Envelope[Any]], Awaitable[Envelope[Any] | None]]
"""Given a request's octets and what they say, returns the reply, None for "nothing"."""


class SignedQueries:
    """Makes routes on which such requests are answered.

    Args:
        task: the task.
        responder: signs answers and refusals.
        reader: reads what comes.
    """

    def __init__(self, task: Task, responder: Responder, reader: RequestReader) -> None:
        self._task = task
        self._responder = responder
        self._reader = reader
        self._moments: dict[str, int] = {}

    def route(
        self, path: str, kind: type[Header], answer: Answer, *, any_task: bool = False
    ) -> Route:
        """Return a route on which requests of one kind, of this task, get an answer."""
        cfg = None if any_task else self._task.cfg

        async def work(message: bytes) -> bytes | None:
            request = decode(message, kind, cfg=cfg, max_bytes=0)
            self._check_moment(request.header)  # type: ignore[arg-type]
            reply = await answer(message, request)
            return None if reply is None else reply.encode()

        expected = Expected(kind, SMALL, 0, 0, any_task=any_task)
        return self._responder.route(path, self._reader, expected, work)

    def _check_moment(self, request: Request) -> None:
        ahead = request.moment - time.time_ns()
        if ahead > _DAY:
            raise MessageError(
                f"the clock of {request.sender!r} is {ahead / _DAY:.1f} days ahead of "
                "the DSP's; set it right, and start again"
            )
        newest = self._moments.get(request.sender, -1)
        if request.moment <= newest:
            # No refusal: an honest sender's request was doubled on its way, and a
            # signed refusal could then overtake the answer.
            raise HTTPException(425, "a request with a later moment has come before")
        self._moments[request.sender] = request.moment
