"""`LightningCLI`: the callback in code, and in a configuration file."""

from __future__ import annotations

from importlib.util import find_spec

import lightning.pytorch as pl
import pytest

from hre_torch.integrations.lightning import HRECallback
from hre_torch.participant.session import Session
from tests.integrations.lightning.modules import REMARKS, Classifier, lone, make_loader

pytestmark = [
    *(pytest.mark.filterwarnings(remark) for remark in REMARKS),
    # What the command line's own packages remark on is no matter of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LightningCLI's args parameter.*"),
    pytest.mark.skipif(
        find_spec("jsonargparse") is None,
        reason="LightningCLI needs `pip install 'lightning[pytorch-extra]'`",
    ),
]

SILENT = {
    "max_epochs": 2,
    "logger": False,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class WithData(Classifier):
    """Brings its data along."""

    def __init__(self, optimizer: str = "sgd"):
        super().__init__(optimizer)

    def train_dataloader(self):
        return make_loader()


def join(module: pl.LightningModule) -> Session:
    """Return a session; named in the configuration file below."""
    return lone(module)


def run(arguments, **options):
    from lightning.pytorch.cli import LightningCLI

    return LightningCLI(
        WithData,
        args=arguments,
        save_config_callback=None,
        seed_everything_default=1,
        trainer_defaults=SILENT | options,
    )


def test_a_command_line_trains_with_the_callback_given_in_code():
    callback = HRECallback(join, push_every=4)
    command = run(["fit", "--model.optimizer=adam"], callbacks=[callback])
    assert callback.session.statistics.pushes == 3
    assert callback.optimizer.progress.local_steps == 12
    assert command.model.losses[-1] < command.model.losses[0]


def test_a_configuration_file_names_the_callback_and_who_joins(tmp_path):
    path = tmp_path / "fit.yaml"
    path.write_text(
        "trainer:\n  callbacks:\n"
        "    - class_path: hre_torch.HRECallback\n"
        "      init_args:\n"
        f"        session: {__name__}.join\n"
        "        push_every: 6\n"
    )
    command = run(["fit", f"--config={path}"])
    (callback,) = (c for c in command.trainer.callbacks if isinstance(c, HRECallback))
    # A last push carries what the quantiser left over.
    assert callback.session.statistics.pushes == 3
