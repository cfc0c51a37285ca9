"""A module as other people write them, and what its tests share."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hre_torch.federation import Federation
from hre_torch.optim import FlatView

# Lightning remarks on tiny data sets and idle loggers, which is all true here, and uses
# a class that torch is about to rename.
REMARKS = (
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*does not have many workers.*",
    "ignore:.*smaller than the logging interval.*",
)


class Classifier(pl.LightningModule):
    """A module as other people write them."""

    def __init__(self, optimizer="sgd", scheduler=None):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
        with torch.no_grad():
            # On the grid of 2^-16, so that the task starts from exactly these weights.
            for parameter in self.parameters():
                parameter.copy_(torch.round(parameter * 2**16) / 2**16)
        self.kind, self.scheduler = optimizer, scheduler
        self.losses, self.rates = [], []

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.net(inputs), labels)
        self.losses.append(loss.item())
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return loss

    def configure_optimizers(self):
        make = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
            "adam": lambda p: torch.optim.Adam(p, lr=0.02),
            "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=4),
        }[self.kind]
        optimizer = make(self.parameters())
        if self.scheduler is None:
            return optimizer
        return [optimizer], [
            {"scheduler": self.scheduler(optimizer), "interval": "step"}
        ]


def make_loader():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(48, 5, generator=generator)
    return DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=8)


def trainer(tmp_path, *callbacks, **options):
    options = {
        "max_epochs": 3,
        "logger": False,
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    } | options
    return pl.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **options)


def lone(module, **options):
    return Federation.local(
        module, participants=1, suite="plain", profile="toy-insecure", **options
    ).join()


def bits(module):
    return FlatView.of(module).read().tobytes()


def step_lr(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=18)


def warmup(optimizer):
    schedulers = torch.optim.lr_scheduler
    return schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, total_iters=3),
            schedulers.ExponentialLR(optimizer, 0.9),
        ],
        milestones=[3],
    )
