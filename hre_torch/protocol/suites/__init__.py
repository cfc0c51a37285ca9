"""Suites by name.

A third party adds one with `SUITES.register("name")(MySuite())`, or by an entry point
of the group `hre_torch.suites` that names a `Suite` instance.
"""

from __future__ import annotations

from typing import Final

from hre_torch.protocol.suite import Suite
from hre_torch.registry import Registry

__all__ = ["SUITES"]

SUITES: Final[Registry[Suite]] = Registry(
    "suite",
    "hre_torch.suites",
    {
        "gated": "hre_torch.protocol.suites.gated:SUITE",
        "hybrid": "hre_torch.protocol.suites.hybrid:SUITE",
        "paper": "hre_torch.protocol.suites.paper:SUITE",
        "phong": "hre_torch.protocol.suites.phong:SUITE",
        "plain": "hre_torch.protocol.suites.plain:SUITE",
    },
)
