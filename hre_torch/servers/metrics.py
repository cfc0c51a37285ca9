"""What Prometheus may know of a server: counts, sizes and times, never content.

Of releases that were given up as spoiled, operators learn who had uploads in them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from hre_torch.protocol.messages import Verdict
from hre_torch.servers.logs import log_event

__all__ = ["Metrics", "Rejections"]

_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """The measurements of one server, in a registry of its own.

    An instance is an `Observer`: `metrics("add")` times a phase.

    Attributes:
        uploads: acknowledged uploads; at the KTS, deposits with a receipt.
        rejects: what was refused, by class of error or HTTP status.
        rejected: releases that were given up, their content spoiled.
        pending: unreleased uploads by participant.
        octets: octets of messages by link and direction.
        version: newest release.
        ready: 1 while the server can do its work.
        behind: releases, or else uploads, that others have and this server lacks.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.uploads = Counter(
            "hre_uploads", "Uploads acknowledged", registry=self._registry
        )
        self.rejects = Counter(
            "hre_rejects", "Messages refused", ["reason"], registry=self._registry
        )
        self.rejected = Counter(
            "hre_rejected_releases", "Spoiled releases", registry=self._registry
        )
        self.pending = Gauge(
            "hre_pending_uploads",
            "Unreleased uploads",
            ["participant"],
            registry=self._registry,
        )
        self.octets = Counter(
            "hre_bytes",
            "Octets of messages",
            ["link", "direction"],
            registry=self._registry,
        )
        self.version = Gauge("hre_version", "Newest release", registry=self._registry)
        self.ready = Gauge("hre_ready", "Able to work", registry=self._registry)
        self.behind = Gauge(
            "hre_behind",
            "Releases, or else uploads, that others have and this server lacks",
            registry=self._registry,
        )
        self._phases = Histogram(
            "hre_phase_seconds",
            "Duration of a phase",
            ["phase"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the body of a `with` statement under the name of a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._phases.labels(phase).observe(time.perf_counter() - started)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


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
