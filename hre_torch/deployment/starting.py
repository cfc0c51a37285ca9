"""Where a participant's session goes on: at the beginning, late, or after a crash."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.aggregators.http import HTTPAggregator
from hre_torch.aggregators.http.newcomer import ask_for_snapshot
from hre_torch.aggregators.http.snapshots import Released
from hre_torch.errors import LayoutError
from hre_torch.protocol.participant import ParticipantState
from hre_torch.protocol.requests import Status
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.session_state import SessionState, Statistics
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import state_digest

__all__ = ["starting_state"]


def starting_state(
    link: HTTPAggregator,
    task: Task,
    secret: Secret,
    *,
    initial: npt.NDArray[np.int64] | None,
    saved: SessionState | None,
    timeout: float | None,
) -> SessionState:
    """Return the state that a session starts from.

    Args:
        link: the connection to the DSP.
        task: the task.
        secret: the participant's keys.
        initial: the weights that the task starts from, if they are at hand.
        saved: where an earlier session of this participant stood, if that is known.
        timeout: seconds to wait for a snapshot; None waits until stopped.

    Raises:
        WrongTaskError: the saved state is another participant's, or of another task.
        LayoutError: the task has not begun and there is nothing to start from.
        AggregatorError: the DSP cannot be reached, or nobody sends a snapshot.
    """
    if saved is not None:
        saved.require(task, secret.name)
    crashed = saved is not None
    if saved is None:
        saved = _without_memory(link, task, secret, initial, timeout)
        crashed = saved.participant.sequence > 0
    return _brought_up_to_date(saved, link.status(), task) if crashed else saved


def _without_memory(
    link: HTTPAggregator,
    task: Task,
    secret: Secret,
    initial: npt.NDArray[np.int64] | None,
    timeout: float | None,
) -> SessionState:
    standing = link.status()
    if initial is not None and standing.oldest <= 1:
        start = Released(0, ParticipantState().chain, state_digest(initial), initial)
        return _state_at(start, standing, task, secret)
    if standing.version == 0:
        raise LayoutError(
            "the task has not begun yet: give the initial weights, the file that its "
            "operator published with the roster"
        )
    found = ask_for_snapshot(link, task, secret, timeout=timeout)
    return _state_at(found, standing, task, secret)


def _brought_up_to_date(
    state: SessionState, standing: Status, task: Task
) -> SessionState:
    """Return a saved state that uses no sequence number which was used since then.

    At most Q uploads were under way at a crash, and the network may deliver them yet:
    so many numbers are passed over. The DSP counts what it is reading when it is asked;
    what a network holds back for longer than that is not known here, and its batch is
    trained a second time. What was refused may have been sealed again since then, if
    anything was sent: the same values must not be sent twice, so it is dropped.
    """
    used = max(state.participant.sequence, standing.next_sequence)
    sequence = used + task.config.pending_limit
    sent = max(0, standing.next_sequence - state.participant.sequence)
    # An optimizer's state that is as old as this one must know that it is.
    spent = len(state.refused) if sent else 0
    statistics = replace(
        state.statistics,
        pushes=state.statistics.pushes + sent,
        spent=state.statistics.spent + spent,
    )
    return msgspec.structs.replace(
        state,
        refused=[] if spent else state.refused,
        statistics=statistics,
        participant=msgspec.structs.replace(state.participant, sequence=sequence),
        latest_version=max(state.latest_version, standing.version),
    )


def _state_at(
    found: Released, standing: Status, task: Task, secret: Secret
) -> SessionState:
    return SessionState(
        cfg=task.cfg,
        name=secret.name,
        participant=ParticipantState(
            sequence=standing.next_sequence, version=found.version, chain=found.chain
        ),
        released=found.weights.astype("<i8").tobytes(),
        pending={},
        refused=[],
        state_digests=found.state_digests,
        latest_version=standing.version,
        statistics=Statistics(),
    )
