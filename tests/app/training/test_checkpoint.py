"""An interrupted run, resumed, ends with the weights of one that was not."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.app.data.load import load_data
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training import checkpoint
from hre_torch.app.training.checkpoint import (
    FORMAT,
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
)
from hre_torch.app.training.evaluation import weights_file
from hre_torch.app.training.launch import Training
from hre_torch.app.training.runner import Runner
from hre_torch.errors import RunDirectoryError, UnprotectedWarning

DIGITS = Path(__file__).parents[3] / "recipes" / "digits_mlp.yaml"

# What a run's summary says that is a matter of time and not of the recipe.
OF_TIME = {"seconds", "phases_ms", "bytes_up", "bytes_down"}

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{UnprotectedWarning.__module__}.{UnprotectedWarning.__name__}"
)


def summary_of(path):
    summary = json.loads((path / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in OF_TIME}


def events_of(path):
    """Return what metrics.jsonl says, times and sizes aside."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    left_out = OF_TIME | {"summary", "predicted"}
    return [
        {key: value for key, value in record.items() if key not in left_out}
        for record in records
        if record["event"] != "phases"
    ]


def stop_at(training, step):
    def listen(record):
        if record["global_step"] >= step:
            training.stop.set()

    training.runner.listeners.append(listen)


@pytest.fixture
def whole_and_resumed(toy_recipe, tmp_path):
    """Run a recipe through, and once more with interruptions; return both paths."""

    def run(*changes, stops):
        recipe = load_recipe(toy_recipe(*changes))
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        with Training.start(recipe, whole) as training:
            assert training.run() is not None
        with Training.start(recipe, broken) as training:
            stop_at(training, stops[0])
            assert training.run() is None
        for stop in stops[1:]:
            with Training.resume(broken) as training:
                stop_at(training, stop)
                assert training.run() is None
        with Training.resume(broken, recipe) as training:
            assert training.run() is not None
        return whole, broken

    return run


@pytest.mark.parametrize("suite", ["plain", "paper", "hybrid"])
@pytest.mark.parametrize("stops", [(1,), (7,), (5, 11, 23)])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(
    whole_and_resumed, suite, stops
):
    changes = (f"suite={suite}", "min_contributions=3", "max_additions=32")
    whole, broken = whole_and_resumed(*changes, stops=stops)
    assert (whole / "weights.safetensors").read_bytes() == (
        broken / "weights.safetensors"
    ).read_bytes()
    assert summary_of(whole) == summary_of(broken)
    assert events_of(whole) == events_of(broken)


@pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")
@pytest.mark.parametrize(
    "changes",
    [
        ("train.momentum=0.9", "train.schedule=cosine"),
        ("train.optimizer=adam", "train.lr=0.01", "train.schedule=onecycle"),
        ("train.optimizer=rmsprop", "train.lr=0.01", "train.rounding=stochastic"),
        ("clip=0.01", "train.error_feedback=false", "data.augment=true"),
        ("max_additions=3", "train.push_every=1", "train.pull_every=9"),
    ],
    ids=lambda changes: changes[0],
)
def test_every_kind_of_state_is_resumed(whole_and_resumed, changes):
    whole, broken = whole_and_resumed("suite=plain", *changes, stops=(9, 14))
    assert summary_of(whole) == summary_of(broken)


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(toy_recipe, tmp_path):
    recipe = load_recipe(toy_recipe("suite=plain"))
    with Training.start(recipe, tmp_path / "whole") as training:
        training.run()
    killed = tmp_path / "killed"
    with Training.start(recipe, killed) as training:
        training.save_every = 0.0
        for place, _ in enumerate(training.runner.steps()):
            if place == 6:
                training._save()
            if place == 11:
                break
    with Training.resume(killed) as training:
        assert training.runner.global_step == 7
        training.run()
    assert summary_of(tmp_path / "whole") == summary_of(killed)
    assert events_of(tmp_path / "whole") == events_of(killed)


