"""Precision and memory format: they change the arithmetic, never what is exchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.accuracy.baselines import pooled
from benchmarks.accuracy.selective import selective
from benchmarks.accuracy.shokri import SelectiveRun
from hre_torch.app.data.load import load_data
from hre_torch.app.models import MODELS
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.arithmetic import classify, recipe_model, restore_layout
from hre_torch.app.training.evaluation import evaluate, weights_file
from hre_torch.app.training.runner import Runner
from hre_torch.errors import RecipeError
from hre_torch.optim.flatten import FlatView
from tests.app.training.interrupted import weights_of_whole_and_broken

FORMATS = ("contiguous", "channels_last")
BFLOAT16, CHANNELS_LAST = (
    "train.precision=bfloat16",
    "train.memory_format=channels_last",
)
BOTH = (BFLOAT16, CHANNELS_LAST)


@MODELS.register("tiny_cnn")
def tiny_cnn(hidden=(8,)):
    """Return a network whose second convolution has channels to be put last."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, hidden[0]),
        nn.ReLU(),
        nn.Linear(hidden[0], 10),
    )


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_size=200)


@pytest.fixture
def recipe_of(toy_recipe):
    def recipe(*changes, model="tiny_cnn"):
        return load_recipe(toy_recipe(f"model.name={model}", "suite=plain", *changes))

    return recipe


def with_default_options(recipe, model):
    section = recipe.model.model_copy(update={"name": model, "options": {}})
    return recipe.model_copy(update={"model": section})


def released_by(recipe, digits):
    with Runner(recipe, digits) as runner:
        for _ in runner.steps():
            pass
        return weights_file(runner.released_model())


@pytest.mark.parametrize("changes", [(BFLOAT16,), (CHANNELS_LAST,), BOTH])
def test_the_same_recipe_twice_gives_the_same_weights(recipe_of, digits, changes):
    recipe = recipe_of(*changes)
    assert released_by(recipe, digits) == released_by(recipe, digits)


def test_encrypted_training_in_bfloat16_equals_plain_training(recipe_of, digits):
    same = (*BOTH, "min_contributions=3", "max_additions=32")
    encrypted = recipe_of(*same).model_copy(update={"suite": "hybrid"})
    assert released_by(encrypted, digits) == released_by(recipe_of(*same), digits)


@pytest.mark.parametrize(("device", "seen"), [("cuda", 0), ("cuda:2", 2)])
def test_a_device_that_torch_does_not_see_is_named(
    recipe_of, digits, monkeypatch, device, seen
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    expected = f"'{device}', but torch .* sees {seen} CUDA devices here; set train"
    with pytest.raises(RecipeError, match=expected):
        Runner(recipe_of(f"train.device={device}"), digits)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "mps"])
def test_a_device_is_the_cpu_or_a_cuda_device(recipe_of, device):
    with pytest.raises(RecipeError, match=r"train\.device"):
        recipe_of(f"train.device={device}")


def test_bfloat16_gives_other_weights_that_are_float32(recipe_of, digits):
    assert released_by(recipe_of(BFLOAT16), digits) != released_by(recipe_of(), digits)
    recipe = recipe_of(*BOTH)
    model, (images, labels) = recipe_model(recipe), next(digits.test.batches(8))
    logits, loss = classify(model, images, labels, recipe.train)
    loss.backward()
    values = [logits, loss, *(p.grad for p in model.parameters()), *model.parameters()]
    assert {value.dtype for value in values} == {torch.float32}


@pytest.mark.filterwarnings("ignore::hre_torch.errors.UnprotectedWarning")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_ends_with_the_same_weights(recipe_of, tmp_path, optimizer):
    momentum = 0.9 if optimizer == "sgd" else 0.0
    recipe = recipe_of(
        *BOTH, f"train.optimizer={optimizer}", f"train.momentum={momentum}"
    )
    whole, broken = weights_of_whole_and_broken(recipe, tmp_path)
    assert whole == broken


def test_the_state_of_a_restored_optimizer_lies_as_its_parameters_do(recipe_of):
    model = recipe_model(recipe_of(CHANNELS_LAST))
    weight = model[2].weight
    assert not weight.is_contiguous()
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    moments = optimizer.state[weight]["exp_avg"]
    optimizer.state[weight]["exp_avg"] = moments.contiguous()
    restore_layout(optimizer)
    restored = optimizer.state[weight]["exp_avg"]
    assert restored.stride() == weight.stride()
    assert torch.equal(restored, moments)


@pytest.mark.parametrize("model", ["tiny_cnn", "mnist_cnn", "cifar_cnn", "resnet20"])
def test_the_flat_vector_is_the_same_in_every_memory_format(recipe_of, model):
    models = [
        recipe_model(
            with_default_options(recipe_of(f"train.memory_format={name}"), model)
        )
        for name in FORMATS
    ]
    views = [FlatView.of(model, "mean") for model in models]
    first, last = (view.read() for view in views)
    assert first.tobytes() == last.tobytes()
    for view in views:
        view.write(first[::-1].copy())
    assert weights_file(models[0]) == weights_file(models[1])


def test_a_perceptron_takes_no_notice_of_the_memory_format(recipe_of, digits):
    first, last = (
        released_by(
            recipe_of(f"train.memory_format={name}", model="digits_mlp"), digits
        )
        for name in FORMATS
    )
    assert first == last


@pytest.mark.parametrize("baseline", ["pooled", "selective", "asynchronous"])
def test_every_method_that_is_compared_computes_as_the_recipe_asks(
    recipe_of, digits, baseline, monkeypatch
):
    recipe, seen = recipe_of(*BOTH), set()
    forward = nn.Conv2d.forward

    def watched(self, images):
        result = forward(self, images)
        seen.add((result.dtype, self.training))
        return result

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    if baseline == "pooled":
        pooled(recipe, digits)
    elif baseline == "selective":
        selective(recipe, digits, share=0.1)
    else:
        SelectiveRun(recipe, digits, upload=0.1).train()
    assert seen == {(torch.bfloat16, True), (torch.bfloat16, False)}


def test_bfloat16_hardly_changes_a_score(recipe_of, digits):
    model = recipe_model(recipe_of())
    exact = evaluate(model, digits.test, recipe_of().train)
    coarse = evaluate(model, digits.test, recipe_of(BFLOAT16).train)
    assert coarse.loss != exact.loss
    assert coarse.loss == pytest.approx(exact.loss, rel=0.01)
