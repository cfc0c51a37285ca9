"""What trains on a session's weights in use, and follows whenever they change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from hre_torch.observer import Observer

__all__ = ["LocalWeights", "followed"]


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
