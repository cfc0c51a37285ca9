"""Requests that put nothing into the ledger: signed by a participant, answered once.

An answer costs a key transform or a walk through the ledger, so strangers must not ask,
and nobody may repeat what a participant once asked. A request carries its sender's
*moment*, nanoseconds of a clock, which must be later than that of all requests before.
Moments are forgotten in a restart; what is repeated then costs one more answer. One far
ahead of this server's clock is refused, or its sender could not ask again for so long.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from hre_torch.aggregators.services.intake import Expected, Intake
from hre_torch.aggregators.services.routes import Desk
from hre_torch.errors import MessageError
from hre_torch.protocol.envelope import Envelope, Header, decode
from hre_torch.protocol.requests import Request
from hre_torch.protocol.task import Task

__all__ = ["SMALL", "Enquiries"]

_DAY: Final = 24 * 3600 * 10**9
"""Nanoseconds that a participant's clock may be ahead."""
SMALL: Final = 4096
"""Octets of header that a request or an upload may have; honest ones have 500."""

Answer = Callable[[bytes, Envelope[Any]], Awaitable[Envelope[Any] | None]]
"""Given a request's octets and what they say, returns the reply, None for "nothing"."""


class Enquiries:
    """Makes routes on which such requests are answered.

    Args:
        task: the task.
        desk: signs answers and refusals.
        intake: reads what comes.
    """

    def __init__(self, task: Task, desk: Desk, intake: Intake) -> None:
        self._task = task
        self._desk = desk
        self._intake = intake
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
        return self._desk.route(path, self._intake, expected, work)

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
