"""Who trains on what: the division of images among participants, and their batches.

Every draw is a function of (seed, participant, step), so that a resumed run sees the
batches it would have seen.

References:
    T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical Data
    Distribution for Federated Visual Classification", arXiv 1909.06335, 2019, section 2
    (Dirichlet splits).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hre_torch.app.data.load import ImageSet
from hre_torch.errors import DataError

__all__ = ["Batches", "split_indices"]


def split_indices(
    labels: NDArray[np.int64],
    participants: int,
    *,
    seed: int,
    dirichlet: float | None = None,
    batch_size: int = 1,
    sizes: Sequence[float] | None = None,
) -> list[NDArray[np.int64]]:
    """Divide training images among participants, each image to exactly one.

    Shares differ by at most one image, or are in proportion to `sizes`. With
    `dirichlet` = alpha, participant i draws its class proportions q_i ~ Dir(alpha p),
    where p are the proportions of the whole, and then its images by q_i without
    replacement, until classes run out.

    Args:
        labels: shape (n,), int64, >= 0.
        participants: P, 1 <= P <= n.
        seed: seed of the division.
        dirichlet: alpha > 0; small values give each participant few classes. Left out,
            images are dealt at random (IID).
        batch_size: least share of a participant.
        sizes: one positive number per participant; equal shares if left out.

    Returns:
        P sorted index arrays that together are 0..n-1.

    Raises:
        DataError: a participant would not get one full batch.
    """
    stream = np.random.default_rng(seed)
    shuffled = stream.permutation(len(labels))
    if sizes is None:
        parts = np.array_split(shuffled, participants)
    else:
        ends = np.cumsum(sizes) / np.sum(sizes) * len(labels)
        parts = np.split(shuffled, np.rint(ends[:-1]).astype(np.int64))
    least = min(len(part) for part in parts)
    if least < batch_size:
        raise DataError(
            f"{len(labels)} training images give one of {participants} participants "
            f"{least}, less than one batch of {batch_size}; lower train.batch_size or "
            "participants, raise data.train_size, or make data.sizes more even."
        )
    if dirichlet is None:
        return [np.sort(part) for part in parts]
    counts = [len(part) for part in parts]
    return _dirichlet_split(labels, shuffled, counts, dirichlet, stream)


def _dirichlet_split(
    labels: NDArray[np.int64],
    shuffled: NDArray[np.int64],
    sizes: list[int],
    alpha: float,
    stream: np.random.Generator,
) -> list[NDArray[np.int64]]:
    remaining = np.bincount(labels)
    # A stable sort of shuffled indices by label: one shuffled pile per class.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    piles = np.split(by_class, np.cumsum(remaining)[:-1])
    prior = remaining / remaining.sum()
    parts = []
    for size in sizes:
        wanted = np.zeros_like(remaining)
        present = prior > 0
        q = np.zeros(len(prior))
        q[present] = stream.dirichlet(alpha * prior[present])
        while wanted.sum() < size:
            left = remaining - wanted
            weights = np.where(left > 0, q, 0.0)
            if weights.sum() <= 0.0:
                # All classes this participant favours are gone: take of what is left.
                weights = left.astype(np.float64)
            missing = size - int(wanted.sum())
            drawn = stream.multinomial(missing, weights / weights.sum())
            wanted += np.minimum(drawn, left)
        part = [piles[c][remaining[c] - k : remaining[c]] for c, k in enumerate(wanted)]
        remaining = remaining - wanted
        parts.append(np.sort(np.concatenate(part)))
    return parts


class Batches:
    """The endless sequence of one participant's batches.

    Each epoch is a fresh permutation; what does not fill a last batch is left out of
    that epoch. Batch number `step` is a function of (seed, participant, step) alone.

    Args:
        images: the training images of all participants.
        indices: shape (n,), this participant's share of them, n >= 1.
        batch_size: images per batch, cut down to n.
        seed: seed of the run.
        participant: number of the participant, so that streams differ.
        augment: shift by up to an eighth of the size and, in colour images, mirror.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        participant: int = 0,
        augment: bool = False,
    ) -> None:
        self._images = images
        self._indices = indices
        self._batch_size = min(batch_size, len(indices))
        self._stream = (seed, participant)
        self._augment = augment
        self._epoch = -1
        self._order = indices

    @property
    def samples(self) -> int:
        """Images of this participant."""
        return len(self._indices)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._indices) // self._batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return batch number `step` >= 0: images float32 and labels int64."""
        epoch, position = divmod(step, len(self))
        if epoch != self._epoch:
            stream = np.random.default_rng([*self._stream, 0, epoch])
            self._epoch, self._order = epoch, stream.permutation(self._indices)
        start = position * self._batch_size
        chosen = torch.from_numpy(self._order[start : start + self._batch_size])
        images, labels = self._images.batch(chosen)
        if self._augment:
            stream = np.random.default_rng([*self._stream, 1, step])
            images = _augment(images, stream)
        return images, labels


def _augment(images: Tensor, stream: np.random.Generator) -> Tensor:
    """Shift each image by its own random amount; mirror every second colour image."""
    count, channels, height, width = images.shape
    margin = max(height, width) // 8
    padded = torch.nn.functional.pad(images, [margin] * 4, mode="reflect")
    down, right = torch.from_numpy(stream.integers(0, 2 * margin + 1, (2, count, 1)))
    rows = (down + torch.arange(height)).reshape(count, 1, height, 1)
    columns = right + torch.arange(width)
    if channels == 3:
        mirrored = torch.from_numpy(stream.random((count, 1)) < 0.5)
        columns = torch.where(mirrored, columns.flip(1), columns)
    everything = torch.arange(count).reshape(-1, 1, 1, 1)
    planes = torch.arange(channels).reshape(1, -1, 1, 1)
    return padded[everything, planes, rows, columns.reshape(count, 1, 1, width)]
