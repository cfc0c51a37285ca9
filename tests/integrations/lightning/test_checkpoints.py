"""Checkpoints of Lightning: going on where training stopped, or a refusal."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hre_torch.errors import CheckpointError, UnsupportedError
from hre_torch.integrations.lightning import HRECallback
from hre_torch.optim import FlatView
from hre_torch.optim.federation import Federation
from tests.integrations.lightning.modules import (
    REMARKS,
    Classifier,
    bits,
    lone,
    step_lr,
    trainer,
)

pytestmark = [
    *(pytest.mark.filterwarnings(remark) for remark in REMARKS),
    # Who goes on need not write checkpoints, too.
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
]


def test_training_resumes_from_a_checkpoint(loader, tmp_path):
    straight = Classifier("adam", step_lr)
    trainer(tmp_path, HRECallback(lone(straight), push_every=4)).fit(straight, loader)

    first = Classifier("adam", step_lr)
    together = Federation.local(
        first, participants=1, suite="plain", profile="toy-insecure"
    )
    halted = HRECallback(together.join(), push_every=4)
    fitting = trainer(tmp_path, halted, max_epochs=2)
    fitting.fit(first, loader)
    fitting.save_checkpoint(tmp_path / "halted.ckpt")

    second = Classifier("adam", step_lr)
    resumed = HRECallback(Federation.resume(together.state()).join(), push_every=4)
    trainer(tmp_path, resumed).fit(second, loader, ckpt_path=tmp_path / "halted.ckpt")
    assert resumed.optimizer.progress.local_steps == 18
    assert second.rates == straight.rates[12:]
    assert bits(second) == bits(straight)


def halted_after_two_epochs(loader, tmp_path, callback, module):
    keep = ModelCheckpoint(dirpath=tmp_path, filename="last", save_top_k=-1)
    trainer(tmp_path, callback, keep, max_epochs=2, enable_checkpointing=True).fit(
        module, loader
    )
    return keep.best_model_path


def test_a_checkpoint_written_while_training_keeps_where_the_session_stood(
    loader, tmp_path
):
    module = Classifier("adam")
    callback = HRECallback(lone(module))
    path = halted_after_two_epochs(loader, tmp_path, callback, module)
    saved = torch.load(path, weights_only=True)["callbacks"]["HRECallback"]
    assert saved["version"] == 12
    assert saved["task"] == callback.session.task.cfg.hex()


def test_a_checkpoint_of_another_task_is_refused_before_the_first_step(
    loader, tmp_path
):
    module = Classifier("adam")
    path = halted_after_two_epochs(loader, tmp_path, HRECallback(lone(module)), module)
    fresh = Classifier("adam")
    with pytest.raises(UnsupportedError, match="of another task"):
        trainer(tmp_path, HRECallback(lone(fresh))).fit(fresh, loader, ckpt_path=path)
    assert fresh.losses == []


def test_a_checkpoint_without_a_federation_goes_on_in_one_made_from_it(
    loader, tmp_path
):
    alone = Classifier("adam", step_lr)
    keep = ModelCheckpoint(dirpath=tmp_path)
    trainer(tmp_path, keep, max_epochs=2, enable_checkpointing=True).fit(alone, loader)
    path = keep.best_model_path
    fresh = Classifier("adam", step_lr)
    with pytest.raises(UnsupportedError, match="of another task"):
        trainer(tmp_path, HRECallback(lone(fresh))).fit(fresh, loader, ckpt_path=path)
    made = Classifier.load_from_checkpoint(path, optimizer="adam", scheduler=step_lr)
    callback = HRECallback(lone(made))
    trainer(tmp_path, callback).fit(made, loader, ckpt_path=path)
    assert callback.optimizer.progress.local_steps == 6
    assert made.losses[-1] < alone.losses[0]


def test_a_checkpoint_is_refused_once_the_session_has_pushed_more(loader, tmp_path):
    module = Classifier("adam")
    together = Federation.local(
        module, participants=1, suite="plain", profile="toy-insecure"
    )
    session = together.join()
    callback = HRECallback(session, push_every=5)
    keep = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1)
    fitting = trainer(tmp_path, callback, keep, max_epochs=2, enable_checkpointing=True)
    fitting.fit(module, loader)
    kept = keep.best_model_path
    assert session.statistics.pushes == 3
    again = HRECallback(session, push_every=5)
    with pytest.raises(CheckpointError, match="after 2 pushes, but this session stan"):
        trainer(tmp_path, again, max_epochs=2).fit(module, loader, ckpt_path=kept)
    assert session.statistics.pushes == 3


def test_what_a_checkpoint_had_not_pushed_counts_once_in_a_federation_made_from_it(
    loader, tmp_path
):
    module = Classifier("adam")
    callback = HRECallback(lone(module), push_every=1000)
    path = halted_after_two_epochs(loader, tmp_path, callback, module)
    made = Classifier.load_from_checkpoint(path, optimizer="adam")
    before = FlatView.of(made).read()
    again = HRECallback(lone(made), push_every=1000)
    trainer(tmp_path, again, max_epochs=2).fit(made, loader, ckpt_path=path)
    assert abs(FlatView.of(made).read() - before).max() <= 2.0**-16
