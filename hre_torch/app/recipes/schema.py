"""The keys of a recipe, their types, ranges and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, Self

import torch
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from hre_torch.encoding.fixed_point import Rounding, make_rounding
from hre_torch.errors import RecipeError, TaskError
from hre_torch.optim.staleness import Constant, Hinge, Polynomial, StalenessWeight
from hre_torch.protocol.task_options import Combine, TaskOptions

__all__ = ["DataSection", "Dropout", "ModelSection", "Recipe", "TrainSection"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]

_OPTIMIZERS: Final = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
_WITH_MOMENTUM: Final = ("sgd", "rmsprop")
_LAYOUTS: Final = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
_STALENESS: Final = {"constant": Constant, "polynomial": Polynomial, "hinge": Hinge}


class _Section(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ModelSection(_Section, frozen=True):
    """Which network."""

    name: str = Field(
        description="a network of hre_torch.app.models, such as mnist_mlp"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of that network"
    )


class DirichletSplit(_Section, frozen=True):
    """Class proportions drawn from a Dirichlet distribution (Hsu et al. 2019)."""

    dirichlet: Positive = Field(description="alpha; small values mean few classes each")


class DataSection(_Section, frozen=True):
    """Which data, and how it is divided."""

    name: Literal["digits", "mnist", "cifar10", "imagefolder"] = Field(
        description="data set"
    )
    root: str | None = Field(
        None, description="folder of the data; HRE_TORCH_DATA or a cache by default"
    )
    split: Literal["iid"] | DirichletSplit = Field(
        "iid", description="iid, or {dirichlet: alpha}"
    )
    sizes: list[Positive] | None = Field(
        None, description="relative sizes of the shares, one each; equal by default"
    )
    augment: bool = Field(False, description="random shifts and flips while training")
    train_size: Count | None = Field(
        None, description="use only so many training images"
    )


class Dropout(_Section, frozen=True):
    """A participant that goes away in the middle of its training."""

    participant: Annotated[int, Field(ge=0)] = Field(description="which, from 0")
    after: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of its steps after which it goes, without a last push"
    )
    away: Positive | None = Field(
        None, description="simulated time after which it is back; never if left out"
    )


class TrainSection(_Section, frozen=True):
    """How every participant trains."""

    epochs: Positive = Field(description="passes over a participant's own images")
    batch_size: Count = Field(32, description="images per local step")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"] = Field(
        "sgd", description="the optimizer that HREOptimizer wraps"
    )
    lr: Positive = Field(0.1, description="learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="momentum of sgd and rmsprop"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 penalty")
    schedule: Literal["none", "cosine", "onecycle"] = Field(
        "none", description="learning rate over the whole run"
    )
    push_every: Count = Field(1, description="local steps from push to push")
    pull_every: Count = Field(1, description="local steps from pull to pull")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of everything seeded")
    error_feedback: bool = Field(
        True, description="keep what quantisation left over for the next push"
    )
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="rule of the quantiser"
    )
    staleness_weight: Literal["constant", "polynomial", "hinge"] = Field(
        "constant", description="weight of late updates (Xie, Koyejo, Gupta 2019)"
    )
    speeds: list[Positive] | None = Field(
        None, description="relative speeds, one each; equal by default"
    )
    dropouts: list[Dropout] = Field(
        default_factory=list,
        description="participants that go, for a while or for good",
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = Field(
        "cpu", description="where torch trains: cpu, cuda or cuda:N"
    )
    threads: Count = Field(
        1, description="threads of torch; more than one helps large networks only"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the forward pass; loss, parameters, exchange stay float32",
    )
    memory_format: Literal["contiguous", "channels_last"] = Field(
        "contiguous", description="how images and 4-d weights lie in memory"
    )
    evaluate_every: Positive = Field(
        1.0, description="epochs from one test of the released weights to the next"
    )

    def make_optimizer(self, parameters: Iterable[Tensor]) -> Optimizer:
        """Return the inner optimizer over some parameters."""
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer in _WITH_MOMENTUM:
            options["momentum"] = self.momentum
        inner: Optimizer = _OPTIMIZERS[self.optimizer](parameters, **options)
        return inner

    def make_scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """Return the learning-rate scheduler for so many local steps, if any."""
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        if self.schedule == "onecycle":
            return OneCycleLR(
                optimizer,
                max_lr=self.lr,
                total_steps=steps + 1,
                cycle_momentum=self._cycles_momentum,
            )
        return None

    def make_rounding(self, participant: int) -> Rounding:
        """Return the rounding rule of one participant, with a stream of its own."""
        return make_rounding(self.rounding, 1_000_003 * self.seed + participant)

    def make_staleness_weight(self) -> StalenessWeight:
        """Return the weight of an update as a function of its staleness."""
        weight: StalenessWeight = _STALENESS[self.staleness_weight]()
        return weight

    @property
    def layout(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return _LAYOUTS[self.memory_format]

    @property
    def has_momentum(self) -> bool:
        """Whether the inner optimizer carries momentum."""
        return (
            self.momentum > 0
            or self.optimizer in ("adam", "adamw")
            or (self.schedule == "onecycle" and self._cycles_momentum)
        )

    @property
    def _cycles_momentum(self) -> bool:
        """Whether one-cycle schedules move momentum, too: adagrad has none."""
        return self.optimizer != "adagrad"


class Recipe(_Section, TaskOptions, frozen=True):
    """A whole recipe; the numbers of its task are keys at its top level."""

    participants: Count = Field(4, description="how many take part")
    workers: Count = Field(2, description="processes for the cryptography")
    model: ModelSection
    data: DataSection
    train: TrainSection

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        optimizer = self.train.optimizer
        if self.train.momentum > 0 and optimizer not in _WITH_MOMENTUM:
            raise ValueError(
                f"train.momentum is {self.train.momentum}, but {optimizer!r} takes "
                f"none; set it to 0 or use {' or '.join(_WITH_MOMENTUM)}"
            )
        if self.max_samples is not None and self.combination != "weighted":
            raise ValueError(
                f"max_samples is {self.max_samples}, but combine is "
                f"{self.combination!r}; leave it out, or set combine to 'weighted'"
            )
        going = [dropout.participant for dropout in self.train.dropouts]
        if len(set(going)) < len(going) or max(going, default=0) >= self.participants:
            raise ValueError(
                f"train.dropouts names participants {going}; each may go once, and "
                f"they are numbered from 0 to {self.participants - 1}"
            )
        try:
            self.options()
        except TaskError as error:
            raise ValueError(str(error)) from None
        return self

    def options(self, **changes: Any) -> TaskOptions:
        """Return the task's numbers, `combine` filled in, with some others if need be.

        Raises:
            TaskError: a value cannot work.
        """
        names = [field.name for field in dataclasses.fields(TaskOptions)]
        chosen = {name: getattr(self, name) for name in names}
        return TaskOptions(**(chosen | {"combine": self.combination} | changes))

    @property
    def sizes(self) -> list[float] | None:
        """Relative size of every participant's share; None where they are equal.

        Raises:
            RecipeError: see `speeds`.
        """
        given = self.data.sizes
        return self._one_each("data.sizes", given) if given else None

    @property
    def speeds(self) -> list[float]:
        """Relative speed of every participant.

        Asked for where a whole run is simulated: who takes part on its own machine has
        the speed of that machine, however many others there are.

        Raises:
            RecipeError: there is neither one for everybody nor one for each.
        """
        return self._one_each("train.speeds", self.train.speeds or [1.0])

    def _one_each(self, key: str, given: list[float]) -> list[float]:
        if len(given) not in (1, self.participants):
            raise RecipeError(
                f"{key} has {len(given)} entries, {given}, but there are "
                f"{self.participants} participants; give one for each, or one for all, "
                f"such as `-o {key}=[1.0]`"
            )
        return given if len(given) == self.participants else given * self.participants

    @property
    def combination(self) -> Combine:
        """How updates combine, with the default filled in."""
        if self.combine is not None:
            return self.combine
        plain_sgd = self.train.push_every == 1 and not self.train.has_momentum
        return "sum" if plain_sgd else "mean"

    def to_yaml(self) -> str:
        """Return the recipe as YAML that `load_recipe` reads back unchanged."""
        text: str = OmegaConf.to_yaml(OmegaConf.create(self.model_dump()))
        return text
