"""Trainer configurations: each trains to a stated loss, or is refused by name."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks as cb
from lightning.pytorch import plugins
from lightning.pytorch.loggers import CSVLogger

from hre_torch.errors import UnsupportedError
from hre_torch.integrations.lightning import HRECallback
from tests.integrations.lightning.modules import (
    REMARKS,
    Alternating,
    Classifier,
    Epochwise,
    Grouped,
    Manual,
    Normalised,
    Plateau,
    Searching,
    Validated,
    lone,
    make_loader,
    one_cycle,
    step_lr,
    trainer,
    warmup,
)

pytestmark = [
    *(pytest.mark.filterwarnings(remark) for remark in REMARKS),
    # Lightning trains with bfloat16 where there is no float16, and says so.
    pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists.*"),
]

# Mean loss of the last six batches. That of the first six was between 0.61 and 0.73,
# but for LBFGS. Accumulating gradients, with half the steps, came down to 0.53; all
# others came below 0.43.
STATED_LOSS = 0.55


ADAM = {"optimizer": "adam"}

# name: module, its options, the trainer's options, callbacks
TRAINS = {
    "sgd with momentum": (Classifier, {}, {}, []),
    "adam": (Classifier, ADAM, {}, []),
    "lbfgs": (Searching, {}, {}, []),
    "parameter groups": (Grouped, {}, {}, []),
    "manual optimization": (Manual, {}, {}, []),
    "scheduler per step": (Classifier, {"scheduler": step_lr}, {}, []),
    "scheduler per epoch": (Epochwise, {}, {}, []),
    "scheduler on a plateau": (Plateau, {}, {}, []),
    "one cycle": (Classifier, {"scheduler": one_cycle}, {}, []),
    "sequential schedulers": (Classifier, {"scheduler": warmup}, {}, []),
    "accumulated gradients": (Classifier, ADAM, {"accumulate_grad_batches": 2}, []),
    "accumulation that grows": (
        Classifier,
        {},
        {},
        [lambda: cb.GradientAccumulationScheduler(scheduling={1: 2})],
    ),
    "clipping by norm": (Classifier, {}, {"gradient_clip_val": 0.5}, []),
    "clipping by value": (
        Classifier,
        ADAM,
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        [],
    ),
    "16-mixed": (Classifier, ADAM, {"precision": "16-mixed"}, []),
    "bf16-mixed": (Classifier, ADAM, {"precision": "bf16-mixed"}, []),
    "64-true": (Classifier, ADAM, {"precision": "64-true"}, []),
    "bf16-true": (Classifier, ADAM, {"precision": "bf16-true"}, []),
    "early stopping": (
        Validated,
        {},
        {"max_epochs": 9},
        [lambda: cb.EarlyStopping("val_loss", stopping_threshold=0.1)],
    ),
    "checkpoints of the best": (
        Validated,
        {},
        {"enable_checkpointing": True},
        [lambda: cb.ModelCheckpoint(monitor="val_loss", save_last=True)],
    ),
    "learning rates logged": (
        Classifier,
        {"scheduler": step_lr},
        {"logger": True},
        [cb.LearningRateMonitor],
    ),
    "progress bar": (Classifier, {}, {"enable_progress_bar": True}, []),
    "rich progress bar": (
        Classifier,
        {},
        {"enable_progress_bar": True},
        [cb.RichProgressBar],
    ),
    "model summary": (Classifier, {}, {"enable_model_summary": True}, []),
    "steps instead of epochs": (
        Classifier,
        {},
        {"max_steps": 18, "max_epochs": -1},
        [],
    ),
    "limited time": (Classifier, {}, {}, [lambda: cb.Timer("00:00:10:00")]),
    "validation between batches": (Validated, {}, {"val_check_interval": 2}, []),
    "validation without inference mode": (Validated, {}, {"inference_mode": False}, []),
    "anomaly detection": (Classifier, {}, {"detect_anomaly": True}, []),
    "deterministic": (Classifier, {}, {"deterministic": True}, []),
    "overfitting on purpose": (
        Classifier,
        {},
        {"overfit_batches": 6, "max_epochs": 3},
        [],
    ),
    "simple profiler": (Classifier, {}, {"profiler": "simple"}, []),
    "bare bones": (
        Classifier,
        {},
        {
            "barebones": True,
            "logger": None,
            "enable_checkpointing": None,
            "enable_progress_bar": None,
            "enable_model_summary": None,
        },
        [],
    ),
    "batch normalisation": (Normalised, {}, {}, []),
}


def fit(tmp_path, callback, module, options, others):
    if options.get("logger"):
        options = options | {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    fitting = trainer(tmp_path, callback, *others, **options)
    fitting.fit(module, make_loader())
    return fitting


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
@pytest.mark.filterwarnings("ignore:.*overfit_batches.*")
@pytest.mark.filterwarnings("ignore:.*You have turned on `Trainer.detect_anomaly.*")
@pytest.mark.parametrize("name", TRAINS)
def test_a_configuration_trains_to_the_stated_loss(name, tmp_path):
    kind, module_options, options, others = TRAINS[name]
    module = kind(**module_options)
    if options.get("precision", "").endswith("-true"):
        dtype = {"64": torch.float64, "bf16": torch.bfloat16}
        module = module.to(dtype[options["precision"].removesuffix("-true")])
    callback = HRECallback(lone(module), push_every=2, pull_every=3)
    fit(tmp_path, callback, module, options, [make() for make in others])
    assert callback.session.statistics.pushes >= 3
    assert callback.session.version >= 3
    assert sum(module.losses[-6:]) / 6 < STATED_LOSS


# name: module, the trainer's options, callbacks, error, what it says
REFUSED = {
    "several optimizers": (Alternating, {}, [], UnsupportedError, "2 optimizers"),
    "spawned processes": (
        Classifier,
        {"devices": 2, "strategy": "ddp_spawn"},
        [],
        UnsupportedError,
        "by spawning",
    ),
    "averaging of weights": (
        Classifier,
        {},
        [lambda: cb.StochasticWeightAveraging(0.1)],
        UnsupportedError,
        "StochasticWeightAveraging",
    ),
    "moving average of weights": (
        Classifier,
        {},
        [lambda: cb.WeightAveraging()],
        UnsupportedError,
        "WeightAveraging",
    ),
    "finetuning that unfreezes": (
        Classifier,
        {},
        [lambda: cb.BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
        UnsupportedError,
        "BackboneFinetuning",
    ),
    "learning-rate search": (
        Classifier,
        {},
        [lambda: cb.LearningRateFinder()],
        UnsupportedError,
        "LearningRateFinder",
    ),
    "batch-size search": (
        Classifier,
        {},
        [lambda: cb.BatchSizeFinder()],
        MisconfigurationException,
        "Batch size finder cannot be used",
    ),
    "pruning": (
        Classifier,
        {},
        [lambda: cb.ModelPruning("l1_unstructured", amount=0.5)],
        UnsupportedError,
        "ModelPruning",
    ),
    "lbfgs with a gradient scaler": (
        lambda: Classifier("lbfgs"),
        {"precision": None, "plugins": "scaler"},
        [],
        UnsupportedError,
        "LBFGS with a gradient scaler",
    ),
    "another precision plugin": (
        Classifier,
        {"precision": None, "plugins": "foreign"},
        [],
        UnsupportedError,
        "precision plugin Foreign",
    ),
}


class Foreign(plugins.Precision):
    """A precision that nobody has looked at."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_configuration_is_refused_by_a_named_error_before_the_first_step(
    name, tmp_path
):
    kind, options, others, error, says = REFUSED[name]
    if "plugins" in options:
        scaler = torch.amp.GradScaler("cpu")
        made = {
            "scaler": lambda: plugins.MixedPrecision("16-mixed", "cpu", scaler),
            "foreign": Foreign,
        }[options["plugins"]]()
        options = options | {"plugins": [made]}
    module = kind()
    callback = HRECallback(lone(module))
    with pytest.raises(error, match=says):
        fit(tmp_path, callback, module, options, [make() for make in others])
    assert module.losses == []
    assert callback.session.statistics.pushes == 0


def test_the_matrix_has_at_least_twenty_five_configurations():
    assert len(TRAINS) + len(REFUSED) >= 25
