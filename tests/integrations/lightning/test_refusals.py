"""`HRECallback` refuses what it cannot federate, and stops what goes past it."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from hre_torch.errors import LayoutError, UnsupportedError
from hre_torch.integrations.lightning import HRECallback
from hre_torch.optim import HREOptimizer
from tests.integrations.lightning.modules import (
    REMARKS,
    Classifier,
    bits,
    lone,
    trainer,
)

pytestmark = [pytest.mark.filterwarnings(remark) for remark in REMARKS]


def test_settings_that_do_not_exist_are_refused_at_once():
    with pytest.raises(UnsupportedError, match="validate_on is 'global'"):
        HRECallback(lone, validate_on="global")
    with pytest.raises(UnsupportedError, match="buffers is 'sum'"):
        HRECallback(lone, buffers="sum")


class Swapped(Classifier):
    """Swapped its optimizer itself, and has the callback as well."""

    def configure_optimizers(self):
        return HREOptimizer(super().configure_optimizers(), lone(self))


class Idle(Classifier):
    def configure_optimizers(self):
        return []


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (Swapped, {}, "returns an HREOptimizer"),
        (Idle, {}, "0 optimizers"),
        (Classifier, {"devices": 2, "strategy": "ddp_spawn"}, "by spawning"),
    ],
    ids=["swapped", "no optimizer", "spawned processes"],
)
def test_what_is_not_supported_is_refused_by_name_before_the_first_step(
    module, options, says, loader, tmp_path
):
    made = module()
    callback = HRECallback(lone(made))
    with pytest.raises(UnsupportedError, match=says):
        trainer(tmp_path, callback, **options).fit(made, loader)
    assert made.losses == []
    assert callback.session.statistics.pushes == 0


def test_several_optimizers_are_refused_before_the_first_step(loader, tmp_path):
    class Several(Classifier):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    # Lightning itself allows several optimizers with manual optimization only.
    made = Several()
    with pytest.raises(RuntimeError, match="multiple optimizers"):
        trainer(tmp_path, HRECallback(lone(made))).fit(made, loader)
    made.automatic_optimization = False
    with pytest.raises(UnsupportedError, match="2 optimizers"):
        trainer(tmp_path, HRECallback(lone(made))).fit(made, loader)
    assert made.losses == []


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no opt.*")
def test_a_module_that_trains_nothing_is_refused(loader, tmp_path):
    class Nothing(Classifier):
        def configure_optimizers(self):
            return None

    made = Nothing()
    with pytest.raises(UnsupportedError, match="0 optimizers"):
        trainer(tmp_path, HRECallback(lone(made))).fit(made, loader)


def test_callbacks_that_move_parameters_are_refused_by_name(loader, tmp_path):
    module = Classifier()
    averaging = StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(UnsupportedError, match="StochasticWeightAveraging"):
        trainer(tmp_path, HRECallback(lone(module)), averaging).fit(module, loader)


def test_two_of_these_callbacks_are_refused(tmp_path):
    callbacks = [HRECallback(lone(Classifier())) for _ in range(2)]
    # Lightning itself allows one callback of a kind that keeps a state.
    with pytest.raises(RuntimeError, match=r"stateful .*HRECallback"):
        trainer(tmp_path, *callbacks)


def test_lbfgs_with_a_gradient_scaler_is_refused(loader, tmp_path):
    module = Classifier("lbfgs")
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(UnsupportedError, match="LBFGS with a gradient scaler"):
        trainer(tmp_path, HRECallback(lone(module)), plugins=[plugin]).fit(
            module, loader
        )


def test_a_module_of_another_task_is_refused(loader, tmp_path):
    callback = HRECallback(lone(nn.Linear(2, 2)))
    with pytest.raises(LayoutError, match="module=model"):
        trainer(tmp_path, callback).fit(Classifier(), loader)


class Bypassing(Classifier):
    """Steps an optimizer that the trainer does not know."""

    def on_train_start(self):
        self.hidden = torch.optim.SGD(self.parameters(), lr=0.1)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        self.hidden.step(optimizer_closure)


class Unwrapping(Classifier):
    """Keeps the optimizer it made, and steps that one."""

    def configure_optimizers(self):
        self.mine = super().configure_optimizers()
        return self.mine

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        self.mine.step(optimizer_closure)


@pytest.mark.parametrize("module", [Bypassing, Unwrapping])
def test_training_stops_if_another_optimizer_steps(module, loader, tmp_path):
    made = module()
    before = bits(made)
    with pytest.raises(UnsupportedError, match="past HREOptimizer"):
        trainer(tmp_path, HRECallback(lone(made))).fit(made, loader)
    assert bits(made) == before


def test_training_stops_if_the_optimizer_is_exchanged(loader, tmp_path):
    class Exchanging(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.strategy.setup_optimizers(trainer)

    made = Classifier()
    with pytest.raises(UnsupportedError, match="has exchanged"):
        trainer(tmp_path, HRECallback(lone(made)), Exchanging()).fit(made, loader)
    assert made.losses == []


def test_training_stops_if_an_epoch_passes_without_our_optimizer(loader, tmp_path):
    class Forgetful(Classifier):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer_closure()

    made = Forgetful()
    with pytest.raises(UnsupportedError, match="6 steps in this epoch, but none"):
        trainer(tmp_path, HRECallback(lone(made))).fit(made, loader)


def test_optimizers_of_other_models_are_left_alone(loader, tmp_path):
    class Watching(Classifier):
        def on_before_optimizer_step(self, optimizer):
            torch.optim.SGD([stranger], lr=0.1).step()

    stranger = nn.Parameter(torch.zeros(1))
    made = Watching()
    trainer(tmp_path, HRECallback(lone(made)), max_epochs=1).fit(made, loader)


def test_after_the_fit_other_optimizers_may_step_again(loader, tmp_path):
    made = Classifier()
    trainer(tmp_path, HRECallback(lone(made)), max_epochs=1).fit(made, loader)
    torch.optim.SGD(made.parameters(), lr=0.0).step()
    bypassing = Bypassing()
    with pytest.raises(UnsupportedError):
        trainer(tmp_path, HRECallback(lone(bypassing))).fit(bypassing, loader)
    torch.optim.SGD(bypassing.parameters(), lr=0.0).step()
