"""What is compared: networks, participants, splits, seeds and methods, as cells.

A cell is one training. Its recipe is the network's of `recipes/`, changed as little as
the comparison asks for: batches of which four participants' together are as large as a
pooled one (a crowd's may be smaller), t = 4/5 P (where all are equally fast, a mean
over t moves the model P / t times as far as one update), and a pull after every push.
All participants are equally fast but for the schedule's jitter. Who is faster finishes
its epochs earlier, and where splits are uneven the model forgets its classes while the
others go on: with the recipe's speeds `mnist_mlp` fell from 91.4 % to 85.4 % in the
last two of 18 epochs (four participants, Dirichlet 0.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from hre_torch.app.recipes import Recipe, load_recipe

__all__ = [
    "METHODS",
    "NETWORKS",
    "Case",
    "Cell",
    "Method",
    "cells_of",
    "expected_seconds",
]

Method: TypeAlias = Literal[
    "pooled", "federated", "selective 10 %", "selective 1 %", "alone", "equality"
]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
"""In the order of tables; `equality` is `hybrid` beside `plain`, shortened."""

_RECIPES: Final = Path(__file__).parents[2] / "recipes"
_ALPHA: Final = 0.3
# How many participants' batches make a pooled one.
_POOLED: Final = 4
# From so many participants on they are a crowd.
_CROWD: Final = 30
# First what promise 3 compares, so that an unfinished study says most.
_PER_CASE: Final[tuple[Method, ...]] = (
    "federated",
    "selective 1 %",
    "alone",
    "selective 10 %",
)
# A cell of `equality` trains this little: four pushes of everybody.
_SHORT: Final = (
    "suite=hybrid",
    "data.train_size=1024",
    "train.batch_size=32",
    "train.epochs=1",
    "train.push_every=2",
    "train.pull_every=4",
)


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the study.

    Attributes:
        images: in the training set.
        epochs: passes over the images, the same for every method.
        batch_size: images per local step, a quarter of those per pooled step. With
            thirty participants `mnist_mlp` diverged in batches of 16 (Dirichlet 0.3).
        microseconds: to train one image by plain torch, and by the federated run with
            its share of the exchange, in suite `plain` on one core. They make the
            plan's hours and nothing else; those of perceptrons are rounded from
            `results/accuracy.json`, those of convolutions from whole trainings and
            single steps in float32, times what the overrides save in single steps.
        overrides: of the recipe, for speed; the same for every method.
        crowd: of the recipe, where thirty participants take part; the same for every
            method. In batches of 16 that are exchanged every ten steps, `cifar_cnn`
            came to 56.6 % (t = 24; 53.8 % with 14, and with 8 it diverged), in batches
            of 8 and every four steps to 66.5 %.
    """

    images: int
    epochs: int
    batch_size: int
    microseconds: tuple[float, float]
    overrides: tuple[str, ...] = ()
    crowd: tuple[str, ...] = ()


