"""Participants that go away in the middle of a run, for a while or for good.

Who goes makes no last push, as a machine that is switched off makes none: what it had
not yet pushed reaches nobody, what it had pushed is released with the others' uploads.
"""

from __future__ import annotations

from collections.abc import Sequence

from hre_torch.recipes import Recipe

__all__ = ["pauses", "steps_before_going"]


def steps_before_going(recipe: Recipe, steps: Sequence[int]) -> list[int]:
    """Return how many steps each participant takes before it is gone for good.

    Args:
        recipe: says who goes and when.
        steps: how many each would take, shape `(P,)`.
    """
    taken = list(steps)
    for dropout in recipe.train.dropouts:
        if dropout.away is None:
            i = dropout.participant
            taken[i] = int(dropout.after * steps[i])
    return taken


def pauses(recipe: Recipe, steps: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Return participant to the step before which it is away, and how long."""
    return {
        dropout.participant: (
            int(dropout.after * steps[dropout.participant]),
            dropout.away,
        )
        for dropout in recipe.train.dropouts
        if dropout.away is not None
    }
