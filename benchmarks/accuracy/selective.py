"""Selective SGD of Shokri and Shmatikov: participants in turn, never stale.

`benchmarks.accuracy.shokri` plays it in the asynchronous order of a federated run and
at a constant learning rate, as published. Here it gets what the other methods of the
study get, though its learning rate is theirs and was not chosen for it:

- turns, so that no upload is based on old parameters;
- as many exchanges as the federated run has, where the paper exchanges once per epoch;
- the recipe's momentum, anew in every turn, and its learning-rate schedule, as it is
  when a turn begins;
- neither bound nor noise, which the paper adds for privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

from benchmarks.accuracy.baselines import POINTS, Point, local_step
from benchmarks.accuracy.shokri import SelectiveServer, largest
from hre_torch.app.data.load import Data
from hre_torch.app.data.partition import Batches
from hre_torch.app.recipes import Recipe, TrainSection
from hre_torch.app.training.arithmetic import recipe_model, torch_settings
from hre_torch.app.training.assembly import make_batches, steps_of
from hre_torch.app.training.evaluation import evaluate
from hre_torch.optim.flatten import FlatView

__all__ = ["selective"]

_SCHEDULED: Final = ("lr", "momentum", "betas")


def selective(recipe: Recipe, data: Data, *, share: float) -> list[Point]:
    """Train a recipe by selective SGD; return the server's learning curve.

    Args:
        recipe: split, batches, epochs, optimizer and steps between two uploads.
        data: the recipe's data.
        share: theta_u, the part of the changes that is uploaded, 0 < share <= 1.
    """
    train = recipe.train
    shares = make_batches(recipe, data)
    totals = [steps_of(recipe, batches) for batches in shares]
    everything = sum(totals)
    model = recipe_model(recipe)
    view = FlatView.of(model)
    schedules = [_schedule(train, total) for total in totals]
    server = SelectiveServer(view.read())
    done, begin, curve = 0, 0, []
    with torch_settings(train):
        while done < everything:
            for batches, total, schedule in zip(shares, totals, schedules, strict=True):
                steps = range(begin, min(begin + train.push_every, total))
                if not steps:
                    continue
                view.write(server.weights)
                before = view.read()
                _turn(train, model, batches, steps, schedule[begin])
                moved = view.read() - before
                places = largest(moved, share)
                server.upload(places, moved[places])
                earlier, done = done, done + len(steps)
                if earlier * POINTS // everything < done * POINTS // everything:
                    view.write(server.weights)
                    accuracy = evaluate(model.eval(), data.test, train).accuracy
                    model.train()
                    curve.append(Point(train.epochs * done / everything, accuracy))
            begin += train.push_every
    return curve


def _schedule(train: TrainSection, steps: int) -> list[dict[str, Any]]:
    """Return what the recipe's scheduler asks of the optimizer at every step."""
    optimizer = train.make_optimizer([nn.Parameter(torch.zeros(1))])
    scheduler = train.make_scheduler(optimizer, steps)
    (group,) = optimizer.param_groups
    wanted = []
    for _ in range(steps):
        wanted.append({name: group[name] for name in _SCHEDULED if name in group})
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return wanted


def _turn(
    train: TrainSection,
    model: nn.Module,
    batches: Batches,
    steps: range,
    scheduled: Mapping[str, Any],
) -> None:
    optimizer = train.make_optimizer(model.parameters())
    for group in optimizer.param_groups:
        group.update(scheduled)
    for step in steps:
        local_step(model, optimizer, batches, step, train)
