"""How good released weights are on the test images."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Final

import safetensors.torch
import torch
from torch import nn

from hre_torch.app.audit.manifest import RELEASED
from hre_torch.app.data.load import ImageSet
from hre_torch.app.recipes import TrainSection
from hre_torch.app.training.arithmetic import classify
from hre_torch.optim.flatten import FlatView, released_names
from hre_torch.participant.session import Session
from hre_torch.protocol.task_options import Buffers

__all__ = ["Score", "evaluate", "released_model", "weights_file"]

# Large enough to be fast, small enough that activations stay below 100 MB.
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Score:
    """What `evaluate` measures.

    Attributes:
        accuracy: share of test images that are classified rightly, in [0, 1].
        loss: mean cross entropy.
    """

    accuracy: float
    loss: float


def released_model(model: nn.Module, session: Session, buffers: Buffers) -> nn.Module:
    """Return a copy of a participant's model that holds the released weights.

    What is not released with them, such as local buffers, is that participant's.
    """
    released = copy.deepcopy(model)
    weights = session.fixed_point.to_float(session.released())
    FlatView.of(released, buffers).write(weights)
    return released.eval()


def weights_file(model: nn.Module, buffers: Buffers = "local") -> bytes:
    """Return a model's weights as a safetensors file; equal weights, equal bytes.

    Its metadata has the names of the released ones in the order of the flat vector, so
    that their digest can be recomputed without the module.

    Args:
        model: holds them.
        buffers: whether the task averages buffers.
    """
    # Tied parameters share memory, which the format does not know; copies do not.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    names = json.dumps(released_names(model, buffers))
    return safetensors.torch.save(weights, metadata={RELEASED: names})


@torch.no_grad()
def evaluate(model: nn.Module, images: ImageSet, train: TrainSection) -> Score:
    """Classify all images in evaluation mode, as precisely as `train` trains."""
    right, loss = 0, 0.0
    for batch, labels in images.batches(_BATCH):
        logits, losses = classify(model, batch, labels, train, reduction="sum")
        right += int((logits.argmax(dim=1).cpu() == labels).sum())
        loss += float(losses)
    return Score(right / len(images), loss / len(images))
