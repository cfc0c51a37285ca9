"""What an `HREOptimizer` counts, and warns of when it counts it first."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from types import FrameType
from typing import Final

from hre_torch.errors import (
    AloneWarning,
    NonFiniteGradientWarning,
    SaturationWarning,
)
from hre_torch.participant.session import Session

__all__ = ["Finish", "Progress"]

_PATIENCE: Final = 10
"""Pushes without a release before it is told: a release may need t slower ones."""


@dataclass(slots=True)
class Progress:
    """Counters of one participant's training; saved with the optimizer's state.

    Attributes:
        local_steps: steps that the inner optimizer made.
        skipped_steps: steps or pushes left out because a number was not finite.
        held_back: pushes that `BackPressure` put off.
        saturated: values of pushes that were cut to what one push can carry; with
            error feedback the rest follows with later pushes.
        clipped: pushes that the clip has shortened.
        update_norm: L2 norm of the newest push's parameters before the clip, which is
            what a clip is chosen by.
        since_push: local steps since the last push.
        since_pull: local steps since the last pull.
        unanswered: pushes since a pull last brought a release.
    """

    local_steps: int = 0
    skipped_steps: int = 0
    held_back: int = 0
    saturated: int = 0
    clipped: int = 0
    update_norm: float = 0.0
    since_push: int = 0
    since_pull: int = 0
    unanswered: int = 0

    def count(self) -> None:
        """Count a local step."""
        self.local_steps += 1
        self.since_push += 1
        self.since_pull += 1

    def skip(self, reason: str) -> None:
        """Count a step that is left out; warn of the first."""
        if self.skipped_steps == 0:
            _warn(
                NonFiniteGradientWarning,
                f"HREOptimizer left out a step: {reason}. Further ones are counted in "
                "progress.skipped_steps without a warning.",
            )
        self.skipped_steps += 1

    def hold_back(self, session: Session) -> None:
        """Count a push that the task's bound put off; warn of the first."""
        if self.held_back == 0:
            _warn(
                AloneWarning,
                f"A push was held back, since {session.pending} of your updates wait "
                f"for a release. {session.company()} Further ones are counted in "
                "progress.held_back without a warning; what is not pushed is kept.",
            )
        self.held_back += 1

    def push(self, saturated: int, size: int) -> None:
        """Count a push.

        Args:
            saturated: how many of its values were cut to what one push can carry.
            size: how many it has.
        """
        if saturated and not self.saturated:
            _warn(
                SaturationWarning,
                f"{saturated} of {size} values of a push were larger than one push can "
                "carry, and were cut; the rest follows with later pushes, or is lost "
                "without error_feedback. Push more often, use a smaller learning rate, "
                "or make the task with fewer fraction_bits or more value_bits. Further "
                "ones are counted in progress.saturated without a warning.",
            )
        self.saturated += saturated
        self.unanswered += 1
        self.since_push = 0

    def pull(self, releases: int, session: Session) -> None:
        """Count a pull; warn when releases have not come for a while.

        Args:
            releases: how many it brought.
            session: says who takes part.
        """
        self.since_pull = 0
        if releases:
            self.unanswered = 0
        elif self.unanswered == _PATIENCE:
            _warn(
                AloneWarning,
                f"No release has come for {_PATIENCE} pushes: this model learns from "
                f"your data only. {session.company()}",
            )


@dataclass(frozen=True, slots=True)
class Finish:
    """How a training ended.

    Attributes:
        version: number of releases that the model has.
        pending: own updates that were not released.
        unpushed: whether local steps were not pushed.
    """

    version: int
    pending: int
    unpushed: bool

    def tell(self, session: Session) -> None:
        """Warn of what others will not learn, if anything."""
        lost = [
            *([f"{self.pending} of your updates"] if self.pending else []),
            *(["the last local steps"] if self.unpushed else []),
        ]
        if lost:
            learned = f"{session.statistics.releases} releases"
            _warn(
                AloneWarning,
                f"The training ended after {learned}, and {' and '.join(lost)} were "
                f"not released: nobody else has them. {session.company()}",
            )


def _warn(kind: type[Warning], message: str) -> None:
    """Warn at the line of the script, past our frames and torch's hooks around them."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_library(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level + 1)


def _is_library(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] in ("hre_torch", "torch")
