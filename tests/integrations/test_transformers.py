"""`federate`: a Trainer's two changed lines, PEFT, checkpoints, and what is refused."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hre_torch.errors import (
    CheckpointError,
    HREWarning,
    MissingExtraError,
    OutsideChangeError,
    UnsupportedError,
)
from hre_torch.optim import FlatView
from hre_torch.optim.federation import Federation

transformers = pytest.importorskip(
    "transformers", reason="needs the extra `transformers`"
)

from hre_torch.integrations.transformers import federate  # noqa: E402

pytestmark = [
    # What these libraries remark on is no matter of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def bert():
    """A classifier of word lists, small enough for a test, without dropout."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.round(parameter * 2**16) / 2**16)
    return model


def lora():
    peft = pytest.importorskip("peft", reason="needs the extra `peft`")
    torch.manual_seed(1)
    chosen = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["query", "value"], lora_dropout=0.0
    )
    return peft.get_peft_model(bert(), chosen)


def sentences(size=64):
    words = torch.randint(0, 40, (size, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": each, "labels": (each < 6).any().long()} for each in words]


@pytest.fixture
def trainer(tmp_path) -> Callable[..., transformers.Trainer]:
    """Make Trainers of eight steps."""

    def make(model, *callbacks, **options):
        given = {
            "output_dir": str(tmp_path / "out"),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 5,
        }
        return transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(**given | options),
            train_dataset=sentences(),
            eval_dataset=sentences(16),
            callbacks=list(callbacks),
        )

    return make


def values(model):
    return FlatView.of(model).read()


def losses(trainer):
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


class SavesTheFederation(transformers.TrainerCallback):
    """Puts the federation beside every checkpoint."""

    def __init__(self, together):
        self.together = together

    def on_save(self, args, state, control, **seen):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.together.save(folder / "federation")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "gradient_accumulation_steps": 2,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "max_grad_norm": 0.1,
            "weight_decay": 0.1,
        },
        {"optim": "sgd", "learning_rate": 0.5},
    ],
    ids=["defaults", "accumulation", "sgd"],
)
@pytest.mark.parametrize("make", [bert, lora])
def test_a_lone_participant_trains_as_without_the_two_lines(
    trainer, federation, make, options
):
    plain = trainer(make(), **options)
    plain.train()
    model = make()
    federated = trainer(model, **options)
    optimizer = federate(federated, federation(model).join())
    federated.train()
    assert losses(federated) == pytest.approx(losses(plain), rel=0.01)
    apart = abs(values(model) - values(plain.model)).max()
    moved = abs(values(plain.model) - values(make())).max()
    assert apart < 0.02 * moved
    assert optimizer.session.version == optimizer.session.pushed >= 4


def test_of_a_peft_model_only_the_adapter_is_exchanged(trainer, federation):
    model = lora()
    frozen = {
        name: copy.deepcopy(each)
        for name, each in model.named_parameters()
        if not each.requires_grad
    }
    session = federation(model).join()
    names = session.task.config.names
    assert all("lora_" in name or "classifier" in name for name in names)
    federated = trainer(model)
    federate(federated, session)
    federated.train()
    now = dict(model.named_parameters())
    assert all(torch.equal(each, now[name]) for name, each in frozen.items())


def test_a_trainer_reports_where_the_session_stands(trainer, federation):
    model = bert()
    federated = trainer(model)
    heard = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs, **seen):
            heard.append(dict(logs))

    federated.add_callback(Reporter)
    federate(federated, federation(model).join())
    summary = federated.train().metrics
    federated.evaluate()
    steps = [each for each in heard if "loss" in each]
    assert [each["hre/version"] for each in steps] == [2, 4, 6, 8]
    assert {"hre/pushes", "hre/held_back", "hre/saturated"} < set(steps[0])
    assert summary["hre/version"] == 8
    assert not any(name.startswith("hre/") for name in heard[-1])


def test_the_end_of_a_training_pushes_the_rest(trainer, federation):
    model = bert()
    federated = trainer(model)
    optimizer = federate(
        federated, federation(model).join(), push_every=100, pull_every=100
    )
    assert federated.train().metrics["hre/version"] == 1
    with optimizer.released():
        everybodys = values(model)
    assert abs(values(model) - everybodys).max() <= 2.0**-16


def test_a_second_training_goes_on(trainer, federation):
    model = bert()
    federated = trainer(model)
    optimizer = federate(federated, federation(model).join())
    federated.train()
    federated.train()
    assert optimizer.progress.local_steps == 16
    assert optimizer.session.version >= 16


@pytest.mark.parametrize("make", [bert, lora])
def test_a_checkpoint_of_this_task_resumes_exactly(trainer, federation, make):
    model = make()
    together = federation(model)
    whole = trainer(model, SavesTheFederation(together), save_strategy="epoch")
    federate(whole, together.join(), push_every=3)
    whole.train()

    folder = Path(whole.args.output_dir) / "checkpoint-4"
    again = make()
    resumed = trainer(again)
    together = Federation.load(folder / "federation")
    federate(resumed, together.join("p0"), push_every=3)
    resumed.train(resume_from_checkpoint=str(folder))
    assert (values(again) == values(model)).all()
    assert resumed.state.global_step == 8


