"""Whether a server can do its work now, and if not, why not.

Everybody may ask `/readyz` and hears yes or no. Reasons, names and numbers are for
whoever runs the server: they are served at an address of their own, loopback by
default, by a thread of its own, so that strangers neither read nor crowd them out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from hre_torch.errors import HREError
from hre_torch.servers.logs import log_event
from hre_torch.servers.metrics import Metrics

__all__ = ["Readiness", "Watch", "admin_app"]

_PAUSE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 2.0
"""With the pause: whatever hangs or fails is known after 3 s, and load balancers that
look every second or two know it after 5."""
_STUCK_SECONDS: Final = 10.0
"""An event loop that takes a step no sooner than that is taken for dead."""


class Readiness:
    """What keeps a server from its work, by kind; nothing does when it is ready.

    Args:
        metrics: shows whether it is.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._reasons: dict[str, str] = {}
        self.expect("start")

    @property
    def ready(self) -> bool:
        """Whether the server can do its work."""
        return not self._reasons

    @property
    def reasons(self) -> dict[str, str]:
        """What keeps it from that, in words for whoever runs it, by kind."""
        return dict(self._reasons)

    def expect(self, kind: str) -> None:
        """Wait for a report of a kind before the server counts as ready."""
        self._reasons[kind] = "the server is starting"

    def report(self, kind: str, reason: str = "") -> None:
        """Say that something of a kind is wrong, or, without a reason, well again."""
        before = self._reasons.get(kind, "")
        if reason == before:
            return
        if reason:
            self._reasons[kind] = reason
            log_event("not ready", level=logging.WARNING, kind=kind, reason=reason)
        else:
            del self._reasons[kind]
            if not self._reasons:
                log_event("ready")
        self._metrics.ready.set(self.ready)

    def route(self) -> Route:
        """Return `/readyz` for everybody: no names, no reasons."""

        async def readyz(request: Request) -> Response:
            if self.ready:
                return PlainTextResponse("ready\n")
            return PlainTextResponse("not ready\n", status_code=503)

        return Route("/readyz", readyz)


class Watch(AbstractAsyncContextManager["Watch"]):
    """Looks every second whether a server can do its work; an async context manager.

    Args:
        readiness: what is told.
        probes: by kind; each one returns when all is well and raises what is wrong.
    """

    def __init__(
        self, readiness: Readiness, probes: Mapping[str, Callable[[], Awaitable[None]]]
    ) -> None:
        self._readiness = readiness
        self._probes = probes
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watch:
        for kind, probe in self._probes.items():
            self._readiness.expect(kind)
            self._tasks.append(asyncio.create_task(self._live(kind, probe)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _live(self, kind: str, probe: Callable[[], Awaitable[None]]) -> None:
        while True:
            look = asyncio.ensure_future(probe())
            try:
                done, _ = await asyncio.wait({look}, timeout=_PATIENCE_SECONDS)
                if not done:
                    hangs = f"no answer for {_PATIENCE_SECONDS:.0f} s"
                    self._readiness.report(kind, hangs)
                    await asyncio.wait({look})
            finally:
                look.cancel()
            error = look.exception()
            self._readiness.report(kind, "" if error is None else _words(error))
            await asyncio.sleep(_PAUSE_SECONDS)


def _words(error: BaseException) -> str:
    # What others say may name secrets.
    return str(error) if isinstance(error, HREError) else type(error).__name__


def admin_app(
    readiness: Readiness,
    metrics: Metrics,
    loop: Callable[[], asyncio.AbstractEventLoop | None],
) -> Starlette:
    """Return `/healthz`, `/readyz` with reasons, and `/metrics`.

    Args:
        readiness: of the server.
        metrics: of the server.
        loop: gives the event loop in which the server lives, once it does.
    """

    async def healthz(request: Request) -> Response:
        if await _turns(loop()):
            return PlainTextResponse("alive\n")
        return PlainTextResponse("stuck\n", status_code=503)

    async def readyz(request: Request) -> Response:
        status = 200 if readiness.ready else 503
        return JSONResponse(
            {"ready": readiness.ready, "reasons": readiness.reasons}, status
        )

    async def render(request: Request) -> Response:
        return PlainTextResponse(metrics.render())

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", render),
        ]
    )


async def _turns(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether an event loop of another thread still takes steps."""
    if loop is None:
        return True  # It has not begun yet.
    turned = asyncio.Event()
    here = asyncio.get_running_loop()
    loop.call_soon_threadsafe(here.call_soon_threadsafe, turned.set)
    try:
        async with asyncio.timeout(_STUCK_SECONDS):
            await turned.wait()
    except TimeoutError:
        return False
    return True
