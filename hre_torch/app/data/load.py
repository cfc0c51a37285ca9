"""The data sets that recipes name, loaded into memory.

`digits` comes with scikit-learn; `mnist` and `cifar10` come through torchvision, which
downloads them where there is a network; `imagefolder` reads a folder of your own.

Labelled images in memory are the form of every data set. Images stay bytes until a
batch is drawn: as floats they would take four times the memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hre_torch.errors import DataError
from hre_torch.registry import nearest

__all__ = ["DATA_SETS", "Data", "ImageSet", "default_root", "load_data"]


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


# Public per-channel statistics: participants may not pool their own. MNIST and CIFAR-10
# as commonly used for those sets; imagefolder those of ImageNet, as torchvision does.
_MNIST: Final = ((0.1307,), (0.3081,))
_CIFAR10: Final = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_DIGITS: Final = ((0.3053,), (0.3764,))

_MNIST_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR10_FILES: Final = (
    *(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    "batches.meta",
)
_DIGITS_TEST: Final = 360

# Without a network, without a file, or over a file that is cut off or changed.
_TORCHVISION_RAISES: Final = (
    AssertionError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def default_root() -> Path:
    """Return where data lives: $HRE_TORCH_DATA if set, else ~/.cache/hre_torch."""
    named = os.environ.get("HRE_TORCH_DATA")
    return Path(named) if named else Path.home() / ".cache" / "hre_torch"


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    train_size: int | None = None,
    seed: int = 0,
) -> Data:
    """Load a data set into memory.

    Args:
        name: one of `DATA_SETS`.
        root: folder that holds it, or into which it is downloaded; `default_root()` if
            left out. `digits` comes with scikit-learn and needs none.
        train_size: keep this many training images, drawn at random; all if left out.
        seed: seed of that draw.

    Returns:
        Training and test images, and the names of the classes.

    Raises:
        DataError: no data set has that name; its files are missing and cannot be
            downloaded, or are damaged; or it has fewer than `train_size` images.
    """
    if name not in DATA_SETS:
        raise DataError(
            f"There is no data set named {name!r}: {nearest(name, list(DATA_SETS))}."
        )
    folder = default_root() if root is None else Path(root).expanduser()

    def choose(available: int) -> NDArray[np.int64]:
        if train_size is None:
            return np.arange(available)
        if not 1 <= train_size <= available:
            raise DataError(
                f"data.train_size is {train_size}, but {name} has {available} training "
                "images; ask for fewer, or leave it out for all."
            )
        order = np.random.default_rng(seed).permutation(available)
        return np.sort(order[:train_size])

    return DATA_SETS[name](folder, choose)


def _digits(folder: Path, choose: Choice) -> Data:
    """The 1,797 digits of 8 x 8 pixels that scikit-learn brings along."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    # The test images are the same whatever the recipe's seed: results stay comparable.
    train, test = train_test_split(
        np.arange(len(bunch.target)),
        test_size=_DIGITS_TEST,
        stratify=bunch.target,
        random_state=0,
    )
    pixels = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))

    def part(indices: NDArray[np.int64]) -> ImageSet:
        mean, std = _DIGITS
        return ImageSet(pixels[indices], labels[indices], mean=mean, std=std, white=16)

    return Data(part(train[choose(len(train))]), part(test), tuple("0123456789"))


def _mnist(folder: Path, choose: Choice) -> Data:
    """60,000 + 10,000 handwritten digits (LeCun, Cortes, Burges)."""
    from torchvision.datasets import MNIST

    files = [f"MNIST/raw/{name}" for name in _MNIST_FILES]
    source = "https://yann.lecun.org/exdb/mnist/"
    train, test = _fetch(MNIST, folder, files, source)
    mean, std = _MNIST

    def part(images: Any, kept: Any = slice(None)) -> ImageSet:
        pixels = images.data.unsqueeze(1)[kept]
        return ImageSet(pixels, images.targets[kept], mean=mean, std=std)

    return Data(part(train, choose(len(train))), part(test), tuple("0123456789"))


