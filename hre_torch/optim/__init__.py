"""The optimizer that makes an existing training script federated."""

from __future__ import annotations

from hre_torch.optim.flatten import (
    FlatView,
    Layout,
    mean_buffers,
    trainable_parameters,
)
from hre_torch.optim.optimizer import HREOptimizer
from hre_torch.optim.privacy import GaussianNoise
from hre_torch.optim.progress import Progress
from hre_torch.optim.staleness import Constant, Hinge, Polynomial, StalenessWeight
from hre_torch.protocol.task_options import Buffers

__all__ = [
    "Buffers",
    "Constant",
    "FlatView",
    "GaussianNoise",
    "HREOptimizer",
    "Hinge",
    "Layout",
    "Polynomial",
    "Progress",
    "StalenessWeight",
    "mean_buffers",
    "trainable_parameters",
]
