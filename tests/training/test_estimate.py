"""The estimate knows bytes and calls exactly, and seconds roughly."""

from __future__ import annotations

import pytest

from hre_torch.crypto.modulus import load_profile
from hre_torch.data.load import load_data
from hre_torch.errors import ModulusError, UnknownPluginError
from hre_torch.recipes import load_recipe
from hre_torch.training.estimate import estimate_recipe, multiplication_seconds
from hre_torch.training.runner import Runner

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
    assert predicted.table_bytes == {}
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
