"""What both services share: routes with signed answers and refusals."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hre_torch.aggregators.services.errands import UnreachableError
from hre_torch.aggregators.services.intake import Expected, Intake, RefusedError
from hre_torch.aggregators.services.logs import log_event
from hre_torch.aggregators.services.metrics import Metrics
from hre_torch.aggregators.services.readiness import Readiness
from hre_torch.crypto.signatures import SigningKey
from hre_torch.errors import AggregatorError, BehindError, HREError
from hre_torch.protocol.envelope import refuse
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task

__all__ = ["MEDIA_TYPE", "Desk"]

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


class Desk:
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

    def route(self, path: str, intake: Intake, expected: Expected, work: Work) -> Route:
        """Return a route on which `work` answers messages of one kind.

        `work` gets a whole message with a checked head, and returns an encoded answer,
        or None for "nothing".
        """

        async def answer(request: Request) -> Response:
            try:
                message = await intake.receive(request, expected)
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
