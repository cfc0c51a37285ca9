"""One cell trained: a method, a recipe, a learning curve."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.accuracy.baselines import Point, alone, pooled
from benchmarks.accuracy.matrix import Cell
from benchmarks.accuracy.selective import selective
from benchmarks.environment import cpu_name
from hre_torch.app.data.load import Data, load_data
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.launch import plain_twin
from hre_torch.app.training.runner import Runner

__all__ = ["train_cell"]


def train_cell(cell: Cell, image_folder: str | None, device: str) -> dict[str, Any]:
    """Train a cell; return its record, ready for JSON.

    Its `seconds` are the processor's: a study may have to wait for other work.

    Args:
        cell: which training.
        image_folder: CIFAR-10 as image folders; through torchvision if left out.
        device: of torch: `cpu`, `cuda` or `cuda:N`.

    Raises:
        DataError: its images are missing; the message says which files go where.
        RecipeError: torch sees no such device.
    """
    recipe = cell.recipe(image_folder, device)
    # Recipes of one network name the same images, whatever their seeds.
    data = _data(recipe.data.name, recipe.data.root, recipe.data.train_size)
    started = time.process_time()
    outcome: Mapping[str, Any]
    if cell.method == "equality":
        outcome = {"equal": _equal(recipe, data)}
    else:
        curve = _curve(cell, recipe, data)
        outcome = {"curve": [dataclasses.astuple(point) for point in curve]}
    return {
        "cell": dataclasses.asdict(cell),
        "device": device,
        "trained_on": _machine(device),
        "recipe": recipe.to_yaml(),
        "seconds": time.process_time() - started,
        **outcome,
    }


def _machine(device: str) -> str:
    processor = torch.cuda.get_device_name(device) if device != "cpu" else cpu_name()
    return f"{processor}, torch {torch.__version__}"


@functools.lru_cache(maxsize=1)
def _data(name: str, root: str | None, train_size: int | None) -> Data:
    return load_data(name, root, train_size=train_size)


def _curve(cell: Cell, recipe: Recipe, data: Data) -> list[Point]:
    if cell.method == "pooled":
        return pooled(recipe, data)
    if cell.method == "alone":
        return alone(recipe, data)
    if cell.method == "federated":
        return _federated(recipe, data)
    return selective(recipe, data, share=0.1 if "10" in cell.method else 0.01)


def _federated(recipe: Recipe, data: Data) -> list[Point]:
    """Train through `HREOptimizer`, all participants asynchronously."""
    curve: list[Point] = []

    def note(record: Mapping[str, Any]) -> None:
        if record["event"] == "evaluation":
            curve.append(Point(record["epoch"], record["accuracy"]))

    with Runner(recipe, data) as runner:
        runner.listeners.append(note)
        for _ in runner.steps():
            pass
    return curve


def _equal(recipe: Recipe, data: Data) -> bool:
    """Train under the recipe's suite and in `plain`; compare the released weights."""
    released = []
    for suite in ("its own", "plain"):
        with Runner(recipe, data) as runner:
            for _ in runner.steps():
                pass
            released.append(runner.learners[0].session.released().tobytes())
            if suite == "its own":
                recipe = plain_twin(recipe, runner.federation.task.config)
    return released[0] == released[1]
