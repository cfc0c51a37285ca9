"""Everything that is measured returns the sum, phase by phase."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from importlib.util import find_spec

import pytest

from benchmarks.measure import Patience, measure
from benchmarks.peers import PEERS
from benchmarks.suites import SuiteSystem
from benchmarks.table import ROLE_PHASES
from benchmarks.training import UNPROTECTED, TrainingSystem, parse_course
from benchmarks.workload import Workload
from hre_torch.errors import ConfigurationError, MissingExtraError

VALUES = 60
TOY = Workload(values=VALUES, profile="toy-insecure")
ONCE = Patience(rounds=1)
INNER_PHASES = {
    "encrypt",
    "check",
    "add",
    "first_phase",
    "first_phase_cached",
    "second_phase",
    "second_phase_cached",
    "finish",
    "decrypt",
}
PEER_PHASES = {
    "client_push": "encrypt",
    "dsp_push": "check",
    "dsp_release": "add",
    "dsp_recipient": "finish",
    "client_pull": "decrypt",
}
SILENT_PHASES = {"dsp_release", "add"}
"""Phases of peers in which nothing moves."""

SHARED_KEY_PEERS = [
    "phe",
    "phong-lwe",
    pytest.param(
        "tenseal",
        marks=pytest.mark.skipif(
            find_spec("tenseal") is None, reason="the extra `bench` is not installed"
        ),
    ),
]


@pytest.mark.parametrize("suite", ["hybrid", "gated", "paper", "phong", "plain"])
def test_every_suite_returns_the_sum_and_measures_each_role(suite):
    records = measure(partial(SuiteSystem, suite), [TOY], Patience(rounds=2))
    assert {record.phase for record in records} == {*ROLE_PHASES, *INNER_PHASES}
    assert all(record.readings >= 2 for record in records)
    moved = {record.phase: record.bytes for record in records}
    assert all(moved[phase] > 0 for phase in ROLE_PHASES)


def test_a_role_phase_is_at_least_as_long_as_the_work_inside_it():
    records = measure(partial(SuiteSystem, "hybrid"), [TOY], ONCE)
    seconds = {record.phase: record.seconds for record in records}
    assert seconds["client_push"] >= seconds["encrypt"]
    assert seconds["dsp_push"] >= seconds["check"]
    assert seconds["client_pull"] >= seconds["decrypt"]
    assert seconds["dsp_recipient_first"] >= seconds["first_phase"]


def test_messages_count_at_the_role_that_sends_and_at_the_role_that_gets_them():
    records = measure(partial(SuiteSystem, "gated"), [TOY], ONCE)
    moved = {record.phase: record.bytes for record in records}
    assert moved["client_push"] == moved["encrypt"]
    assert moved["dsp_push"] > moved["client_push"] + moved["kts_push"]
    assert moved["dsp_release"] == moved["kts_release"]
    assert moved["dsp_recipient"] == moved["kts_recipient"] + moved["client_pull"]


def test_modulus_and_lanes_are_those_of_the_ciphertexts():
    def of(suite):
        record, *_ = measure(partial(SuiteSystem, suite), [TOY], ONCE)
        return record.modulus_bits, record.lanes

    assert of("paper") == (512, 3)
    assert of("phong") == (512, 1)
    assert of("plain") == (None, None)


def test_the_words_of_hybrid_are_measured_alone():
    (factory,) = PEERS.get("hybrid-words")
    records = measure(factory, [TOY], ONCE)
    assert [record.phase for record in records] == [
        "mask",
        "add",
        "add_checked",
        "unmask",
    ]


@pytest.mark.parametrize("peer", SHARED_KEY_PEERS)
def test_every_peer_returns_the_sum_and_measures_each_phase(peer):
    for factory in PEERS.get(peer):
        records = measure(factory, [TOY], ONCE)
        expected = {*PEER_PHASES, *PEER_PHASES.values()}
        assert {record.phase for record in records} == expected
        silent = {record.phase for record in records if record.bytes is None}
        assert silent == SILENT_PHASES


@pytest.mark.flower
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(
    find_spec("flwr") is None, reason="the extra `flower` is not installed"
)
def test_secagg_returns_the_sum_and_sends_eight_octets_per_value():
    (factory,) = PEERS.get("secagg")
    records = {r.phase: r for r in measure(factory, [TOY], ONCE)}
    assert {*PEER_PHASES, "add"} == set(records)
    assert records["dsp_push"].bytes > 8 * VALUES
    assert records["client_push"].bytes > records["dsp_push"].bytes


@pytest.mark.parametrize(
    ("peer", "package", "module", "extra"),
    [
        ("tenseal", "tenseal", "tenseal_ckks", "bench"),
        ("secagg", "flwr", "secagg", "flower"),
    ],
)
def test_a_peer_that_is_not_installed_names_the_extra(
    monkeypatch, peer, package, module, extra
):
    loaded = [name for name in sys.modules if name.split(".")[0] == package]
    for name in {*loaded, package}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"benchmarks.peers.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"'{peer}'.*hre-torch\[{extra}\]"):
        importlib.import_module(f"benchmarks.peers.{module}")


@pytest.mark.parametrize("suite", ["hybrid", "plain", UNPROTECTED])
def test_a_training_step_is_one_phase(suite):
    course = parse_course("digits_mlp:2")
    workload = Workload(course.values, "toy-insecure")
    (record,) = measure(partial(TrainingSystem, suite, course), [workload], ONCE)
    assert (record.system, record.phase) == (suite, "train_step_2")
    assert record.values == 2410
    assert (record.bytes is None) == (suite == UNPROTECTED)


def test_a_round_of_training_makes_one_release_that_everybody_opens():
    course = parse_course("digits_mlp")
    workload = Workload(course.values, "toy-insecure")
    (warm,) = measure(partial(TrainingSystem, "plain", course), [workload], ONCE)
    upload_and_download = 2 * 8 * course.values
    assert upload_and_download < warm.bytes < 1.2 * upload_and_download


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits_mpl", "did you mean 'digits_mlp'"),
        ("digits_mlp:0", "at least 1"),
        ("digits_mlp:often", "at least 1"),
    ],
)
def test_a_course_that_cannot_be_trained_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_course(text)
