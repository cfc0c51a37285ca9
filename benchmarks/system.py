"""What can be measured: anything that plays a round of protected addition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.meter import Meter
from benchmarks.workload import Workload

__all__ = ["System", "SystemFactory"]


class System(ABC):
    """A system with its keys made, ready to play rounds; it is a context manager.

    A round takes quantised updates in the clear to their sum in the clear, and
    brackets each phase of its own with the meter. The phases have no fixed list: a
    system measures what it has, under a name that means the same in every system.

    Args:
        name: what the records call the system.
        workload: the work.
        modulus_bits: length of the modulus under the ciphertexts; None without one.
        lanes: ciphertexts that share one randomness; None without ciphertexts of the
            Paillier kind.
        uploads: updates that a round adds, at least 2.
        measured_values: how many values of each update a round really treats; fewer
            than the workload has where all would take hours.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        *,
        modulus_bits: int | None,
        lanes: int | None,
        uploads: int = 2,
        measured_values: int | None = None,
    ) -> None:
        self.name = name
        self.modulus_bits = modulus_bits
        self.lanes = lanes
        self.uploads = uploads
        self.measured_values = min(workload.values, measured_values or workload.values)

    @abstractmethod
    def round(
        self, updates: Sequence[npt.NDArray[np.int32]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Protect, add and open updates, measuring each phase.

        Conversions count: a phase starts from what its role holds or receives as
        bytes, and ends with the bytes that it sends.

        Args:
            updates: `uploads` vectors of shape `(measured_values,)`.
            meter: takes the readings.

        Returns:
            The sum as each recipient opened it, shape `(measured_values,)`.
        """

    def close(self) -> None:  # noqa: B027
        """Give back what the system holds besides memory; for most that is nothing."""

    def __enter__(self) -> System:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


SystemFactory: TypeAlias = Callable[[Workload], System]
"""Makes a system; it pickles, because systems are made in a process of their own."""