def _cifar10(folder: Path, choose: Choice) -> Data:
    """50,000 + 10,000 colour images of ten classes (Krizhevsky, 2009)."""
    from torchvision.datasets import CIFAR10

    files = [f"cifar-10-batches-py/{name}" for name in _CIFAR10_FILES]
    source = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    train, test = _fetch(CIFAR10, folder, files, source)
    mean, std = _CIFAR10

    def part(images: Any, kept: Any = slice(None)) -> ImageSet:
        pixels = torch.from_numpy(images.data[kept].transpose(0, 3, 1, 2)).contiguous()
        labels = torch.tensor(images.targets)[kept]
        return ImageSet(pixels, labels, mean=mean, std=std)

    kept = choose(len(train))
    return Data(part(train, kept), part(test), tuple(train.classes))


def _fetch(
    kind: Callable[..., Any], folder: Path, files: list[str], source: str
) -> tuple[Any, Any]:
    """Return torchvision's training and test set, downloaded if they are not there."""
    try:
        with warnings.catch_warnings():
            # torchvision reads arrays of an older numpy, which newer ones remark on.
            warnings.simplefilter("ignore")
            return (
                kind(root=str(folder), train=True, download=True),
                kind(root=str(folder), train=False, download=True),
            )
    except _TORCHVISION_RAISES as error:
        paths = [folder / name for name in files]
        missing = [path for path in paths if not path.exists()]
        state = "not complete" if missing else "damaged"
        wanted = "".join(f"\n  {path}" for path in missing or paths)
        raise DataError(
            f"{kind.__name__} below {folder} is {state} and could not be downloaded "
            f"({type(error).__name__}: {error}). Put these files there by hand (from "
            f"{source}), or name the folder that has them in data.root or "
            f"HRE_TORCH_DATA:{wanted}"
        ) from error


def _image_folder(folder: Path, choose: Choice) -> Data:
    """Your own images: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg."""
    from torchvision.datasets import ImageFolder

    sets = []
    for part in ("train", "test"):
        try:
            sets.append(ImageFolder(str(folder / part)))
        except OSError as error:
            raise DataError(
                f"imagefolder expects {folder / part}/CLASS/IMAGE with one folder per "
                f"class ({error}); name the folder above train and test in data.root."
            ) from error
    train, test = sets
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"train and test of {folder} must have the same classes, but these are in "
            f"one only: {', '.join(odd)}."
        )
    kept = choose(len(train.samples))
    return Data(
        _decode([train.samples[i] for i in kept], train.loader),
        _decode(test.samples, test.loader),
        tuple(train.classes),
    )


def _decode(samples: Sequence[tuple[str, int]], load: Callable[[str], Any]) -> ImageSet:
    """Read image files, all of one size, as RGB; `load` opens one of them."""

    def read(path: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(load(path), dtype=np.uint8)
        except OSError as error:
            raise DataError(f"{path} is not a readable image ({error}).") from error

    first = samples[0][0]
    height, width, _ = read(first).shape
    pixels = np.empty((len(samples), 3, height, width), dtype=np.uint8)

    def fill(index: int) -> None:
        path = samples[index][0]
        image = read(path)
        if image.shape[:2] != (height, width):
            raise DataError(
                f"All images must have one size, but {first} is {height} x {width} "
                f"pixels and {path} is {image.shape[0]} x {image.shape[1]}; resize "
                "them first."
            )
        pixels[index] = image.transpose(2, 0, 1)

    # Decoding releases the interpreter lock, so threads are enough.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(samples))):
            pass
    labels = torch.tensor([label for _, label in samples])
    mean, std = _IMAGENET
    return ImageSet(torch.from_numpy(pixels), labels, mean=mean, std=std)


# Given the number of training images, which of them to keep.
Choice: TypeAlias = Callable[[int], NDArray[np.int64]]

DATA_SETS: Final[Mapping[str, Callable[[Path, Choice], Data]]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "imagefolder": _image_folder,
}
