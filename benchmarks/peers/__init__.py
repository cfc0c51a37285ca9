"""Peers by name: other people's systems for the same job.

A name stands for one or several systems of one library, which is imported when the name
is asked for.
"""

from __future__ import annotations

from typing import Final

from benchmarks.system import SystemFactory
from hre_torch.registry import Registry

__all__ = ["PEERS"]

PEERS: Final[Registry[tuple[SystemFactory, ...]]] = Registry(
    "benchmark peer",
    "hre_torch.benchmark_peers",
    {
        "phe": "benchmarks.peers.phe_paillier:SYSTEMS",
        "tenseal": "benchmarks.peers.tenseal_ckks:SYSTEMS",
    },
)
