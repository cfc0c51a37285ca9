"""The round of a peer whose participants share one secret key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.meter import Meter, Reading
from benchmarks.system import System
from benchmarks.weights import Weights
from benchmarks.workload import Workload

__all__ = ["Peer"]

Total = TypeVar("Total")


class Peer(System, Generic[Total]):
    """A server that adds ciphertexts and sends the sum to everybody, untransformed.

    Phases of a round, and the method that each of them measures:

    1. `client_push`: `prepare`, and `encrypt` within it: `seal`.
    2. `dsp_push`, which is `check`: `load`.
    3. `dsp_release`, and `add` within it, per addition: `add`.
    4. `dsp_recipient`, which is `finish`: `dump`.
    5. `client_pull`: `open` (`decrypt`), and loading the new weights into parameters.

    Args:
        name: what the records call the peer.
        workload: the work.
        options: passed on to `System`.

    Attributes:
        meter: takes the readings of the round that is played.
        fixed_bytes: part of every message that does not grow with the update.
    """

    fixed_bytes: ClassVar[int] = 0

    def __init__(self, name: str, workload: Workload, **options: Any) -> None:
        super().__init__(name, workload, **options)
        self.meter = Meter()
        self._weights = Weights(self.measured_values, workload.fixed_point)

    def prepare(self, update: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return an update as `seal` takes it; by default quantised, int32."""
        return self._weights.quantise(update)

    @abstractmethod
    def seal(self, update: npt.NDArray[Any]) -> bytes:
        """Return an upload; the participant's work."""

    @abstractmethod
    def load(self, upload: bytes) -> Total:
        """Return an upload as the server holds it."""

    @abstractmethod
    def add(self, x: Total, y: Total) -> Total:
        """Return the sum; the server's work."""

    @abstractmethod
    def dump(self, total: Total) -> bytes:
        """Return a sum as it is sent to participants."""

    @abstractmethod
    def open(self, download: bytes) -> npt.NDArray[np.int64]:
        """Return the sum in the clear; the participant's work."""

    def round(
        self, updates: Sequence[npt.NDArray[np.float64]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Play the phases that the class docstring lists, in that order."""
        self.meter = meter
        totals = [self._receive(self._push(update)) for update in updates]
        with meter("dsp_release"), meter("add", times=len(totals) - 1):
            total = reduce(self.add, totals)
        with meter("dsp_recipient") as outer, meter("finish") as inner:
            download = self.dump(total)
        self._note(download, outer, inner)
        with meter("client_pull") as outer:
            with meter("decrypt") as inner:
                opened = self.open(download)
            self._weights.apply(opened)
        self._note(download, outer, inner)
        return [opened]

    def _push(self, update: npt.NDArray[np.float64]) -> bytes:
        with self.meter("client_push") as outer:
            prepared = self.prepare(update)
            with self.meter("encrypt") as inner:
                upload = self.seal(prepared)
        self._note(upload, outer, inner)
        return upload

    def _receive(self, upload: bytes) -> Total:
        with self.meter("dsp_push") as outer, self.meter("check") as inner:
            total = self.load(upload)
        self._note(upload, outer, inner)
        return total

    def _note(self, message: bytes, *readings: Reading) -> None:
        for reading in readings:
            reading.bytes, reading.fixed_bytes = len(message), self.fixed_bytes
