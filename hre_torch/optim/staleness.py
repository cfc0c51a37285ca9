"""How much an update counts that was computed on old weights.

An update based on version `tau`, pushed when version `t` is known, has staleness
`d = t - tau >= 0`. The participant multiplies it by a weight `s(d)` in (0, 1] before it
is quantised, so that the servers need not know it.

References:
    C. Xie, S. Koyejo, I. Gupta, "Asynchronous Federated Optimization", 2019
    (arXiv:1903.03934), section 5.2: constant, polynomial and hinge weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hre_torch.errors import UnsupportedError

__all__ = ["Constant", "Hinge", "Polynomial", "StalenessWeight"]

StalenessWeight: TypeAlias = Callable[[int], float]


def _require(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise UnsupportedError(f"{name} is {value}; it must be {allowed}.")


@dataclass(frozen=True, slots=True)
class Constant:
    """Every update counts in full: s(d) = 1.

    >>> Constant()(7)
    1.0
    """

    def __call__(self, staleness: int) -> float:
        """Return 1, whatever the staleness."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Old updates fade slowly: s(d) = (d + 1)^(-a).

    Args:
        a: how fast, a > 0; 0.5 is the value of the paper's experiments.

    Raises:
        UnsupportedError: `a` is not positive.

    >>> Polynomial(0.5)(3)
    0.5
    """

    a: float = 0.5

    def __post_init__(self) -> None:
        _require(self.a > 0, "Polynomial.a", self.a, "greater than 0")

    def __call__(self, staleness: int) -> float:
        """Return the weight of an update of that staleness, in (0, 1]."""
        return float((staleness + 1) ** -self.a)


@dataclass(frozen=True, slots=True)
class Hinge:
    """Full weight up to `b` versions, then a hyperbola: s(d) = 1 / (a (d - b) + 1).

    Args:
        a: steepness after the hinge, a > 0; 10 in the paper's experiments.
        b: versions that cost nothing, b >= 0; 4 in the paper's experiments.

    Raises:
        UnsupportedError: `a` or `b` is out of range.

    >>> Hinge(a=10.0, b=4)(4), Hinge(a=10.0, b=4)(5)
    (1.0, 0.09090909090909091)
    """

    a: float = 10.0
    b: int = 4

    def __post_init__(self) -> None:
        _require(self.a > 0, "Hinge.a", self.a, "greater than 0")
        _require(self.b >= 0, "Hinge.b", self.b, "at least 0")

    def __call__(self, staleness: int) -> float:
        """Return the weight of an update of that staleness, in (0, 1]."""
        return 1.0 / (self.a * max(0, staleness - self.b) + 1.0)
