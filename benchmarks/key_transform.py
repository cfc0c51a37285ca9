"""The KTS of measured rounds: it answers at once, and is measured after them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from benchmarks.meter import Meter
from hre_torch.protocol.messages import Deposit, ReleaseOrder, TransformRequest
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.wire import Envelope, Header, decode
from hre_torch.protocol.workers import Workers
from hre_torch.servers.key_transform import KeyTransformServer

__all__ = ["ReplayedKeyTransform"]

H = TypeVar("H", bound=Header)


class ReplayedKeyTransform:
    """Two KTSs with the same keys: one serves rounds, one is measured after them.

    A KTS has a machine of its own, whose caches hold nothing of the vectors that DSP
    and participants add, mask and load: that is why it is not measured among them, in
    their process. The second KTS gets the very messages of the first, one after the
    other, and what it answers is thrown away.

    Args:
        task: the task.
        secret: the KTS's keys.
        workers: where block-wise arithmetic runs.
        most_bytes: longest message.
    """

    def __init__(
        self, task: Task, secret: Secret, workers: Workers, *, most_bytes: int
    ) -> None:
        self._task, self._most_bytes = task, most_bytes
        self._serving = KeyTransformServer(task, secret, workers)
        self._measured = KeyTransformServer(task, secret, workers)
        self._rounds: deque[list[Callable[[Meter], None]]] = deque()

    def begin_round(self) -> None:
        """Say that what comes belongs to a new round."""
        self._rounds.append([])

    def deposit(self, deposit: bytes) -> bytes:
        """Log an upload; return the receipt. Measured as `kts_push`."""
        self._rounds[-1].append(
            partial(self._measure, "kts_push", self._deposit, deposit)
        )
        return self._deposit(self._serving, deposit)

    def approve(self, order: bytes) -> bytes:
        """Sign a release. Measured as `kts_release`."""
        self._rounds[-1].append(
            partial(self._measure, "kts_release", self._approve, order)
        )
        return self._approve(self._serving, order)

    def transform(self, request: bytes, phase: str, inner: str) -> bytes:
        """Answer for one recipient. Measured as `phase`, its arithmetic as `inner`."""

        def call(meter: Meter) -> None:
            with meter(phase) as outer, meter(inner) as reading:
                reply = self._transform(self._measured, request)
            outer.bytes = len(request) + len(reply)
            reading.bytes = len(reply)

        self._rounds[-1].append(call)
        return self._transform(self._serving, request)

    def replay(self, meter: Meter) -> None:
        """Measure everything that came in the earliest round that is left."""
        for call in self._rounds.popleft():
            call(meter)

    def _measure(
        self,
        phase: str,
        serve: Callable[[KeyTransformServer, bytes], bytes],
        message: bytes,
        meter: Meter,
    ) -> None:
        with meter(phase) as reading:
            answer = serve(self._measured, message)
        reading.bytes = len(message) + len(answer)

    def _deposit(self, server: KeyTransformServer, message: bytes) -> bytes:
        return server.deposit(self._decode(message, Deposit)).encode()

    def _approve(self, server: KeyTransformServer, message: bytes) -> bytes:
        return server.approve(self._decode(message, ReleaseOrder)).encode()

    def _transform(self, server: KeyTransformServer, message: bytes) -> bytes:
        return server.transform(self._decode(message, TransformRequest)).encode()

    def _decode(self, data: bytes, kind: type[H]) -> Envelope[H]:
        return decode(data, kind, cfg=self._task.cfg, max_bytes=self._most_bytes)
