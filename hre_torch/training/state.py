"""Everything that a run needs to go on after an interruption."""

from __future__ import annotations

from typing import Any

import msgspec

from hre_torch.federation import FederationState
from hre_torch.training.phases import PhaseTotal
from hre_torch.training.schedule import ScheduleState

__all__ = ["LearnerState", "RunState"]


class LearnerState(msgspec.Struct):
    """One participant's training, its session aside.

    Attributes:
        model: the module's `state_dict`: parameters and buffers.
        optimizer: the `state_dict` of its `HREOptimizer`.
        scheduler: the `state_dict` of its learning-rate scheduler, or None.
        loss_sum: sum of the losses since its last record.
        loss_count: how many losses that are.
    """

    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    loss_sum: float
    loss_count: int


class RunState(msgspec.Struct):
    """A run between two steps; it holds everybody's keys.

    Attributes:
        federation: servers, sessions and all secrets.
        schedule: whose turn it is.
        learners: participants by name.
        evaluations: how many evaluations were made.
        seconds: wall-clock time spent training so far.
        phases: party to phase to what was measured so far.
        random_state: torch's generators, which dropout draws from, by type of device,
            uint8 each; None before the first step.
    """

    federation: FederationState
    schedule: ScheduleState
    learners: dict[str, LearnerState]
    evaluations: int
    seconds: float
    phases: dict[str, dict[str, PhaseTotal]]
    random_state: dict[str, Any] | None

    @property
    def global_step(self) -> int:
        """Steps of all participants together."""
        return sum(self.schedule.taken)
