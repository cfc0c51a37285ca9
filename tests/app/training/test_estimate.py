"""The estimate knows bytes and calls exactly, and seconds roughly."""

from __future__ import annotations

import pytest

from hre_torch.app.data.load import load_data
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.estimate import (
    estimate_recipe,
    multiplication_seconds,
    table_seconds_per_byte,
    word_seconds,
)
from hre_torch.app.training.runner import Runner
from hre_torch.crypto.dcr.fixed_base import (
    RECIPIENT_BYTES,
    RECIPIENT_WINDOW,
    table_bytes,
)
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.errors import ModulusError, RecipeError, UnknownPluginError
from hre_torch.protocol.suite import Workload
from hre_torch.protocol.suites import SUITES

# What a message has besides its body: header, signature, the list of a release.
ENVELOPE = 2_000


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_size=200)


@pytest.fixture
def predict(toy_recipe, digits):
    def estimate(*changes):
        return estimate_recipe(load_recipe(toy_recipe(*changes)), digits)

    return estimate


@pytest.mark.parametrize("suite", ["plain", "phong", "paper", "hybrid", "gated"])
def test_pushes_and_bytes_are_those_of_the_run(predict, toy_recipe, digits, suite):
    changes = (f"suite={suite}", "min_contributions=3")
    predicted = predict(*changes)
    with Runner(load_recipe(toy_recipe(*changes)), digits) as runner:
        for _ in runner.steps():
            pass
        totals = runner.totals()
    # The last push of a participant is left out where nothing is left to push.
    assert totals["pushes"] <= predicted.pushes <= totals["pushes"] + 3
    bodies = totals["pushes"] * predicted.upload_bytes
    assert bodies <= totals["bytes_up"] <= bodies + totals["pushes"] * ENVELOPE


def test_a_suite_without_cryptography_costs_nothing(predict):
    predicted = predict("suite=plain")
    assert predicted.seconds == 0
    assert predicted.phases_ms == {}
    assert predicted.table_bytes == predicted.table_seconds == {}
    assert predicted.recipient_table_bytes == predicted.recipient_table_seconds == 0
    assert predicted.bytes_up > 0


def test_the_paper_costs_time_in_every_phase_and_memory_in_every_role(predict):
    predicted = predict()
    assert set(predicted.phases_ms) == {
        "encrypt",
        "add",
        "first_phase",
        "second_phase",
        "open",
    }
    assert all(milliseconds > 0 for milliseconds in predicted.phases_ms.values())
    assert set(predicted.table_bytes) == {"participant", "dsp", "kts"}


@pytest.mark.parametrize("suite", ["paper", "gated", "hybrid"])
def test_tables_cost_time_once_in_proportion_to_their_memory(predict, suite):
    predicted = predict(f"suite={suite}", "min_contributions=3")
    assert set(predicted.table_seconds) == set(predicted.table_bytes)
    for role, octets in predicted.table_bytes.items():
        share = predicted.recipient_table_bytes / octets
        spent = predicted.table_seconds[role] * share
        assert predicted.recipient_table_seconds == pytest.approx(spent)
    assert predicted.recipient_table_seconds > 0


def test_tables_of_a_crowd_of_recipients_stay_within_their_budget():
    parameters = load_profile("demo3072")
    suite = SUITES.get("hybrid")
    few, many = (
        suite.plan(parameters, Workload(1000, count, 16, 64)) for count in (4, 1000)
    )
    of_few = few.table_bytes["dsp"] - 4 * few.recipient_bytes
    assert 0 < of_few < few.recipient_bytes
    assert many.table_bytes["dsp"] - of_few <= RECIPIENT_BYTES


def test_memory_of_tables_is_predicted_for_the_lanes_that_an_update_uses():
    parameters = load_profile("demo3072")
    plan = SUITES.get("hybrid").plan(parameters, Workload(1000, 4, 16, 64))
    assert plan.plaintexts < parameters.lanes
    each = table_bytes(parameters, RECIPIENT_WINDOW)
    assert plan.recipient_bytes == each * plan.plaintexts


def test_the_time_of_a_table_is_measured_on_a_small_one():
    parameters = load_profile("toy-insecure")
    assert 0 < table_seconds_per_byte(parameters) < 1e-5


def test_a_whole_run_is_the_sum_of_its_calls(predict):
    predicted = predict()
    assert predicted.bytes_up == predicted.pushes * predicted.upload_bytes
    expected = (
        predicted.pushes * predicted.phases_ms["encrypt"]
        + predicted.releases * predicted.phases_ms["add"]
        + predicted.pulls
        * sum(predicted.phases_ms[p] for p in ("first_phase", "second_phase", "open"))
    )
    assert 1000 * predicted.seconds == pytest.approx(expected)


def test_a_suite_that_does_not_merge_downloads_every_release(predict):
    merged, single = predict(), predict("suite=hybrid", "min_contributions=3")
    assert merged.bytes_down == merged.pulls * merged.download_bytes
    assert single.bytes_down == 3 * single.releases * single.download_bytes


def test_words_cost_time_in_every_phase_that_treats_them():
    spent = word_seconds()
    assert set(spent) == {"encrypt", "check", "add", "open"}
    assert all(0 < seconds < 1e-5 for seconds in spent.values())


@pytest.mark.parametrize("millions", [0.1, 1, 10, 100])
def test_a_model_need_not_exist_to_be_estimated(toy_recipe, digits, millions):
    size = int(millions * 10**6)
    recipe = load_recipe(toy_recipe("suite=hybrid", "min_contributions=3"))
    predicted = estimate_recipe(recipe, digits, parameters_of_model=size)
    assert predicted.parameters == size
    assert 4.0 < predicted.upload_bytes / size < 4.2
    # Whatever the size, the key layer is the same: between the servers, and in tables.
    small = estimate_recipe(recipe, digits)
    assert predicted.server_bytes == small.server_bytes
    assert predicted.table_bytes == small.table_bytes
    assert predicted.participant_bytes > 20 * size


def test_a_model_without_parameters_is_refused(toy_recipe, digits):
    recipe = load_recipe(toy_recipe())
    with pytest.raises(RecipeError, match="at least 1"):
        estimate_recipe(recipe, digits, parameters_of_model=0)


def test_pushing_less_often_costs_less(predict):
    often, seldom = predict("train.push_every=1"), predict("train.push_every=4")
    assert seldom.pushes < often.pushes
    assert seldom.bytes_up < often.bytes_up


def test_a_larger_modulus_multiplies_more_slowly():
    toy, real = (load_profile(name) for name in ("toy-insecure", "demo3072"))
    assert 0 < multiplication_seconds(toy) < multiplication_seconds(real) < 1e-3


def test_a_record_names_the_numbers_as_the_summary_does(predict, digits, toy_recipe):
    with Runner(load_recipe(toy_recipe()), digits) as runner:
        totals = runner.totals()
    record = predict().record()
    shared = {"pushes", "pulls", "releases", "bytes_up", "bytes_down"}
    assert shared <= set(record) & set(totals)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("suite=papr", UnknownPluginError),
        ("profile=rsa", ModulusError),
        ("model.name=mnist", UnknownPluginError),
    ],
)
def test_what_cannot_be_run_cannot_be_estimated(predict, change, error):
    with pytest.raises(error):
        predict(change)
