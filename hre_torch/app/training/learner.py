"""One participant as it trains: its copy of the model, its optimizer, its batches."""

from __future__ import annotations

import warnings

from torch import nn

from hre_torch.app.data.partition import Batches
from hre_torch.app.recipes import Recipe
from hre_torch.app.training.arithmetic import classify, restore_layout
from hre_torch.app.training.checkpoint import LearnerState
from hre_torch.errors import BackPressure, NonFiniteError
from hre_torch.observer import Observer
from hre_torch.optim import HREOptimizer
from hre_torch.participant.session import Session

__all__ = ["Learner"]


class Learner:
    """One participant of a recipe.

    Args:
        recipe: what is trained and how.
        model: this participant's own copy.
        session: its session; its observer becomes `observe`.
        batches: its images in their order.
        steps: local steps that it takes in the whole run.
        observe: told of the phases, `train` among them.
        state: where it stopped.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        session: Session,
        batches: Batches,
        *,
        steps: int,
        observe: Observer,
        state: LearnerState | None = None,
    ) -> None:
        self.name = session.name
        self.steps = steps
        self.model = model
        self.session = session
        self._batches = batches
        self._observe = session.observe = observe
        train = self._train = recipe.train
        weighted = session.task.config.combine == "weighted"
        inner = train.make_optimizer(model.parameters())
        self._scheduler = train.make_scheduler(inner, steps)
        self.optimizer = HREOptimizer(
            inner,
            session,
            module=model,
            push_every=train.push_every,
            pull_every=train.pull_every,
            error_feedback=train.error_feedback,
            buffers=recipe.buffers,
            rounding=train.make_rounding(session.task.roster.names.index(self.name)),
            staleness_weight=train.make_staleness_weight(),
            samples=batches.samples if weighted else None,
        )
        self._loss_sum, self._loss_count = 0.0, 0
        if state is not None:
            self._restore(state)

    def step(self, number: int) -> None:
        """Make local step `number`: one batch, forward, backward, optimizer."""
        with self._observe("train"):
            images, labels = self._batches.batch(number)
            self.optimizer.zero_grad()
            _, loss = classify(self.model, images, labels, self._train)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self._scheduler is not None:
                self._scheduler.step()
        self._loss_sum += loss.item()
        self._loss_count += 1

    def skip(self, number: int) -> None:
        """Set the learning rate as if `number` more local steps had been made."""
        if self._scheduler is None:
            return
        with warnings.catch_warnings():
            # It warns of steps before the optimizer's first; that they are is the aim.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(number):
                self._scheduler.step()

    @property
    def since_push(self) -> int:
        """Local steps that no push holds yet."""
        return self.optimizer.progress.since_push

    def take_loss(self) -> float | None:
        """Return the mean loss since this was last asked, if there was a step."""
        mean = self.loss
        self._loss_sum, self._loss_count = 0.0, 0
        return mean

    @property
    def loss(self) -> float | None:
        """Mean loss since `take_loss` was last called, if there was a step."""
        return self._loss_sum / self._loss_count if self._loss_count else None

    def flush(self) -> None:
        """Push what is left at the end, as far as the task allows.

        What cannot be pushed, because too much of one's own will never be released,
        stays local; the released weights do not have it.
        """
        for _ in range(2):
            try:
                self.optimizer.flush()
                return
            except BackPressure:
                self.pull()
            except NonFiniteError:
                # The parameters were put back to the last finite model.
                continue

    def catch_up(self) -> None:
        """Learn everything that was released, and wait for it if need be."""
        self.optimizer.catch_up()

    def finish(self, timeout: float) -> None:
        """Push the rest, and wait until it is released, `timeout` seconds at most."""
        try:
            self.optimizer.finish(timeout)
        except NonFiniteError:
            # The parameters were put back to the last finite model.
            self.optimizer.finish(timeout)

    def pull(self) -> None:
        """Learn what was released, so that the released weights are the newest."""
        try:
            self.optimizer.pull()
        except NonFiniteError:
            # The parameters were put back to the last finite model.
            self.optimizer.pull()

    def state(self) -> LearnerState:
        """Return where this participant stands, its session aside."""
        return LearnerState(
            model=dict(self.model.state_dict()),
            optimizer=self.optimizer.state_dict(),
            scheduler=self._scheduler.state_dict() if self._scheduler else None,
            loss_sum=self._loss_sum,
            loss_count=self._loss_count,
        )

    def _restore(self, state: LearnerState) -> None:
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        restore_layout(self.optimizer)
        if self._scheduler is not None and state.scheduler is not None:
            self._scheduler.load_state_dict(state.scheduler)
        self._loss_sum, self._loss_count = state.loss_sum, state.loss_count
