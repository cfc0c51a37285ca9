"""Attacks A1 to A17: small programs that use only what their attacker may know.

Each succeeds on a suite, or on a weakened variant of one, that is open to it, and fails
on `gated` and `hybrid`, where honest roles refuse it with a typed error or leave it
with noise; its `explanation` says where that is not so. `run_attack` plays one,
`hre-torch attack all` plays them all. Everything happens in this process, on keys made
for the occasion.
"""

from __future__ import annotations

from benchmarks.attacks.catalogue import ATTACKS, play_all, run_attack
from benchmarks.attacks.result import AttackResult

__all__ = ["ATTACKS", "AttackResult", "play_all", "run_attack"]
