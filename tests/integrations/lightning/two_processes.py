"""Trains on two processes by DDP; started by `test_replicas.py`, and by Lightning.

Each process writes its weights to the folder given, and rank zero what it pushed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from hre_torch import HRECallback
from tests.integrations.lightning.modules import Classifier, bits, lone, make_loader
from tests.integrations.lightning.modules import trainer as make_trainer


class Watching(Classifier):
    """Notes which weights validation sees."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def validation_step(self, batch, batch_idx):
        self.seen.append(bits(self).hex())


def main(folder: Path, on: str) -> None:
    """Fit, then write down what came of it."""
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    made = folder / f"session{rank}"

    def join(module):
        made.touch()
        return lone(module)

    module = Watching("adam")
    callback = HRECallback(join, push_every=2, pull_every=3, validate_on=on)
    loader = make_loader()
    trainer = make_trainer(folder, callback, devices=2, strategy="ddp")
    trainer.fit(module, loader, loader)
    figures = {
        "weights": bits(module).hex(),
        "seen": module.seen,
        "losses": module.losses,
    }
    if rank == 0:
        figures["pushes"] = callback.session.statistics.pushes
        figures["steps"] = callback.optimizer.progress.local_steps
    (folder / f"rank{rank}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
