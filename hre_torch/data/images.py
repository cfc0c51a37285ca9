"""Labelled images in memory, the form in which every data set is held.

Images stay bytes until a batch is drawn: as floats they would take four times the
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Data", "ImageSet"]


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Labelled images of one size, held as bytes and normalised when drawn.

    An item is (image, label), so that any `torch.utils.data.DataLoader` can draw from
    it; `batch` draws many at once and is much faster.

    Args:
        pixels: shape (n, channels, height, width), uint8.
        labels: shape (n,), int64, 0 <= label < number of classes.
        mean: shape (channels,), of pixels scaled to 0..1.
        std: shape (channels,), of pixels scaled to 0..1.
        white: the pixel that stands for 1.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        white: int = 255,
    ) -> None:
        self.pixels = pixels
        self.labels = labels
        self._shift = torch.tensor(mean).mul(white).reshape(-1, 1, 1)
        self._scale = torch.tensor(std).mul(white).reciprocal().reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.normalise(self.pixels[index]), int(self.labels[index])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: (channels, height, width)."""
        return tuple(self.pixels.shape[1:])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return bytes (..., channels, height, width) as normalised float32."""
        return (pixels.float() - self._shift) * self._scale

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and labels at `indices`, shape (k,) int64."""
        return self.normalise(self.pixels[indices]), self.labels[indices]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, `size` at a time; for evaluation."""
        for start in range(0, len(self), size):
            stop = start + size
            yield self.normalise(self.pixels[start:stop]), self.labels[start:stop]


@dataclass(frozen=True, slots=True)
class Data:
    """A data set: what is trained on, what is tested on, and the names of classes."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
