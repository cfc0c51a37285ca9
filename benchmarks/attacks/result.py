"""What an attack is, where it is played, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hre_torch.errors import HREError

__all__ = ["Attack", "AttackResult", "Outcome", "Refusals", "Target"]

Numbers = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Target:
    """One setting in which an attack is tried.

    Attributes:
        suite: a suite, or a weakened variant such as `"paper without sigma"`.
        expected: whether the attack succeeds there.
        because: why, in one sentence.
        scenario: tells several settings on one suite apart; usually empty.
    """

    suite: str
    expected: bool
    because: str
    scenario: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attacker got out of one attempt.

    Attributes:
        recovered: what it computed, whether right or not; None if it got nothing.
        true: what it was after.
        refusals: the typed errors that honest roles met it with.
        succeeded: whether it got what it was after.
    """

    recovered: tuple[int, ...] | None
    true: tuple[int, ...]
    refusals: tuple[str, ...]
    succeeded: bool

    @classmethod
    def of(
        cls,
        recovered: Numbers | None,
        true: Numbers,
        refusals: Refusals | None = None,
    ) -> Outcome:
        """Return the outcome of an attack that succeeds by recovering the truth."""
        got = None if recovered is None else tuple(int(x) for x in recovered)
        wanted = tuple(int(x) for x in true)
        met = () if refusals is None else tuple(refusals.met)
        return cls(got, wanted, met, got == wanted)


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack of the catalogue.

    Attributes:
        name: `"A1"` to `"A17"`.
        title: what it does, in a few words.
        who: whose knowledge it takes.
        run: plays it: `run(target, seed, profile) -> Outcome`.
        targets: where it is played, open settings first.
    """

    name: str
    title: str
    who: str
    run: Callable[[Target, int, str], Outcome] = field(repr=False)
    targets: tuple[Target, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack on one target, played.

    Attributes:
        attack: `"A1"` to `"A17"`.
        suite: as in `Target`.
        scenario: as in `Target`.
        succeeded: whether the attacker got what it was after.
        expected: whether it should have.
        recovered: what the attacker computed; None if it got nothing.
        true: what it was after.
        refusals: the typed errors that honest roles met it with.
        explanation: why it is so.
    """

    attack: str
    suite: str
    scenario: str
    succeeded: bool
    expected: bool
    recovered: tuple[int, ...] | None = field(repr=False)
    true: tuple[int, ...] = field(repr=False)
    refusals: tuple[str, ...]
    explanation: str

    @property
    def as_expected(self) -> bool:
        """Whether the attack did what it should."""
        return self.succeeded == self.expected


class Refusals:
    """Collects the typed errors that an attacker meets while it tries every door.

    Only errors that hre_torch raises on purpose count; any other is a bug and is let
    through.
    """

    def __init__(self) -> None:
        self.met: list[str] = []

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: object,
    ) -> bool:
        if not isinstance(error, HREError):
            return False
        self.met.append(f"{type(error).__name__}: {error}")
        return True
