"""Predicted and measured numbers meet under one title, in one unit."""

from __future__ import annotations

import pytest

from hre_torch.app.report.read import read_runs
from hre_torch.app.report.tables import comparisons


def test_what_was_predicted_stands_beside_what_was_measured(make_run):
    rows = {row.title: row for row in comparisons(read_runs([make_run()])[0])}
    encrypt = rows["one call: encrypt"]
    assert (encrypt.predicted, encrypt.measured) == ("35 ms", "38 ms")
    assert encrypt.ratio == pytest.approx(1 / 0.93)
    assert rows["bytes sent"].ratio == pytest.approx(1 / 1.02)


def test_what_only_the_estimate_knows_has_no_measurement(make_run):
    rows = {row.title: row for row in comparisons(read_runs([make_run()])[0])}
    assert rows["table bytes"].predicted == "14.7 MB"
    assert rows["table bytes"].measured is None
