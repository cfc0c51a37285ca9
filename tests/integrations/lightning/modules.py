"""Modules as other people write them, and what their tests share."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hre_torch.optim import FlatView
from hre_torch.optim.federation import Federation

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


class Validated(Classifier):
    """Has a validation loop that others act on."""

    def validation_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.net(inputs), labels)
        self.log("val_loss", loss)

    def val_dataloader(self):
        return make_loader()


class Epochwise(Validated):
    """Its scheduler steps once an epoch."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Plateau(Validated):
    """Its scheduler looks at the validation loss."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"},
        }


class Manual(Classifier):
    """Does itself what Lightning does otherwise."""

    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.clip_gradients(optimizer, gradient_clip_val=5.0)
        optimizer.step()


class Alternating(Manual):
    """Two optimizers that step in turn."""

    def configure_optimizers(self):
        return [
            torch.optim.SGD(layer.parameters(), lr=0.1)
            for layer in (self.net[0], self.net[2])
        ]


class Searching(Classifier):
    """Evaluates its loss several times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(
            self.parameters(), max_iter=4, line_search_fn="strong_wolfe"
        )


class Grouped(Classifier):
    """Two groups of parameters with learning rates of their own."""

    def configure_optimizers(self):
        first, last = self.net[0].parameters(), self.net[2].parameters()
        return torch.optim.Adam(
            [{"params": list(first), "lr": 0.05}, {"params": list(last), "lr": 0.02}]
        )


class Normalised(Classifier):
    """Has buffers."""

    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(6))
