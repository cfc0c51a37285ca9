"""Released weights, and what upload headers say of them.

Where releases are opened one by one, headers carry a hash over all models so far and
not of the newest one alone. So a DSP that shows somebody other weights cannot hide it
by taking them back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import chained_digest, state_digest

__all__ = ["ReleasedWeights"]


class ReleasedWeights:
    """The sum of all releases so far, on top of what the task started from.

    Args:
        task: the task.
        values: int64 at scale 2^f, shape `(n_values,)`; not copied.
        digest: what headers say of them, where a session goes on; their own hash where
            it begins.

    Attributes:
        values: int64 at scale 2^f, shape `(n_values,)`.
        digest: SHA-256, what headers say of `values`.
        previous_digest: what they said one release ago; empty where this session has
            not seen that release.
    """

    def __init__(
        self, task: Task, values: npt.NDArray[np.int64], digest: bytes | None = None
    ) -> None:
        config = task.config
        suite = SUITES.get(config.suite)
        self._merges = suite.merges_in(config.combine, config.n_buffers)
        self.values = values
        self.digest = state_digest(values) if digest is None else digest
        self.previous_digest = b""

    def add(self, change: npt.NDArray[np.signedinteger] | None) -> None:
        """Apply a release.

        Args:
            change: what its uploads come to, shape `(n_values,)`; None where everybody
                rejects it.
        """
        if change is not None:
            self.values += change
        digest = state_digest(self.values)
        if not self._merges:
            digest = chained_digest(self.digest, digest)
        self.previous_digest, self.digest = self.digest, digest

    def replace(self, values: npt.NDArray[np.int64], digest: bytes) -> None:
        """Go on from the weights of a newer version, as others vouch for them.

        Args:
            values: int64 at scale 2^f, shape `(n_values,)`; copied.
            digest: what headers say of them.
        """
        self.values = values.copy()
        self.previous_digest, self.digest = b"", digest
