"""Own updates that no release or expiry seen so far contains, by sequence number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hre_torch.protocol.combination import Combination
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector

__all__ = ["PendingUpdates"]

Integers = npt.NDArray[np.signedinteger]


class PendingUpdates(dict[int, Integers]):
    """Quantised updates as they were pushed, each of shape `(n_sealed,)`.

    They wait in as few octets as their values fit: half of what int32 would take.

    Args:
        task: the task.
        encoded: what `encoded` returned in an earlier session.

    Raises:
        LayoutError: that is of another model.
    """

    def __init__(self, task: Task, encoded: Mapping[int, bytes] | None = None) -> None:
        super().__init__()
        self._combination = Combination(task.config)
        self._dtype = task.fixed_point.dtype
        for number, data in (encoded or {}).items():
            values = decode_vector(data, "<i4", task.config.n_sealed)
            self[number] = values.astype(self._dtype)

    def narrow(self, values: Integers) -> Integers:
        """Return an update in the type in which it waits.

        A read-only array of that type is returned as it is, anything else is copied.
        """
        return values.astype(self._dtype, copy=values.flags.writeable)

    def add_to(self, weights: npt.NDArray[np.int64], piece: slice) -> None:
        """Add all of them, at the size at which their owner applies them.

        Args:
            weights: int64 at scale 2^f; changed.
            piece: which contiguous part of the vector that is.
        """
        for values in self.values():
            weights += self.own(values, piece)

    def own(self, values: Integers, piece: slice) -> Integers:
        """Return (a piece of) one of them at that size: see `Combination.own`."""
        return self._combination.own(values, piece)

    def encoded(self) -> dict[int, bytes]:
        """Return all of them as octets, int32 little-endian."""
        return {number: q.astype("<i4").tobytes() for number, q in self.items()}
