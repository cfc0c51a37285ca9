"""Finished runs that are audited, whole or changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.launch import Training
from hre_torch.app.training.tensorboard import (
    TensorBoardWriter,
    tensorboard_is_installed,
)
from tests.app.audit.tamperings import Scene

SMALL = (
    "suite=gated",
    "profile=toy-insecure",
    "participants=4",
    "workers=1",
    "model.options.hidden=[8]",
    "data.train_size=256",
    "train.batch_size=16",
    "train.epochs=1",
    "train.lr=0.2",
    "train.push_every=2",
    "train.pull_every=2",
)


def train(folder: Path, name: str, *changes: str) -> Scene:
    """Run a small recipe as `hre-torch train` does."""
    recipe = load_recipe("digits_mlp", [*SMALL, *changes])
    with Training.start(recipe, folder / name) as training:
        if tensorboard_is_installed():
            path = training.directory.tensorboard_path
            with TensorBoardWriter(path) as writer:
                training.runner.listeners.append(writer.update)
                training.run()
        else:
            training.run()
        federation = training.runner.federation
    return Scene(folder / name, folder, federation.task.cfg, federation.operator)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Scene:
    """A finished run, not to be changed, and another that differs in its seed."""
    folder = tmp_path_factory.mktemp("runs")
    foreign = train(folder, "foreign", "train.seed=1")
    ours = train(folder, "ours")
    return Scene(ours.run, foreign.run, ours.cfg, ours.operator)


@pytest.fixture
def scene(finished, tmp_path) -> Scene:
    """A copy of the finished run, to be changed."""
    run = shutil.copytree(finished.run, tmp_path / "run")
    return Scene(run, finished.foreign, finished.cfg, finished.operator)
