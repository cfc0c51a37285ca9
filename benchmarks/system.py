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

    A round takes updates in the clear to their sum in the clear, and brackets each
    phase of its own with the meter. The phases have no fixed list: a system measures
    what it has, under a name that means the same in every system.

    Args:
        name: what the records call the system.
        workload: the work.
        modulus_bits: length of the modulus under the ciphertexts; None without one.
        lanes: ciphertexts that share one randomness; None without ciphertexts of the
            Paillier kind.
        uploads: updates that a round adds, at least 2; by default as many as the
            workload has participants.
        measured_values: most values of each update that a round can treat; fewer than
            the workload has where all would take hours. The workload's own `sample` may
            ask for still fewer.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        *,
        modulus_bits: int | None,
        lanes: int | None,
        uploads: int | None = None,
        measured_values: int | None = None,
    ) -> None:
        self.name = name
        self.modulus_bits = modulus_bits
        self.lanes = lanes
        self.uploads = uploads or workload.participants
        limits = (workload.values, measured_values, workload.sample)
        self.measured_values = min(limit for limit in limits if limit is not None)

    @abstractmethod
    def round(
        self, updates: Sequence[npt.NDArray[np.float64]], meter: Meter
    ) -> list[npt.NDArray[np.int64]]:
        """Protect, add and open updates, measuring each phase.

        Conversions count: a phase starts from what its role holds or receives as
        bytes, and ends with the bytes that it sends.

        Args:
            updates: `uploads` vectors, float64, of shape `(measured_values,)`.
            meter: takes the readings.

        Returns:
            The sum as each recipient opened it, int64 at scale 2^f, of shape
            `(measured_values,)`.
        """

    def replay(self, meter: Meter) -> None:  # noqa: B027
        """Measure what a round has put off, of the earliest round not replayed yet.

        Some roles have machines of their own, and would be measured falsely amid the
        work of the others; for most systems that is nothing.

        Args:
            meter: takes the readings; that of the round.
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
