"""`HRECallback`: a module that knows nothing of it trains as it did, but federated."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from hre_torch.errors import AloneWarning, UnsupportedError
from hre_torch.integrations.lightning import HRECallback
from hre_torch.optim import FlatView, HREOptimizer
from hre_torch.optim.federation import Federation
from tests.integrations.lightning.modules import (
    REMARKS,
    Classifier,
    Normalised,
    bits,
    lone,
    one_cycle,
    step_lr,
    trainer,
    warmup,
)

pytestmark = [pytest.mark.filterwarnings(remark) for remark in REMARKS]


CONFIGURATIONS = {
    "plain": ({}, {}),
    "scheduler": ({"optimizer": "adam", "scheduler": step_lr}, {}),
    "one cycle": ({"scheduler": one_cycle}, {}),
    "sequential schedulers": ({"scheduler": warmup}, {}),
    "accumulation": ({}, {"accumulate_grad_batches": 2}),
    "clipping by norm": ({}, {"gradient_clip_val": 0.1}),
    "clipping by value": (
        {"optimizer": "adam"},
        {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    ),
    "bfloat16": ({"optimizer": "adam"}, {"precision": "bf16-mixed"}),
    "lbfgs": ({"optimizer": "lbfgs"}, {}),
}


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_unchanged_module_trains_exactly_as_without_a_federation(
    name, loader, tmp_path
):
    module_options, trainer_options = CONFIGURATIONS[name]
    plain = Classifier(**module_options)
    trainer(tmp_path, **trainer_options).fit(plain, loader)
    federated = Classifier(**module_options)
    callback = HRECallback(lone(federated), push_every=2, pull_every=3)
    trainer(tmp_path, callback, **trainer_options).fit(federated, loader)
    assert bits(federated) == bits(plain)
    assert federated.losses == plain.losses
    assert federated.rates == plain.rates
    steps = 18 // trainer_options.get("accumulate_grad_batches", 1)
    assert callback.optimizer.progress.local_steps == steps
    assert callback.session.statistics.pushes >= steps // 2


def test_a_weighted_task_is_told_how_many_samples_there_are(loader, tmp_path):
    plain, federated = Classifier(), Classifier()
    trainer(tmp_path).fit(plain, loader)
    weighted = {"combine": "weighted", "max_samples": 48}
    callback = HRECallback(lone(federated, **weighted), samples=48)
    trainer(tmp_path, callback).fit(federated, loader)
    assert bits(federated) == bits(plain)
    forgetful = trainer(tmp_path, HRECallback(lone(Classifier(), **weighted)))
    with pytest.raises(UnsupportedError, match=r"samples=len\(dataset\)"):
        forgetful.fit(Classifier(), loader)


def test_float16_with_a_gradient_scaler_trains(loader, tmp_path):
    module = Classifier("adam")
    callback = HRECallback(lone(module))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer(tmp_path, callback, plugins=[plugin], gradient_clip_val=1.0).fit(
        module, loader
    )
    assert callback.optimizer.progress.local_steps == 18
    assert sum(module.losses[-6:]) < sum(module.losses[:6])


def test_double_precision_trains(loader, tmp_path):
    module = Classifier().double()
    callback = HRECallback(lone(module))
    trainer(tmp_path, callback, precision="64-true").fit(module, loader)
    assert module.net[0].weight.dtype is torch.float64
    assert callback.optimizer.progress.local_steps == 18


def test_the_optimizer_that_steps_is_ours(loader, tmp_path):
    module = Classifier()
    callback = HRECallback(lone(module))
    fitting = trainer(tmp_path, callback)
    fitting.fit(module, loader)
    assert isinstance(callback.optimizer, HREOptimizer)
    assert fitting.optimizers == [callback.optimizer]


def test_schedulers_follow_the_optimizer_that_steps(loader, tmp_path):
    module = Classifier(scheduler=step_lr)
    callback = HRECallback(lone(module))
    monitor = LearningRateMonitor(logging_interval="step")
    fitting = trainer(tmp_path, callback, monitor, logger=CSVLogger(tmp_path))
    fitting.fit(module, loader)
    scheduler = fitting.lr_scheduler_configs[0].scheduler
    assert scheduler.optimizer is callback.optimizer
    assert list(monitor.lrs) == ["lr-HREOptimizer"]


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_what_is_left_is_pushed_at_the_end_of_training(loader, tmp_path):
    module = Classifier()
    session = lone(module)
    trainer(tmp_path, HRECallback(session, push_every=1000, pull_every=1000)).fit(
        module, loader
    )
    assert session.statistics.pushes == 1
    assert session.pending == 0


@pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")
def test_training_ends_well_although_the_rest_cannot_be_pushed(loader, tmp_path):
    module = Classifier()
    together = Federation.local(
        module,
        participants=2,
        suite="plain",
        profile="toy-insecure",
        min_contributions=2,
        max_additions=4,
    )
    callback = HRECallback(together.join())
    with pytest.warns(AloneWarning, match="and the last local steps were not released"):
        trainer(tmp_path, callback).fit(module, loader)
    assert callback.session.pending == 2
    assert module.losses[-1] < module.losses[0]


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_buffers_are_averaged_where_the_task_says_so(loader, tmp_path):
    module = Normalised()
    session = lone(module, buffers="mean")
    trainer(tmp_path, HRECallback(session)).fit(module, loader)
    exchanged = FlatView.of(module, "mean").read()
    assert exchanged.size == FlatView.of(module).read().size + 12
    assert module.net[1].running_mean.abs().max() > 0.01
    released = session.released() / 2**16
    assert released == pytest.approx(exchanged, abs=2.0**-14)


def test_two_participants_learn_from_each_other(loader, tmp_path):
    modules = [Classifier("adam"), Classifier("adam")]
    together = Federation.local(
        modules[0],
        participants=["a", "b"],
        suite="paper",
        profile="toy-insecure",
        min_contributions=2,
    )
    sessions = [together.join("a"), together.join("b")]
    for _ in range(2):
        for module, session in zip(modules, sessions, strict=True):
            callback = HRECallback(session, push_every=4, pull_every=4)
            trainer(tmp_path, callback, max_epochs=1).fit(module, loader)
    assert sessions[1].version > 0
    assert modules[1].losses[-1] < modules[1].losses[0]


def test_scalars_and_phases_are_logged_where_there_is_a_logger(loader, tmp_path):
    module = Classifier()
    session = lone(module)
    before = session.observe
    fitting = trainer(
        tmp_path,
        HRECallback(session),
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    fitting.fit(module, loader)
    logged = fitting.callback_metrics
    assert logged["hre/version"] == 18.0
    assert logged["hre/pending"] == logged["hre/staleness"] == 0.0
    assert logged["hre/bytes_up"] > 0
    assert logged["hre/bytes_down"] > 0
    phases = {name for name in logged if name.startswith("hre/ms_")}
    assert phases >= {f"hre/ms_{p}" for p in ("quantise", "encrypt", "fetch", "open")}
    assert session.observe is before


def test_the_progress_bar_shows_version_and_pending_uploads(loader, tmp_path):
    module = Classifier()
    fitting = trainer(tmp_path, HRECallback(lone(module)), enable_progress_bar=True)
    fitting.fit(module, loader)
    assert fitting.progress_bar_metrics == {"hre/version": 18.0, "hre/pending": 0.0}


class Watching(Classifier):
    """Notes which weights training and validation see."""

    def __init__(self):
        super().__init__("adam")
        self.trained, self.validated = [], []

    def on_train_batch_end(self, *_):
        self.trained.append(bits(self))

    def on_train_batch_start(self, *_):
        if self.validated and len(self.trained) == 3:
            assert bits(self) == self.trained[-1]

    def validation_step(self, batch, batch_idx):
        self.validated.append(bits(self))


@pytest.mark.parametrize("choice", ["local", "released"])
def test_validation_sees_the_weights_that_were_chosen(choice, loader, tmp_path):
    module = Watching()
    session = lone(module)
    initial = bits(module)
    callback = HRECallback(
        session, push_every=1000, pull_every=1000, validate_on=choice
    )
    trainer(tmp_path, callback, max_epochs=1, val_check_interval=3).fit(
        module, loader, loader
    )
    middle = module.validated[-12:-6]
    assert set(middle) == {initial if choice == "released" else module.trained[2]}
    assert len(set(module.trained)) == 6


def test_a_session_may_be_made_when_the_fit_begins(loader, tmp_path):
    module = Classifier()
    callback = HRECallback(lone)
    with pytest.raises(UnsupportedError, match=r"none before trainer\.fit"):
        callback.session  # noqa: B018
    trainer(tmp_path, callback).fit(module, loader)
    assert callback.session.version == 18


def test_a_module_may_flush_through_the_optimizer_that_lightning_hands_out(
    loader, tmp_path
):
    class Flushing(Classifier):
        def on_train_epoch_end(self):
            self.optimizers().flush()

    made = Flushing("adam")
    session = lone(made)
    callback = HRECallback(session, push_every=1000)
    trainer(tmp_path, callback).fit(made, loader)
    assert session.statistics.pushes == 3
    assert callback.optimizer.progress.since_push == 0
