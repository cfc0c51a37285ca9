"""Training without a federation: on everybody's images in one place, or on one's own.

Both are what a federation is judged by: the first is the best that could be hoped for,
the second is what a participant has who stays away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from hre_torch.app.data.load import Data
from hre_torch.app.data.partition import Batches
from hre_torch.app.recipes import Recipe, TrainSection
from hre_torch.app.training.arithmetic import classify, recipe_model, torch_settings
from hre_torch.app.training.assembly import make_batches, steps_of
from hre_torch.app.training.evaluation import evaluate

__all__ = ["POINTS", "Point", "alone", "local_step", "pooled"]

POINTS: Final = 10
"""Tests of the model in the course of a training, the last one at its end."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a learning curve.

    Attributes:
        epoch: passes over the images that were trained on.
        accuracy: on the test images, in [0, 1].
    """

    epoch: float
    accuracy: float


def pooled(recipe: Recipe, data: Data) -> list[Point]:
    """Train on everybody's images in one place, with the recipe's optimizer.

    Batches, learning rate and epochs are the recipe's, so every image is seen as often
    as in the federation.
    """
    one = recipe.model_copy(update={"participants": 1})
    (batches,) = make_batches(one, data)
    return _train(recipe, data, batches)


def alone(recipe: Recipe, data: Data) -> list[Point]:
    """Train as the first participant that never joins: its share, its batches.

    It takes the local steps that it would take in the federation.
    """
    return _train(recipe, data, make_batches(recipe, data)[0])


def _train(recipe: Recipe, data: Data, batches: Batches) -> list[Point]:
    train = recipe.train
    model = recipe_model(recipe)
    steps = steps_of(recipe, batches)
    optimizer = train.make_optimizer(model.parameters())
    scheduler = train.make_scheduler(optimizer, steps)
    due = {round(steps * part / POINTS) for part in range(1, POINTS + 1)}
    curve = []
    with torch_settings(train):
        for step in range(steps):
            local_step(model, optimizer, batches, step, train)
            if scheduler is not None:
                scheduler.step()
            if step + 1 in due:
                accuracy = evaluate(model.eval(), data.test, train).accuracy
                model.train()
                curve.append(Point((step + 1) / len(batches), accuracy))
    return curve


def local_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    step: int,
    train: TrainSection,
) -> None:
    """Make one step of plain torch on batch number `step`, as precise as a run's."""
    images, labels = batches.batch(step)
    optimizer.zero_grad()
    _, loss = classify(model, images, labels, train)
    loss.backward()
    optimizer.step()
