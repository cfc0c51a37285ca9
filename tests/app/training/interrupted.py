"""A run that is interrupted, beside the same run that is not."""

from __future__ import annotations

from pathlib import Path

from hre_torch.app.recipes import Recipe
from hre_torch.app.training.launch import Training

__all__ = ["weights_of_whole_and_broken"]


def weights_of_whole_and_broken(recipe: Recipe, folder: Path) -> list[bytes]:
    """Return the weights of a whole run, and of one that was resumed at once."""
    with Training.start(recipe, folder / "whole") as training:
        training.run()
    with Training.start(recipe, folder / "broken") as training:
        training.runner.listeners.append(lambda record: training.stop.set())
        assert training.run() is None
    with Training.resume(folder / "broken", recipe) as training:
        training.run()
    return [
        (folder / name / "weights.safetensors").read_bytes()
        for name in ("whole", "broken")
    ]
