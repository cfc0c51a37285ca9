"""Sends a message, octet for octet, until a signed answer to it comes back."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from hre_torch.aggregators.addresses import client_options
from hre_torch.aggregators.replies import Gathered, LostError, authentic
from hre_torch.aggregators.retries import Outage, RetryPolicy, loss_of
from hre_torch.errors import AggregatorError, MessageError
from hre_torch.protocol.envelope import Envelope, Header
from hre_torch.protocol.task import Task

__all__ = ["Answer", "Exchange"]

H = TypeVar("H", bound=Header)
T = TypeVar("T")

_HOPELESS: Final = {
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
        vain = lost.hopeless or (lost.misconfigured and not self._answered)
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
    if status in _HOPELESS:
        return LostError(f"{said}; {_HOPELESS[status]}", hopeless=True)
    return LostError(said, misconfigured=status == _NOT_FOUND)
