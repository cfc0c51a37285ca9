"""What Prometheus may know of a server: counts, sizes and times, never content."""

from __future__ import annotations

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

__all__ = ["Metrics"]

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
