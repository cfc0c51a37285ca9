"""Sends a message, octet for octet, until a signed answer to it comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from hre_torch.aggregators.addresses import client_options
from hre_torch.aggregators.replies import Gathered, LostError, authentic
from hre_torch.errors import AggregatorError
from hre_torch.protocol.envelope import Envelope, Header
from hre_torch.protocol.task import Task

__all__ = ["Answer", "Exchange", "RetryPolicy"]

H = TypeVar("H", bound=Header)
T = TypeVar("T")

_MOST_ROSTER_BYTES: Final = 1 << 26
"""Of the signed roster, which is longer than any message where many participate."""
_HOPELESS: Final = frozenset({404, 405, 411, 413})
"""HTTP answers that no repetition will change."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a participant is.

    Attributes:
        attempts: how often a message is sent before giving up, at least 1.
        first_pause: seconds before the second attempt; every pause doubles.
        longest_pause: seconds at which doubling ends.
        timeout: seconds without an octet after which an attempt is lost.
    """

    attempts: int = 8
    first_pause: float = 0.1
    longest_pause: float = 5.0
    timeout: float = 30.0

    def pauses(self) -> Iterator[float]:
        """Yield the pause after every attempt but the last.

        Half of it is left to chance, so that participants which lost the DSP at the
        same moment do not all come back at the same moment.
        """
        pause = self.first_pause
        for _ in range(self.attempts - 1):
            yield random.uniform(pause / 2, pause)
            pause = min(2 * pause, self.longest_pause)


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
        self._client = httpx.Client(
            timeout=policy.timeout, transport=transport, **client_options(url, ca_file)
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

        def attempt() -> Answer | None:
            octets = message()
            answer = self._post(route, octets)
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

        return self._persist(route, attempt)

    def get(self, route: str, **query: str) -> bytes:
        """Return what an open route shows; empty for nothing.

        Raises:
            AggregatorError: no attempt brought an answer.
        """
        return self._persist(
            route,
            lambda: self._send(
                self._client.build_request("GET", route, params=query),
                _MOST_ROSTER_BYTES,
            ),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _post(self, route: str, octets: bytes) -> bytes:
        request = self._client.build_request("POST", route, content=octets)
        return self._send(request, self._max_bytes)

    def _send(self, request: httpx.Request, most: int) -> bytes:
        response = self._client.send(request, stream=True)
        try:
            answer = Gathered(most).extend(response.iter_raw()).octets()
        finally:
            response.close()
        if response.headers.get("content-type", "").startswith("text/plain"):
            said = f"HTTP {response.status_code}: {answer[:200]!r}"
            raise LostError(said, hopeless=response.status_code in _HOPELESS)
        return answer

    def _persist(self, route: str, attempt: Callable[[], T]) -> T:
        pauses = self._policy.pauses()
        while True:
            try:
                return attempt()
            except (httpx.HTTPError, LostError) as error:
                pause = next(pauses, None)
                hopeless = isinstance(error, LostError) and error.hopeless
                if pause is None or hopeless:
                    raise AggregatorError(
                        f"the DSP at {self._url} gives no answer on {route} (the last "
                        f"of {self._policy.attempts} attempts: "
                        f"{type(error).__name__}: {error}); check the URL and the "
                        "network, nothing is lost"
                    ) from error
                time.sleep(pause)
