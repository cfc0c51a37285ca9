"""Processes of one group (DDP) are one participant, whichever has the session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hre_torch import HREOptimizer
from hre_torch.errors import UnsupportedError

SCRIPT = Path(__file__).with_name("replicas_script.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes have seen in every scene."""
    folder = tmp_path_factory.mktemp("replicas")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("leader", [0, 1])
def test_all_processes_have_the_leaders_weights_and_it_alone_pushes(ranks, leader):
    zero, one = (rank["alike"][leader] for rank in ranks)
    assert zero["seen"] == one["seen"]
    start, trained, released, again, finished = zero["seen"]
    assert trained == again
    assert len({start, trained, released}) == 3
    assert finished != released
    pushes = [zero["pushes"], one["pushes"]]
    assert pushes[leader] == 3
    assert pushes[1 - leader] == 0
    assert zero["steps"] == one["steps"] == 5


@pytest.mark.parametrize("scene", [0, 1, 2])
def test_a_gradient_that_is_nan_on_some_process_leaves_all_alike(ranks, scene):
    zero, one = (rank["skipped"][scene] for rank in ranks)
    assert zero["weights"] == one["weights"]
    assert zero["finite"]


def test_an_error_of_the_leader_is_raised_on_every_process_and_training_goes_on(ranks):
    zero, one = (rank["failing"] for rank in ranks)
    assert zero["told"] == ["AggregatorError", "the DSP is away"]
    assert one["told"][0] == "AggregatorError"
    assert one["told"][1] == "rank 0 of the process group: the DSP is away"
    assert zero["weights"] == one["weights"]
    assert len(set(zero["weights"])) == 2


def test_an_error_of_a_follower_is_raised_on_every_process_and_training_goes_on(ranks):
    zero, one = (rank["follower failing"] for rank in ranks)
    for before in (0, 1):
        assert one["told"][before] == ["ValueError", "no closure today"]
        kind, says = zero["told"][before]
        assert kind == "HREError"
        assert says == "rank 1 of the process group: ValueError: no closure today"
    assert zero["weights"] == one["weights"]


def test_the_leaders_task_says_whether_buffers_are_averaged(ranks):
    zero, one = (rank["buffers"] for rank in ranks)
    assert zero["mean"] == one["mean"]
    assert zero["mean"] != zero["before"]


def test_two_sessions_in_a_group_or_none_are_refused_everywhere(ranks):
    for rank in ranks:
        (two, says_two), (none, says_none) = rank["sessions"]["told"]
        assert two == none == "UnsupportedError"
        assert "2 of 2 processes" in says_two
        assert "0 of 2 processes" in says_none


def test_shards_of_a_model_are_refused_by_name(ranks):
    for rank in ranks:
        kind, says = rank["sharded"]["told"]
        assert kind == "UnsupportedError"
        assert "fully_shard" in says


def test_the_flat_parameter_of_fsdp_is_refused_by_name():
    class FlatParameter(nn.Parameter):
        pass

    inner = torch.optim.SGD([FlatParameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(UnsupportedError, match="FullyShardedDataParallel"):
        HREOptimizer(inner, None)


def test_deepspeed_is_refused_by_name():
    engine = type("DeepSpeedEngine", (), {"__module__": "deepspeed.runtime.engine"})()
    with pytest.raises(UnsupportedError, match="DeepSpeed"):
        HREOptimizer(engine, None)


def test_a_follower_of_nobody_is_refused():
    inner = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    with pytest.raises(UnsupportedError, match="trains alone"):
        HREOptimizer(inner, None)
