"""A8: whoever made the modulus and kept its factors opens everything alone.

`g` is an n-th residue, so `T_j^lambda = 1 + lambda m_j n` for `lambda = lcm(p - 1,
q - 1)`: Paillier's own decryption (EUROCRYPT 1999), past every key, server and list. No
suite helps against it. What helps is a modulus without a dealer: nobody is known to
hold the factors of RSA-2048, and a ceremony forgets those that it drew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import gmpy2
from gmpy2 import mpz

from benchmarks.attacks.algebra import blocks_of, lanes_of, look, power
from benchmarks.attacks.result import Attack, Outcome, Target
from benchmarks.attacks.scene import Scene
from hre_torch.crypto.dcr.modulus import Parameters, load_profile
from hre_torch.crypto.entropy import SYSTEM_ENTROPY
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.suite import Parts
from hre_torch.protocol.task import Task

__all__ = ["ATTACK", "View", "dealer"]

_SMOOTH: Final = 2000
"""Bound of Pollard's p - 1 method: a gesture, not a measure of the modulus."""


@dataclass(frozen=True, slots=True)
class View:
    """What the dealer knows, or anybody if there is none.

    Attributes:
        task: public.
        upload: body of alice's upload, tapped.
        factors: `p` and `q`, if somebody kept them.
    """

    task: Task
    upload: Parts
    factors: tuple[mpz, mpz] | None = field(repr=False)


def dealer(view: View) -> tuple[int, ...] | None:
    """Return alice's update; None if the factors are not to be had."""
    lanes, n = lanes_of(view.task), view.task.parameters.n
    factors = view.factors or factor(n)
    if factors is None:
        return None
    order = gmpy2.lcm(factors[0] - 1, factors[1] - 1)
    _, blocks = blocks_of(view.upload, lanes)
    opened = []
    for block in blocks:
        for lane in block:
            multiple = (power(lane, order, lanes.parameters) - 1) // n
            opened.append(1 + multiple * gmpy2.invert(order, n) % n * n)
    return look(opened, lanes, 1, view.upload)


def factor(n: mpz) -> tuple[mpz, mpz] | None:
    """Return two factors if Pollard's p - 1 method finds them quickly, else None.

    J. M. Pollard, "Theorems on factorization and primality testing", 1974.
    """
    smooth = mpz(math.lcm(*range(1, _SMOOTH)))
    found = gmpy2.gcd(gmpy2.powmod(mpz(2), smooth, n) - 1, n)
    return None if found in (1, n) else (found, n // found)


def _deal(profile: str) -> tuple[Parameters, tuple[mpz, mpz]]:
    """Return parameters as a dishonest dealer makes them, and what it keeps."""
    like = load_profile(profile)
    half = like.modulus_bits // 2
    p, q = (
        gmpy2.next_prime(SYSTEM_ENTROPY.bits(half) | mpz(3) << (half - 2))
        for _ in range(2)
    )
    parameters = Parameters(
        name="dealt-insecure",
        n=p * q,
        lanes=like.lanes,
        exponent_bits=like.exponent_bits,
        security_bits=0,
        provenance="a dealer who kept the factors, for this demonstration",
    )
    return parameters, (p, q)


def _run(target: Target, seed: int, profile: str) -> Outcome:
    suite, *dealt = target.suite.split()
    parameters, factors = _deal(profile) if dealt else (None, None)
    scene = Scene(suite, seed, profile, parameters=parameters)
    updates = scene.contribute("alice")
    view = View(scene.task, scene.heard("alice->dsp", Upload)[0].parts, factors)
    return Outcome.of(dealer(view), updates["alice"])


ATTACK: Final = Attack(
    name="A8",
    title="the factors of the modulus open everything",
    who="whoever made the modulus",
    run=_run,
    targets=(
        Target(
            "paper with a dealer",
            expected=True,
            because="whoever knows p and q needs no other key",
        ),
        Target(
            "gated with a dealer",
            expected=True,
            because="by design no suite helps against whoever knows p and q: use a "
            "modulus without a dealer",
        ),
        Target(
            "gated",
            expected=False,
            because="nobody is known to hold the factors of a shipped modulus, and "
            "without them an upload stays closed",
        ),
        Target(
            "hybrid with a dealer",
            expected=True,
            because="by design: the factors open the key layer, and with it the words",
        ),
        Target(
            "hybrid",
            expected=False,
            because="without the factors the key layer stays closed, and without the "
            "secret in it the words do",
        ),
    ),
)