# Microseconds per image of single steps on one core of the study's machine, float32 and
# contiguous before: mnist_cnn 262 -> 127 and cifar_cnn 839 -> 371 with both,
# cifar_resnet20 3352 -> 1916 with bfloat16 alone; channels_last makes it slower, 5042.
_BFLOAT16: Final = "train.precision=bfloat16"
_BOTH: Final = (_BFLOAT16, "train.memory_format=channels_last")
_OFTEN: Final = ("train.batch_size=8", "train.push_every=4")
_NETWORKS: Final = {
    "digits_mlp": Network(1_437, 50, 16, (20, 60)),
    "mnist_mlp": Network(60_000, 18, 64, (20, 45)),
    "mnist_cnn": Network(60_000, 8, 32, (170, 200), _BOTH),
    "cifar_cnn": Network(50_000, 8, 16, (530, 630), _BOTH, _OFTEN),
    "cifar_resnet20": Network(50_000, 15, 32, (3300, 3400), (_BFLOAT16,)),
}
NETWORKS: Final = tuple(_NETWORKS)
"""Stems of their recipes."""


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """A federation that methods are compared on.

    Attributes:
        network: stem of its recipe.
        participants: P.
        alpha: of the Dirichlet split; None for IID.
        epochs: passes over the images.
    """

    network: str
    participants: int
    alpha: float | None
    epochs: int

    @property
    def split(self) -> str:
        """The split in words."""
        return "IID" if self.alpha is None else f"Dirichlet {self.alpha}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One training: a case, a seed, a method."""

    case: Case
    seed: int
    method: Method

    @property
    def key(self) -> str:
        """A name for it."""
        case = self.case
        parts = [case.network, f"{case.participants}p", case.split, f"{case.epochs}e"]
        text = "-".join([*parts, f"seed {self.seed}", self.method])
        return text.lower().replace(" %", "").replace(" ", "")

    def recipe(self, image_folder: str | None, device: str = "cpu") -> Recipe:
        """Return what is trained.

        Args:
            image_folder: CIFAR-10 as image folders; through torchvision if left out.
            device: of torch.

        Raises:
            RecipeError: a shipped recipe is missing or was changed beyond use.
        """
        case, network = self.case, _NETWORKS[self.case.network]
        pooled = self.method == "pooled"
        batch_size = (_POOLED if pooled else 1) * network.batch_size
        overrides = [
            "suite=plain",
            "workers=1",
            "train.threads=1",
            f"train.device={device}",
            f"participants={case.participants}",
            f"min_contributions={case.participants * 4 // 5}",
            f"train.epochs={case.epochs}",
            f"train.batch_size={batch_size}",
            "train.speeds=[1.0]",
            "train.pull_every=${train.push_every}",
            f"train.evaluate_every={case.epochs / 10}",
            f"train.seed={self.seed}",
            *network.overrides,
            *(network.crowd if case.participants >= _CROWD else ()),
        ]
        if case.alpha is not None:
            overrides.append(f"data.split.dirichlet={case.alpha}")
        if image_folder is not None and case.network.startswith("cifar"):
            overrides += ["data.name=imagefolder", f"data.root={image_folder}"]
        if self.method == "equality":
            overrides += _SHORT
        return load_recipe(_RECIPES / f"{case.network}.yaml", overrides)


def cells_of(matrix: Literal["reduced", "full"]) -> list[Cell]:
    """Return the cells of a matrix, in the order in which they are trained."""
    cells = list(_full() if matrix == "full" else _reduced())
    return list(dict.fromkeys(cells))


def _full() -> Iterator[Cell]:
    for network in ("mnist_mlp", "mnist_cnn"):
        for seed in range(3):
            for participants in (4, 8, 30):
                for alpha in (None, _ALPHA):
                    yield from _case(network, participants, alpha, seed)
    for seed in range(3):
        for participants in (4, 30):
            yield from _case("cifar_cnn", participants, None, seed)
    yield from _case("cifar_resnet20", 4, None, 0)


def _reduced() -> Iterator[Cell]:
    for seed in range(3):
        yield from _case("digits_mlp", 4, None, seed)
    for participants, seed in ((4, 0), (30, 0), (4, 1)):
        for alpha in (None, _ALPHA):
            yield from _case("mnist_mlp", participants, alpha, seed, epochs=9)
    for alpha in (None, _ALPHA):
        yield from _case("mnist_cnn", 4, alpha, 0, epochs=3)


def _case(
    network: str,
    participants: int,
    alpha: float | None,
    seed: int,
    epochs: int | None = None,
) -> Iterator[Cell]:
    """Yield one seed of a case; cells that several cases share come several times."""
    case = Case(network, participants, alpha, epochs or _NETWORKS[network].epochs)
    # Pooled images know no participants and no split.
    shared = replace(case, participants=4, alpha=None)
    yield Cell(shared, 0, "equality")
    yield Cell(shared, seed, "pooled")
    for method in _PER_CASE:
        yield Cell(case, seed, method)


def expected_seconds(cell: Cell) -> float:
    """Return about how long a cell takes on one core, by what networks once took."""
    case, network = cell.case, _NETWORKS[cell.case.network]
    plain, federated = network.microseconds
    if cell.method == "equality":
        return 60.0
    if cell.method == "federated":
        return 1e-6 * federated * network.images * case.epochs
    whole = 1e-6 * plain * network.images * case.epochs
    return whole / case.participants if cell.method == "alone" else whole
