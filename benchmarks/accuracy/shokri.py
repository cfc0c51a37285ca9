"""Distributed selective SGD: a *plaintext* baseline, whose server sees gradients.

This is what encrypted federated training is compared with, and protects nothing: the
server reads every value that is uploaded. A round of one participant:

1. *download* the share theta_d of the parameters that changed most recently at the
   server, and put them in place of one's own;
2. *train* on local batches by plain SGD;
3. *select* the share theta_u of the parameters that moved most, clip what each of them
   moved to [-gamma, gamma], and upload it; the server adds it to its own.

What was not selected stays in the local parameters until a download overwrites it. The
paper's other rule, random choice among values above a threshold, is not built.

References:
    R. Shokri, V. Shmatikov, "Privacy-Preserving Deep Learning", CCS 2015, sections 4
    and 5 (criterion "largest values").
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hre_torch.app.data.load import Data
from hre_torch.app.data.partition import Batches
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.arithmetic import classify, recipe_model
from hre_torch.app.training.assembly import make_batches, steps_of
from hre_torch.app.training.evaluation import Score, evaluate
from hre_torch.app.training.schedule import Schedule
from hre_torch.errors import RecipeError
from hre_torch.optim.flatten import FlatView

__all__ = ["SelectiveRun", "SelectiveServer", "largest"]

Vector = NDArray[np.float64]
# A share is sent as 32 bits of position and 32 bits of value.
_OCTETS_PER_VALUE: Final = 8


def largest(values: Vector, share: float) -> NDArray[np.intp]:
    """Return where the values of largest magnitude stand (top-k), in rising order.

    >>> largest(np.array([0.1, -3.0, 2.0, 0.0]), 0.5).tolist()
    [1, 2]

    Args:
        values: shape `(n,)`.
        share: of the values, 0 < share <= 1; `ceil(share n)` are returned.
    """
    count = max(1, math.ceil(share * values.size))
    chosen = np.argpartition(np.abs(values), values.size - count)[-count:]
    return np.sort(chosen)


class SelectiveServer:
    """Keeps the global parameters in the clear.

    Args:
        weights: where training starts, shape `(n,)`.

    Attributes:
        weights: the global parameters now.
    """

    def __init__(self, weights: Vector) -> None:
        self.weights = weights.copy()
        self._changed = np.zeros(weights.size, dtype=np.int64)
        self._uploads = 0

    def upload(self, places: NDArray[np.intp], moves: Vector) -> None:
        """Add what a participant's parameters moved, shape `(k,)` both."""
        self._uploads += 1
        self.weights[places] += moves
        self._changed[places] = self._uploads

    def download(self, share: float) -> tuple[NDArray[np.intp], Vector]:
        """Return places and values of the share that changed most recently."""
        count = max(1, math.ceil(share * self.weights.size))
        order = np.argsort(-self._changed, kind="stable")
        places = np.sort(order[:count])
        return places, self.weights[places]


class _Participant:
    """One participant's model, optimizer and batches."""

    def __init__(self, recipe: Recipe, batches: Batches) -> None:
        self.model = recipe_model(recipe)
        self.view = FlatView.of(self.model)
        self.optimizer = recipe.train.make_optimizer(self.model.parameters())
        self.batches = batches


class SelectiveRun:
    """A recipe trained by selective SGD; the same batches, order and speeds.

    A round is `push_every` local steps, with a download before and an upload after it.
    Suite, quantiser and buffers of the recipe mean nothing here.

    Args:
        recipe: data, network, optimizer and participants.
        data: the recipe's data.
        upload: theta_u, share of the parameters that is uploaded, in (0, 1].
        download: theta_d, share that is downloaded, in (0, 1].
        bound: gamma, most that one parameter moves in one upload; none by default.

    Attributes:
        server: the global parameters.
        octets_up, octets_down: what was sent, at eight octets per value.

    Raises:
        RecipeError: a share or the bound is out of range.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        *,
        upload: float,
        download: float = 1.0,
        bound: float = math.inf,
    ) -> None:
        if not (0 < upload <= 1 and 0 < download <= 1 and bound > 0):
            raise RecipeError(
                f"upload is {upload}, download is {download} and bound is {bound}; "
                "shares must be above 0 and at most 1, and the bound above 0"
            )
        self._recipe, self._data = recipe, data
        self._shares, self._bound = (upload, download), bound
        self._participants = [
            _Participant(recipe, batches) for batches in make_batches(recipe, data)
        ]
        self.server = SelectiveServer(self._participants[0].view.read())
        self.octets_up = self.octets_down = 0

    def train(self) -> Score:
        """Train to the end, and return how good the global parameters are."""
        train = self._recipe.train
        steps = [steps_of(self._recipe, one.batches) for one in self._participants]
        turns = Schedule(self._recipe.speeds, steps, jitter=0.1, seed=train.seed)
        before: dict[int, Vector] = {}
        for turn in turns:
            one = self._participants[turn.participant]
            if turn.participant not in before:
                before[turn.participant] = self._download(one)
            self._step(one, turn.step)
            last = turn.step + 1 == steps[turn.participant]
            if last or (turn.step + 1) % train.push_every == 0:
                self._upload(one, before.pop(turn.participant))
        return self.score()

    def score(self) -> Score:
        """Return how good the global parameters are on the test images."""
        model: nn.Module = self._participants[0].model
        view = self._participants[0].view
        own = view.read()
        view.write(self.server.weights)
        model.eval()
        found = evaluate(model, self._data.test, self._recipe.train)
        model.train()
        view.write(own)
        return found

    def _download(self, one: _Participant) -> Vector:
        places, values = self.server.download(self._shares[1])
        weights = one.view.read()
        weights[places] = values
        one.view.write(weights)
        self.octets_down += _OCTETS_PER_VALUE * places.size
        return weights

    def _step(self, one: _Participant, number: int) -> None:
        images, labels = one.batches.batch(number)
        one.optimizer.zero_grad()
        _, loss = classify(one.model, images, labels, self._recipe.train)
        loss.backward()  # type: ignore[no-untyped-call]
        one.optimizer.step()

    def _upload(self, one: _Participant, before: Vector) -> None:
        moved = one.view.read() - before
        places = largest(moved, self._shares[0])
        moves = np.clip(moved[places], -self._bound, self._bound)
        self.server.upload(places, moves)
        self.octets_up += _OCTETS_PER_VALUE * places.size
