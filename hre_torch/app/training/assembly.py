"""From a recipe to batches, servers and learners, fresh or where they stopped."""

from __future__ import annotations

from dataclasses import asdict

import torch

from hre_torch.app.data.load import Data, load_data
from hre_torch.app.data.partition import Batches, split_indices
from hre_torch.app.models import build_model
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.arithmetic import recipe_model
from hre_torch.app.training.checkpoint import RunState
from hre_torch.app.training.learner import Learner
from hre_torch.app.training.phases import PhaseBook
from hre_torch.errors import RecipeError
from hre_torch.observer import Observer
from hre_torch.optim.federation import Federation

__all__ = [
    "load_recipe_data",
    "make_batches",
    "make_federation",
    "make_learners",
    "steps_of",
]


def load_recipe_data(recipe: Recipe) -> Data:
    """Return the data that a recipe names, once its network has seen some of it.

    Raises:
        DataError: it is missing; the message says which files go where.
        RecipeError: the network takes images of another shape, or has fewer outputs
            than there are classes.
    """
    data = load_data(
        recipe.data.name,
        recipe.data.root,
        train_size=recipe.data.train_size,
        seed=recipe.train.seed,
    )
    _require_fit(recipe, data)
    return data


def _require_fit(recipe: Recipe, data: Data) -> None:
    name, source = recipe.model.name, recipe.data.name
    model = build_model(name, recipe.train.seed, **recipe.model.options).eval()
    images, _ = data.train.batch(torch.arange(min(2, len(data.train))))
    try:
        with torch.no_grad():
            outputs = tuple(model(images).shape)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"the network {name!r} cannot see an image of {source!r}, whose channels, "
            f"height and width are {data.train.shape} ({error}); change model.name, "
            "model.options or data.name"
        ) from error
    if len(outputs) != 2 or outputs[1] < len(data.classes):
        raise RecipeError(
            f"the network {name!r} has outputs of shape {outputs} for {len(images)} "
            f"images, but {source!r} has {len(data.classes)} classes; set "
            f"model.options.classes={len(data.classes)}"
        )


def make_batches(recipe: Recipe, data: Data) -> list[Batches]:
    """Return every participant's batches.

    Raises:
        DataError: there are too few images for so many participants.
    """
    split = recipe.data.split
    shares = split_indices(
        data.train.labels.numpy(),
        recipe.participants,
        seed=recipe.train.seed,
        dirichlet=None if split == "iid" else split.dirichlet,
        batch_size=recipe.train.batch_size,
        sizes=recipe.sizes,
    )
    return [
        Batches(
            data.train,
            share,
            recipe.train.batch_size,
            seed=recipe.train.seed,
            participant=index,
            augment=recipe.data.augment,
        )
        for index, share in enumerate(shares)
    ]


def steps_of(recipe: Recipe, batches: Batches) -> int:
    """Return how many local steps one participant takes in the whole run."""
    return max(1, round(recipe.train.epochs * len(batches)))


def make_federation(
    recipe: Recipe, batches: list[Batches], observe: Observer, state: RunState | None
) -> Federation:
    """Return servers with everybody's keys, new or restored.

    Args:
        recipe: what is trained.
        batches: everybody's; weights are in proportion to the largest share, unless
            the recipe says otherwise.
        observe: told of the servers' phases.
        state: where an earlier run stopped.

    Raises:
        ConfigurationError: the recipe's numbers do not fit together.
    """
    if state is not None:
        return Federation.resume(
            state.federation, workers=recipe.workers, observe=observe
        )
    model = build_model(recipe.model.name, recipe.train.seed, **recipe.model.options)
    options = recipe.options()
    if options.combine == "weighted" and options.max_samples is None:
        largest = max(share.samples for share in batches)
        options = recipe.options(max_samples=largest)
    return Federation.local(
        model,
        participants=recipe.participants,
        workers=recipe.workers,
        observe=observe,
        **asdict(options),
    )


def make_learners(
    recipe: Recipe,
    federation: Federation,
    batches: list[Batches],
    book: PhaseBook,
    state: RunState | None,
) -> list[Learner]:
    """Let everybody join, and return the learners in the order of the roster."""
    return [
        Learner(
            recipe,
            recipe_model(recipe),
            federation.join(name),
            share,
            steps=steps_of(recipe, share),
            observe=book.observer(name),
            state=state.learners[name] if state else None,
        )
        for name, share in zip(federation.names, batches, strict=True)
    ]
