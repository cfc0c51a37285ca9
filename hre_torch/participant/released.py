"""Released weights, and what upload headers say of them.

Where releases are opened one by one, headers carry a hash over all models so far and
not of the newest one alone. So a DSP that shows somebody other weights cannot hide it
by taking them back.

Headers name the models of all versions that were opened one after another, as far back
as an upload may lag. A snapshot starts a new such run, and so do releases that were
opened as one sum: of the versions between, nobody here has seen the weights.

Two more are remembered than are named. Uploads in the newest list agree on the model
of some version at most S + 1 before it, which then is settled. Who comes late has to be
shown what headers say of it and, since each hash holds the one before, of the version
before it.

What trains on a session's weights in use follows whenever they change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hre_torch.observer import Observer
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import chained_digest, state_digest
from hre_torch.protocol.wire import DIGEST_BYTES

__all__ = ["LocalWeights", "ReleasedWeights", "followed"]


class LocalWeights(Protocol):
    """The parameters of a model, say: weights in use and what training changed."""

    def absorb(self) -> None:
        """Take note of what training changed; the weights in use change next.

        Raises:
            NonFiniteError: a parameter is NaN or infinite; all were put back.
        """

    def show(self) -> None:
        """Show the new weights in use, with what training changed on top."""


@contextlib.contextmanager
def followed(local: LocalWeights | None, observe: Observer) -> Iterator[None]:
    """Have `local` follow a change of the weights in use that is made inside.

    Args:
        local: what follows; None if nothing does.
        observe: told of the phase `load`.

    Raises:
        NonFiniteError: as for `LocalWeights.absorb`; nothing was changed.
    """
    if local is None:
        yield
        return
    local.absorb()
    try:
        yield
    finally:
        # Even a pull that fails half-way has applied the releases before.
        with observe("load"):
            local.show()


class ReleasedWeights:
    """The sum of all releases so far, on top of what the task started from.

    Args:
        task: the task.
        values: int64 at scale 2^f, shape `(n_values,)`; not copied.
        run: what headers say, where a session goes on; the weights' own hash where it
            begins.

    Attributes:
        values: int64 at scale 2^f, shape `(n_values,)`.
        run: what headers say: digests of consecutive versions, 32 octets each, oldest
            first, at most S + 3; the last one is of `values`.
    """

    def __init__(
        self, task: Task, values: npt.NDArray[np.int64], run: bytes | None = None
    ) -> None:
        config = task.config
        suite = SUITES.get(config.suite)
        self._merges = suite.merges_in(config.combine, config.n_buffers, config.clip)
        self._named = DIGEST_BYTES * (config.staleness_bound + 1)
        self._longest = self._named + 2 * DIGEST_BYTES
        self.values = values
        self.run = state_digest(values) if run is None else run

    @property
    def digest(self) -> bytes:
        """SHA-256, what headers say of `values`."""
        return self.run[-DIGEST_BYTES:]

    @property
    def named(self) -> bytes:
        """As much of `run` as an upload names."""
        return self.run[-self._named :]

    @property
    def previous_digest(self) -> bytes:
        """What they said one release ago; empty where that is not known here."""
        return self.run[-2 * DIGEST_BYTES : -DIGEST_BYTES]

    def add(
        self, change: npt.NDArray[np.signedinteger] | None, releases: int = 1
    ) -> None:
        """Apply a release.

        Args:
            change: what its uploads come to, shape `(n_values,)`; None where everybody
                rejects it.
            releases: how many it is the sum of.
        """
        if change is not None:
            self.values += change
        digest = state_digest(self.values)
        if not self._merges:
            digest = chained_digest(self.digest, digest)
        before = self.run if releases == 1 else b""
        self.run = (before + digest)[-self._longest :]

    def replace(self, values: npt.NDArray[np.int64], run: bytes) -> None:
        """Go on from the weights of a newer version, as others vouch for them.

        Args:
            values: int64 at scale 2^f, shape `(n_values,)`; copied.
            run: what headers say of them, and of those before, as far as is known.
        """
        self.values = values.copy()
        self.run = run
