"""The same run without protection, to compare with."""

from __future__ import annotations

from pathlib import Path

from hre_torch.protocol.task import TaskConfig
from hre_torch.recipes import Recipe

__all__ = ["plain_twin", "twin_path"]


def plain_twin(recipe: Recipe, config: TaskConfig) -> Recipe:
    """Return the recipe whose weights must equal those of `recipe` in every bit.

    Defaults that depend on the suite are those of the task that was run.

    Args:
        recipe: what was run.
        config: the task that was made for it.
    """
    return recipe.model_copy(
        update={
            "suite": "plain",
            "min_contributions": config.min_contributions,
            "max_additions": config.max_additions,
            "workers": 1,
        }
    )


def twin_path(path: Path) -> Path:
    """Return where the plain twin of the run in a directory is written."""
    return path.with_name(f"{path.name}-plain")