def test_a_checkpoint_of_another_task_is_refused_with_both_fingerprints(
    trainer, federation
):
    first = bert()
    written = trainer(first, save_strategy="epoch")
    there = federate(written, federation(first).join()).session.task
    written.train()

    model = bert()
    resumed = trainer(model)
    here = federate(resumed, federation(model).join()).session.task
    with pytest.raises(CheckpointError, match=r"Federation\.load") as refused:
        resumed.train(resume_from_checkpoint=True)
    for task in (here, there):
        assert task.cfg.hex()[:16] in str(refused.value)


def test_a_task_that_was_made_from_the_checkpoint_goes_on(trainer, federation):
    first = bert()
    written = trainer(first, save_strategy="epoch")
    federate(written, federation(first).join())
    written.train()

    model = bert()
    model.load_state_dict(first.state_dict())
    resumed = trainer(model, num_train_epochs=4)
    optimizer = federate(resumed, federation(model).join())
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 16
    assert optimizer.session.version >= 8
    assert losses(resumed)[-1] < losses(written)[-1]


@pytest.mark.parametrize("options", [{}, {"save_only_model": True}])
def test_a_checkpoint_of_a_plain_training_is_refused(trainer, federation, options):
    trainer(bert(), save_strategy="epoch", **options).train()
    model = bert()
    resumed = trainer(model)
    federate(resumed, federation(model).join())
    with pytest.raises(CheckpointError, match="without resume_from_checkpoint"):
        resumed.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("make", [bert, lora])
def test_the_best_model_is_loaded_after_the_last_push(trainer, federation, make):
    """The second epoch undoes the first one, so the best model is not the last."""

    class Spoils(transformers.TrainerCallback):
        def on_epoch_end(self, args, state, control, optimizer, **seen):
            for group in optimizer.param_groups:
                group["lr"] = -1.0

    model = make()
    federated = trainer(
        model,
        Spoils(),
        lr_scheduler_type="constant",
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        optim="sgd",
    )
    optimizer = federate(federated, federation(model).join())
    with pytest.warns(HREWarning, match=r"load_best_model_at_end.*restore\(\)"):
        federated.train()
    assert federated.state.best_model_checkpoint.endswith("checkpoint-4")
    assert optimizer.session.pending == 0
    best = values(model)
    optimizer.restore()
    assert abs(values(model) - best).max() > 0.01
    with optimizer.released():
        everybodys = values(model)
    assert abs(values(model) - everybodys).max() <= 2.0**-16


def test_weights_that_a_script_changed_are_refused_before_the_first_step(
    trainer, federation
):
    model = bert()
    federated = trainer(model)
    federate(federated, federation(model).join())
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    with pytest.raises(OutsideChangeError):
        federated.train()


def test_an_optimizer_that_was_exchanged_is_refused(trainer, federation):
    model = bert()
    federated = trainer(model)
    federate(federated, federation(model).join())
    federated.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedError, match="leave the optimizer alone"):
        federated.train()


def test_a_second_call_is_refused(trainer, federation):
    model = bert()
    federated = trainer(model)
    session = federation(model).join()
    federate(federated, session)
    with pytest.raises(UnsupportedError, match="second call"):
        federate(federated, session)


def test_a_trainer_that_has_trained_is_refused(trainer, federation):
    model = bert()
    late = trainer(model, max_steps=1)
    late.train()
    with pytest.raises(UnsupportedError, match=r"before trainer\.train"):
        federate(late, federation(model).join())


@pytest.mark.parametrize(
    ("named", "value", "told"),
    [
        ("is_fsdp_enabled", True, "FSDP"),
        ("is_deepspeed_enabled", True, "DeepSpeed"),
        ("model_init", bert, "model_init"),
    ],
)
def test_what_cannot_be_federated_is_refused_by_name(
    trainer, federation, monkeypatch, named, value, told
):
    model = bert()
    federated = trainer(model)
    monkeypatch.setattr(federated, named, value)
    with pytest.raises(UnsupportedError, match=told):
        federate(federated, federation(model).join())


def test_a_trainer_on_several_processes_is_refused(trainer, federation, monkeypatch):
    model = bert()
    federated = trainer(model)
    monkeypatch.setattr(type(federated.args), "world_size", property(lambda _: 2))
    with pytest.raises(UnsupportedError, match="several processes"):
        federate(federated, federation(model).join())


def test_optimizers_that_move_parameters_beside_their_step_are_refused(
    trainer, federation
):
    model = bert()
    federated = trainer(model, optim="galore_adamw_layerwise")
    with pytest.raises(UnsupportedError, match="galore_adamw_layerwise"):
        federate(federated, federation(model).join())


def test_what_is_no_trainer_is_refused(federation):
    model = bert()
    with pytest.raises(UnsupportedError, match="not a Bert"):
        federate(model, federation(model).join())


def test_without_transformers_the_extra_is_named(monkeypatch):
    name = "hre_torch.integrations.transformers"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"hre-torch\[transformers\]"):
        importlib.import_module(name)
