"""What a script reads of its surroundings: who it is, and which federation it joins.

The same script trains in `hre_torch.simulate`, under `hre-torch run` and in production.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset

from hre_torch.errors import UnsupportedError
from hre_torch.protocol.session import Session

__all__ = ["Surroundings", "join", "share", "surrounded"]

NUMBER: Final = "HRE_TORCH_PARTICIPANT"
COUNT: Final = "HRE_TORCH_PARTICIPANTS"


@dataclass(frozen=True)
class Surroundings:
    """Where a script runs.

    Attributes:
        number: which participant this is, from 0.
        count: how many there are.
        join: returns a session, given the model and the name of the task.
    """

    number: int
    count: int
    join: Callable[[nn.Module, str], Session]


_HERE: ContextVar[Surroundings | None] = ContextVar("surroundings", default=None)


@contextlib.contextmanager
def surrounded(seen: Surroundings) -> Iterator[None]:
    """Let `join` and `share` see these surroundings inside, in this thread."""
    token = _HERE.set(seen)
    try:
        yield
    finally:
        _HERE.reset(token)


def join(module: nn.Module, task: str = "main") -> Session:
    """Return the session of whoever runs this script.

    Args:
        module: the model that is trained; its parameters may come in any order.
        task: name of the federation, where a script takes part in several.

    Raises:
        UnsupportedError: nothing around says which federation to join.
        TaskError: the federation cannot be made, or has this participant already.
    """
    here = _HERE.get()
    if here is None:
        raise UnsupportedError(
            "Nothing around this script says which federation to join: call it from "
            "hre_torch.simulate(train, participants=4), or make a session yourself by "
            "Federation.local(model, ...).join() or hre_torch.connect(...)."
        )
    return here.join(module, task)


def share(dataset: Dataset[Any]) -> Subset[Any]:
    """Return this participant's part of a data set: every P-th item.

    Args:
        dataset: map-style, the same for everybody. Real participants have data of their
            own; this is for trying out.

    Raises:
        UnsupportedError: the data set has no length, or nothing around says how many
            participants there are.
    """
    number, count = _place()
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise UnsupportedError(
            f"A {type(dataset).__name__} has no items by number; give a map-style data "
            "set, or let it read HRE_TORCH_PARTICIPANT of HRE_TORCH_PARTICIPANTS."
        )
    return Subset(dataset, range(number, len(dataset), count))


def _place() -> tuple[int, int]:
    here = _HERE.get()
    if here is not None:
        return here.number, here.count
    try:
        number, count = int(os.environ[NUMBER]), int(os.environ[COUNT])
    except (KeyError, ValueError):
        raise UnsupportedError(
            f"Nothing around says how many participants there are: set {NUMBER} (from "
            f"0) and {COUNT}, or call hre_torch.simulate."
        ) from None
    if not 0 <= number < count:
        raise UnsupportedError(
            f"{NUMBER} is {number} and {COUNT} is {count}; the first must be from 0 to "
            f"{count - 1}."
        )
    return number, count
