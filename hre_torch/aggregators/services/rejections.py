"""What a server tells its operator of releases that were given up as spoiled."""

from __future__ import annotations

import logging

from hre_torch.aggregators.services.logs import log_event
from hre_torch.aggregators.services.metrics import Metrics
from hre_torch.protocol.messages import Verdict

__all__ = ["Rejections"]


class Rejections:
    """Counts verdicts and warns of whoever was in all of the lists.

    Args:
        metrics: where they are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seen: set[int] = set()
        self._in_all: set[str] = set()

    def note(self, verdict: Verdict) -> None:
        """Log a verdict by which a release is given up, once; other ones are not."""
        if not verdict.final or verdict.version in self._seen:
            return
        contributors = set(verdict.contributors)
        self._in_all = self._in_all & contributors if self._seen else contributors
        self._seen.add(verdict.version)
        self._metrics.rejected.inc()
        log_event(
            "release rejected",
            level=logging.WARNING,
            version=verdict.version,
            contributors=sorted(contributors),
            rejected_by=list(verdict.rejected),
            opened_by=list(verdict.opened),
            rejected_so_far=len(self._seen),
            in_all_of_them=sorted(self._in_all),
        )
