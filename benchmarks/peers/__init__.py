"""Peers by name: other people's systems for the same job, and a part of our own.

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
        "hybrid-words": "benchmarks.words:SYSTEMS",
        "phe": "benchmarks.peers.phe_paillier:SYSTEMS",
        "phong-lwe": "benchmarks.peers.phong_lwe:SYSTEMS",
        "secagg": "benchmarks.peers.secagg:SYSTEMS",
        "tenseal": "benchmarks.peers.tenseal_ckks:SYSTEMS",
    },
)
