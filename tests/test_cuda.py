"""On a CUDA device the same holds as on the CPU. Skipped where torch sees none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hre_torch.app.data.load import load_data
from hre_torch.app.models import MODELS
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.evaluation import weights_file
from hre_torch.app.training.runner import Runner
from hre_torch.integrations.lightning import HRECallback
from hre_torch.optim import FlatView, HREOptimizer
from hre_torch.optim.federation import Federation
from tests.app.training.interrupted import weights_of_whole_and_broken
from tests.integrations.lightning.modules import (
    REMARKS,
    Classifier,
    lone,
    make_loader,
    trainer,
)

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no CUDA device"
    ),
    pytest.mark.filterwarnings("ignore::hre_torch.errors.UnprotectedWarning"),
    *(pytest.mark.filterwarnings(remark) for remark in REMARKS),
]

CUDA = "train.device=cuda"
PRECISIONS = {
    "float32": (),
    "bfloat16": ("train.precision=bfloat16", "train.memory_format=channels_last"),
}


@MODELS.register("tiny_cnn_of_everything")
def tiny_cnn_of_everything(hidden=(8,)):
    """Return a network with buffers and with dropout, which draws on the device."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * 16, hidden[0]),
        nn.ReLU(),
        nn.Linear(hidden[0], 10),
    )


@pytest.fixture
def recipe_of(toy_recipe):
    def recipe(*changes):
        model = "model.name=tiny_cnn_of_everything"
        options = ("min_contributions=3", "max_additions=32", "buffers=mean")
        return load_recipe(toy_recipe(model, CUDA, *options, *changes))

    return recipe


def released_by(recipe):
    with Runner(recipe, load_data("digits", train_size=200)) as runner:
        for _ in runner.steps():
            pass
        model = runner.released_model()
        assert {tensor.device.type for tensor in model.state_dict().values()} == {
            "cuda"
        }
        return weights_file(model)


@pytest.mark.parametrize("changes", PRECISIONS.values(), ids=PRECISIONS)
def test_encrypted_training_equals_plain_training(recipe_of, changes):
    encrypted = recipe_of("suite=hybrid", *changes)
    plain = recipe_of("suite=plain", *changes)
    assert released_by(encrypted) == released_by(plain)


def test_a_resumed_run_ends_with_the_same_weights(recipe_of, tmp_path):
    recipe = recipe_of("suite=plain", "train.momentum=0.9")
    whole, broken = weights_of_whole_and_broken(recipe, tmp_path)
    assert whole == broken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_everybody_ends_with_the_released_weights(dtype):
    def model():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).to(
            "cuda", dtype
        )

    models = [model() for _ in range(3)]
    federation = Federation.local(
        models[0],
        participants=3,
        min_contributions=3,
        combine="mean",
        profile="toy-insecure",
    )
    optimizers = [
        HREOptimizer(
            torch.optim.Adam(each.parameters(), lr=0.01),
            federation.join(),
            module=each,
        )
        for each in models
    ]
    inputs = torch.randn(8, 6, device="cuda", dtype=dtype)
    for _ in range(5):
        for each, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            each(inputs).square().mean().backward()
            optimizer.step()
    for optimizer in optimizers:
        optimizer.flush()
    for optimizer in optimizers:
        optimizer.pull()
    ends = {FlatView.of(each).read().tobytes() for each in models}
    assert len(ends) == 1
    assert federation.servers.version >= 1


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_lightning_trains_on_the_device(tmp_path, precision):
    module = Classifier(optimizer="adam")
    callback = HRECallback(lone(module))
    run = trainer(tmp_path, callback, accelerator="gpu", devices=1, precision=precision)
    run.fit(module, make_loader())
    losses = module.losses
    assert sum(losses[-6:]) / 6 < sum(losses[:6]) / 6
    assert callback.optimizer.progress.local_steps > 0
