"""Gradient inversion for people to look at: `inversion.png`.

Four panels: alice's digit, what mallory recovers under plain asynchronous training, and
what the same mallory sees under `gated`, of alice's upload and of the released sum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.attacks.a09_two_downloads import tapped_upload, two_downloads, watch
from benchmarks.attacks.inversion import Victim, invert
from hre_torch.app.data.load import ImageSet, default_root, load_data

__all__ = ["best_images", "draw_inversion", "recovered"]

_MNIST: Final = Path("MNIST", "raw", "train-images-idx3-ubyte")
_PROFILE: Final = "toy-insecure"

Pixels = npt.NDArray[np.int64]


def best_images() -> ImageSet:
    """Return MNIST where it lies on disk already, else scikit-learn's digits."""
    name = "mnist" if (default_root() / _MNIST).exists() else "digits"
    return load_data(name).train


def recovered(images: ImageSet, seed: int) -> dict[str, Pixels]:
    """Return title and flat pixels of every panel.

    Args:
        images: grey pictures.
        seed: chooses the pictures and the network's weights.
    """
    victim = Victim.of(images, seed)
    indices = victim.draw(3, seed)
    open_to_all = watch("paper", victim, indices, seed, _PROFILE)
    gated = watch("gated", victim, indices, seed, _PROFILE)
    shown = {
        "recovered: two downloads,\nsuite paper, t = 1": two_downloads(open_to_all),
        "alice's upload as mallory sees it,\nsuite gated": tapped_upload(gated),
        "the released sum less its own,\nsuite gated, t = 3": two_downloads(gated),
    }
    panels = {"alice's digit": victim.true_pixels(indices[0])}
    for title, update in shown.items():
        panels[title] = victim.pixels(invert(update, *victim.shape))
    return panels


def draw_inversion(path: Path, images: ImageSet | None = None, seed: int = 0) -> Path:
    """Draw the panels side by side into a PNG file.

    Args:
        path: file to write; its folder must exist.
        images: grey pictures; by default `best_images()`.
        seed: chooses the pictures and the network's weights.

    Returns:
        `path`.
    """
    images = best_images() if images is None else images
    panels = recovered(images, seed)
    figure = Figure(figsize=(9.4, 2.9), dpi=180, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, pixels) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        # Noise has any scale, a picture its own: each panel is stretched to its range.
        axes.imshow(pixels.reshape(images.shape[1:]), cmap="gray", aspect="equal")
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, format="png")
    return path
