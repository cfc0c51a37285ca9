"""What an `HREOptimizer` counts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from hre_torch.errors import NonFiniteGradientWarning

__all__ = ["Progress"]


@dataclass(slots=True)
class Progress:
    """Counters of one participant's training; saved with the optimizer's state.

    Attributes:
        local_steps: steps that the inner optimizer made.
        skipped_steps: steps or pushes left out because a number was not finite.
        held_back: pushes that `BackPressure` put off.
        clipped: pushes that the clip has shortened.
        since_push: local steps since the last push.
        since_pull: local steps since the last pull.
    """

    local_steps: int = 0
    skipped_steps: int = 0
    held_back: int = 0
    clipped: int = 0
    since_push: int = 0
    since_pull: int = 0

    def count(self) -> None:
        """Count a local step."""
        self.local_steps += 1
        self.since_push += 1
        self.since_pull += 1

    def skip(self, reason: str) -> None:
        """Count a step that is left out; warn of the first."""
        if self.skipped_steps == 0:
            warnings.warn(
                f"HREOptimizer left out a step: {reason}. Further ones are counted in "
                "progress.skipped_steps without a warning.",
                NonFiniteGradientWarning,
                stacklevel=4,
            )
        self.skipped_steps += 1
