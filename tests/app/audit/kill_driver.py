"""Trains a small recipe to its end, from the start or from where it was killed.

It prints a line for every record, so that who kills it knows how far it is.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.launch import Training


def main(out: Path, *changes: str) -> None:
    warnings.simplefilter("ignore")
    recipe = load_recipe("digits_mlp", changes)
    resumed = (out / "checkpoint" / "run.msgpack").is_file()
    with Training.resume(out) if resumed else Training.start(recipe, out) as training:
        training.save_every = 0.05
        training.runner.listeners.append(lambda r: print(r["event"], flush=True))
        training.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