def test_taking_a_state_does_not_change_the_training():
    recipe = load_recipe(DIGITS, ["suite=plain", "workers=1", "train.epochs=12"])

    def weights(save_every):
        with Runner(recipe, load_data("digits")) as runner:
            for place, _ in enumerate(runner.steps()):
                if place % save_every == 0:
                    runner.state()
            return weights_file(runner.released_model())

    assert weights(save_every=11) == weights(save_every=100_000)


def test_a_checkpoint_is_written_now_and_then(toy_recipe, tmp_path):
    recipe = load_recipe(toy_recipe("suite=plain"))
    with Training.start(recipe, tmp_path / "run") as training:
        training.save_every = 0.0
        file = tmp_path / "run" / "checkpoint" / "run.msgpack"
        seen = set()
        training.runner.listeners.append(lambda _: seen.add(file.stat().st_mtime_ns))
        training.run()
    assert len(seen) > 3


def test_seconds_go_on_from_where_they_were(toy_recipe, tmp_path):
    recipe = load_recipe(toy_recipe("suite=plain"))
    with Training.start(recipe, tmp_path / "run") as training:
        stop_at(training, 10)
        training.run()
        before = training.runner.seconds
    with Training.resume(tmp_path / "run") as training:
        assert 0 < training.runner.seconds <= before


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """The bytes of a checkpoint in the middle of a run."""
    recipe = load_recipe(DIGITS, ["suite=plain", "workers=1"])
    with Runner(recipe, load_data("digits")) as runner:
        for place, _ in enumerate(runner.steps()):
            if place == 60:
                break
        return encode_checkpoint(
            Checkpoint(
                format=FORMAT,
                recipe=b"digest",
                metrics_bytes=12,
                transcript_bytes=0,
                state=runner.state(),
            )
        )


def test_a_checkpoint_round_trips(document):
    again = encode_checkpoint(decode_checkpoint(document))
    assert again == document


@given(st.data())
def test_a_truncated_checkpoint_is_refused(document, data):
    length = data.draw(st.integers(0, len(document) - 1))
    with pytest.raises(RunDirectoryError, match="is damaged"):
        decode_checkpoint(document[:length])


def test_a_checkpoint_of_another_version_is_refused(document):
    now, then = (b"\xa6format" + bytes([n]) for n in (FORMAT, FORMAT + 1))
    later = document.replace(now, then, 1)
    expected = rf"format {FORMAT + 1}.*reads format {FORMAT}"
    with pytest.raises(RunDirectoryError, match=expected):
        decode_checkpoint(later)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_no_checkpoint(protocol):
    with pytest.raises(RunDirectoryError, match="is damaged"):
        decode_checkpoint(pickle.dumps({"format": FORMAT}, protocol=protocol))


def test_tensors_keep_their_type_and_shape():
    tensors = [
        torch.tensor(3.5),
        torch.zeros(0, 2),
        torch.randn(3, 4).t(),
        torch.randn(5).bfloat16(),
        torch.tensor([True, False]),
        torch.get_rng_state(),
    ]
    for tensor in tensors:
        extension = checkpoint.encode_tensor(tensor)
        again = checkpoint.decode_tensor(extension.code, memoryview(extension.data))
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)


def test_what_is_no_tensor_cannot_be_saved():
    with pytest.raises(NotImplementedError, match="a set"):
        checkpoint.encode_tensor({1, 2})


def test_resuming_refuses_the_directory_of_another_recipe(toy_recipe, tmp_path):
    with Training.start(
        load_recipe(toy_recipe("suite=plain")), tmp_path / "run"
    ) as training:
        stop_at(training, 5)
        training.run()
    other = load_recipe(toy_recipe("suite=plain", "train.lr=0.3", name="other"))
    with pytest.raises(RunDirectoryError, match=r"'lr: 0.2', not 'lr: 0.3'"):
        Training.resume(tmp_path / "run", other)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with Training.resume(tmp_path / "copy") as training:
        assert training.run() is not None
