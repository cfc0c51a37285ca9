"""What a session starts from, what it counts, and what it needs to go on."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.errors import LayoutError, WrongTaskError
from hre_torch.participant.participant import ParticipantState
from hre_torch.participant.pending import Attempt, RefusedState
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import state_digest

__all__ = ["SessionState", "Statistics", "checked_initial"]


@dataclass(slots=True)
class Statistics:
    """What a session has done so far; bytes are those that crossed the aggregator.

    Attributes:
        pushes: own updates that were acknowledged.
        pulls: how often it asked for releases.
        releases: how many it applied.
        rejected: releases that were given up, since their content was spoiled.
        expired: own updates that were too old to be released.
        spent: own updates that are lost to training and never sealed again, since a
            list that was rejected names them, or one that was not seen here may.
        bytes_up: octets of uploads.
        bytes_down: octets of downloads.
        suspects: identities that had an upload in every rejected release.
    """

    pushes: int = 0
    pulls: int = 0
    releases: int = 0
    rejected: int = 0
    expired: int = 0
    spent: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    suspects: tuple[str, ...] = ()


class SessionState(msgspec.Struct):
    """Everything a session needs to go on after a restart, keys aside.

    Arrays are little-endian: `released` int64, each update int32. Pending ones go by
    sequence number.

    Attributes:
        cfg: hash of the task.
        name: the participant.
        state_digests: what upload headers say of `released` and of the weights before;
            see `ReleasedWeights`.
        attempts: earlier uploads of pending updates, by the number they have now.
        evidence: encoded `Evidence` against the DSP.
    """

    cfg: bytes
    name: str
    participant: ParticipantState
    released: bytes
    pending: dict[int, bytes]
    refused: list[RefusedState]
    state_digests: bytes
    latest_version: int
    statistics: Statistics
    attempts: dict[int, tuple[Attempt, ...]] = {}
    evidence: list[bytes] = []

    def require(self, task: Task, name: str) -> None:
        """Refuse to go on as somebody else, or in another task.

        Raises:
            WrongTaskError: the state is not of this participant in this task.
        """
        seen, here = (self.name, self.cfg), (name, task.cfg)
        if seen != here:
            raise WrongTaskError(
                f"the saved state is that of {seen[0]!r} in task {seen[1].hex()[:16]}, "
                f"but this is {here[0]!r} in task {here[1].hex()[:16]}; go on from "
                "another file, or remove that one to start afresh"
            )


def checked_initial(
    task: Task, initial: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.int64]:
    """Return a copy of the weights that a task starts from.

    Raises:
        LayoutError: none are given, or others, by shape, dtype or hash.
    """
    if initial is None:
        raise LayoutError(
            "a session starts from the initial weights of its task or from a saved "
            "state; neither was given"
        )
    if initial.shape != (task.config.n_values,) or initial.dtype != np.int64:
        raise LayoutError(
            f"initial weights have shape {initial.shape} and dtype {initial.dtype}; "
            f"the task takes shape {(task.config.n_values,)} and dtype int64"
        )
    if state_digest(initial) != task.config.initial_digest:
        raise LayoutError(
            "the initial weights are not those the task starts from (their hash "
            "differs): load the file that was published with the task"
        )
    return initial.copy()
