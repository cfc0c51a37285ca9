"""Making a federation from a model, and refusing what cannot work."""

from __future__ import annotations

import re

import msgspec
import pytest
import torch
from torch import nn

from hre_torch import Federation
from hre_torch.errors import (
    ConfigurationError,
    ModulusError,
    RoundingWarning,
    TaskError,
    UnknownPluginError,
)
from hre_torch.protocol.task import Task


def make(**options) -> Federation:
    options.setdefault("participants", 3)
    options.setdefault("profile", "toy-insecure")
    options.setdefault("suite", "paper")
    return Federation.local(torch.nn.Linear(4, 2), **options)


def test_participants_are_named_or_numbered():
    assert make().names == ("p0", "p1", "p2")
    assert make(participants=["a", "b"]).names == ("a", "b")


def test_join_takes_a_name_or_the_next_who_is_missing():
    federation = make()
    assert federation.join("p1").name == "p1"
    assert [federation.join().name, federation.join().name] == ["p0", "p2"]
    with pytest.raises(TaskError, match="joined already"):
        federation.join()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"min_contributions": 4}, TaskError, "between 1 and the number"),
        ({"min_contributions": 0}, TaskError, "min_contributions is 0"),
        ({"participants": 0}, TaskError, "at least one participant"),
        ({"participants": "ab"}, TaskError, "list of names"),
        ({"participants": 2.5}, TaskError, "list of names"),
        ({"participants": [1, 2]}, TaskError, "names are texts"),
        ({"participants": ["a", "a"]}, TaskError, "more than once"),
        ({"participants": ["dsp"]}, TaskError, "name of a server"),
        ({"max_additions": 1, "min_contributions": 2}, TaskError, "raise max_add"),
        ({"staleness_bound": 0}, TaskError, "staleness_bound"),
        ({"clip": -1.0}, TaskError, "clip"),
        ({"clip": "a"}, TaskError, "clip is 'a'"),
        ({"clip": True}, TaskError, "clip is True"),
        ({"clip": 10**400}, TaskError, "clip is 1000"),
        ({"fraction_bits": 2000}, TaskError, "fraction_bits is 2000"),
        ({"combine": "avg"}, TaskError, "combine is"),
        ({"assumed_colluders": -3}, TaskError, "assumed_colluders"),
        ({"value_bits": 99}, TaskError, "value_bits"),
        ({"value_bits": None}, TaskError, "value_bits is None"),
        ({"buffers": "means"}, TaskError, "did you mean 'mean'"),
        ({"min_contribution": 3}, TaskError, "did you mean 'min_contributions'"),
        ({"suite": "papre"}, UnknownPluginError, "did you mean 'paper'"),
        ({"profile": "rsa-2048"}, ModulusError, "rsa2048"),
        ({"suite": 3}, UnknownPluginError, "named '3'"),
        ({"workers": 0}, ConfigurationError, "workers"),
        ({"workers": 1.5}, ConfigurationError, "workers"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(options, error, says):
    with pytest.raises(error, match=says):
        make(**options)


@pytest.mark.parametrize("bits", [-1, 0, 1 << 40])
def test_a_task_that_came_damaged_is_refused_before_its_bits_are_reckoned_with(bits):
    task = make().task
    config = msgspec.structs.replace(task.config, value_bits=bits)
    with pytest.raises(TaskError, match=f"value_bits is {bits}"):
        Task(config, task.roster, task.parameters, task.signature)


def test_a_stranger_cannot_join():
    with pytest.raises(TaskError, match=r"not in the roster.*Allowed: p0, p1, p2"):
        make().join("mallory")


def test_a_second_join_of_one_participant_is_refused():
    federation = make()
    federation.join("p0")
    with pytest.raises(TaskError, match="joined already"):
        federation.join("p0")


@pytest.mark.parametrize(
    "name",
    [
        "min_contributions",
        "assumed_colluders",
        "max_samples",
        "max_additions",
        "value_bits",
        "fraction_bits",
        "staleness_bound",
    ],
)
@pytest.mark.parametrize("value", [2.5, "3", True])
def test_what_is_no_whole_number_is_refused_by_name(name, value):
    with pytest.raises(TaskError, match=f"{name} is {value!r}"):
        make(**{name: value})


def test_weights_too_large_for_the_fraction_bits_are_refused():
    model = torch.nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.fill_(1e6)
    with pytest.raises(TaskError, match="too large for fraction_bits"):
        Federation.local(model, participants=3, suite="plain", fraction_bits=40)


def test_a_model_with_nan_weights_is_refused():
    model = torch.nn.Linear(4, 2)
    torch.nn.init.constant_(model.bias, float("nan"))
    with pytest.raises(TaskError, match="NaN"):
        Federation.local(model, participants=1, profile="toy-insecure")


def test_the_default_t_is_one_in_suite_paper():
    assert make().task.config.min_contributions == 1


def test_the_default_suite_is_hybrid_and_needs_three_participants():
    assert make(suite="hybrid").task.config.min_contributions == 3
    with pytest.raises(TaskError, match=r"2 participants, but suite 'hybrid' .* 3"):
        make(suite="hybrid", participants=2)
    model = torch.nn.Linear(4, 2)
    federation = Federation.local(model, participants=3, profile="toy-insecure")
    assert federation.task.config.suite == "hybrid"


def test_q_shares_k_between_the_participants():
    assert make(max_additions=10).task.config.pending_limit == 3
    assert make(max_additions=3).task.config.pending_limit == 1


class Scaled(nn.Module):
    """A layer whose output begins small, as LayerScale's does (Touvron et al. 2021)."""

    def __init__(self, scale):
        super().__init__()
        self.inner = nn.Linear(40, 40)
        self.scale = nn.Parameter(torch.full((40,), scale))


@pytest.mark.parametrize(
    ("scale", "advice"),
    [
        (1e-6, "fraction_bits=19 keeps them, and value_bits=19"),
        (2.0**-17, "fraction_bits=17 keeps them, and value_bits=17"),
    ],
)
def test_first_weights_that_round_to_zero_are_told_with_the_bits_that_keep_them(
    scale, advice
):
    with pytest.warns(RoundingWarning, match="weights .* in scale") as caught:
        local(Scaled(scale))
    assert len(caught) == 1
    assert advice in str(caught[0].message)
    bits = dict(each.split("=") for each in re.findall(r"\w+_bits=\d+", advice))
    local(Scaled(scale), **{name: int(value) for name, value in bits.items()})


def test_where_no_value_bits_keep_the_range_of_an_update_the_range_is_told():
    told = "value_bits=32, the most there is, lets an update move a value by 4096"
    with pytest.warns(RoundingWarning, match=told):
        local(Scaled(1e-6), value_bits=31, fraction_bits=16)


def test_what_training_leaves_of_a_zero_is_no_matter():
    local(Scaled(1e-10))


def test_a_few_small_values_among_random_ones_are_no_matter():
    model = nn.Linear(40, 40)
    with torch.no_grad():
        model.weight[0, :5] = 1e-6
    local(model)


def test_a_class_token_of_tiny_noise_is_no_matter():
    torch.manual_seed(0)
    model = nn.Linear(40, 40)
    model.cls_token = nn.Parameter(1e-6 * torch.randn(1, 1, 192))
    local(model)


def local(model, **bits):
    return Federation.local(
        model, participants=3, suite="plain", profile="toy-insecure", **bits
    )
