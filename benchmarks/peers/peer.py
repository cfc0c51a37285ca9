"""The round of a peer whose participants share one secret key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.meter import Meter
from benchmarks.system import System

__all__ = ["Peer"]

Total = TypeVar("Total")


class Peer(System, Generic[Total]):
    """A server that adds ciphertexts and sends the sum to everybody, untransformed.

    Phases of a round, and the method that each of them measures: `encrypt` (`seal`),
    `check` (`load`), `add` (`add`), `finish` (`dump`), `decrypt` (`open`).
    """

    @abstractmethod
    def seal(self, update: npt.NDArray[np.int32]) -> bytes:
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
        self, updates: Sequence[npt.NDArray[np.int32]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Play the phases that the class docstring lists, in that order."""
        totals = []
        for update in updates:
            with meter("encrypt") as reading:
                upload = self.seal(update)
            reading.bytes = len(upload)
            with meter("check") as reading:
                totals.append(self.load(upload))
            reading.bytes = len(upload)
        with meter("add", times=len(totals) - 1) as reading:
            total = reduce(self.add, totals)
        reading.bytes = len(upload)
        with meter("finish") as reading:
            download = self.dump(total)
        reading.bytes = len(download)
        with meter("decrypt") as reading:
            opened = self.open(download)
        reading.bytes = len(download)
        return [opened]
