"""Own updates that no release or expiry seen so far contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hre_torch.protocol.ciphers import Integers
from hre_torch.protocol.combination import Combination
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import decode_vector

__all__ = ["PendingUpdates"]


class PendingUpdates(dict[int, Integers]):
    """Quantised updates as they were pushed, each of shape `(n_sealed,)`, by number.

    They wait in as few octets as their values fit: half of what int32 would take.

    Args:
        task: the task.
        encoded: what `encoded` returned in an earlier session.
        refused: what `refused` held then, encoded alike.

    Attributes:
        refused: updates that were refused for now, to be sealed anew once a newer
            version is known than the one that each was based on, which is the first of
            a pair.

    Raises:
        LayoutError: that is of another model.
    """

    def __init__(
        self,
        task: Task,
        encoded: Mapping[int, bytes] | None = None,
        refused: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        super().__init__()
        self._task = task
        self._combination = Combination(task.config)
        for number, data in (encoded or {}).items():
            self[number] = self._decoded(data)
        self.refused = [(base, self._decoded(data)) for base, data in refused]

    @property
    def count(self) -> int:
        """How many there are, the refused ones included."""
        return len(self) + len(self.refused)

    def refuse(self, number: int, base_version: int) -> None:
        """Note that an update was refused for now; it counts on.

        Args:
            number: its sequence number, which stays used.
            base_version: of its upload.
        """
        values = self.pop(number, None)
        if values is not None:
            self.refused.append((base_version, values))

    def take_due(self, version: int) -> Integers | None:
        """Take out one that was refused before a version was known, if any was."""
        for place, (base, values) in enumerate(self.refused):
            if base < version:
                del self.refused[place]
                return values
        return None

    def narrow(self, values: Integers) -> Integers:
        """Return an update in the type in which it waits.

        A read-only array of that type is returned as it is, anything else is copied.
        """
        dtype = self._task.fixed_point.dtype
        return values.astype(dtype, copy=values.flags.writeable)

    def add_to(self, weights: npt.NDArray[np.int64], piece: slice) -> None:
        """Add all of them, at the size at which their owner applies them.

        Args:
            weights: int64 at scale 2^f; changed.
            piece: which contiguous part of the vector that is.
        """
        for values in self.values():
            weights += self.own(values, piece)
        for _, values in self.refused:
            weights += self.own(values, piece)

    def own(self, values: Integers, piece: slice = slice(None)) -> Integers:
        """Return (a piece of) one of them at that size: see `Combination.own`."""
        return self._combination.own(values, piece)

    def encoded(self) -> dict[int, bytes]:
        """Return those with a number as octets, int32 little-endian."""
        return {number: q.astype("<i4").tobytes() for number, q in self.items()}

    def encoded_refused(self) -> list[tuple[int, bytes]]:
        """Return the refused ones alike."""
        return [(base, q.astype("<i4").tobytes()) for base, q in self.refused]

    def _decoded(self, data: bytes) -> Integers:
        values = decode_vector(data, "<i4", self._task.config.n_sealed)
        return values.astype(self._task.fixed_point.dtype)
