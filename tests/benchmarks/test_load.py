"""Crowds against real servers: no errors, no growth, and a page that says so."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks import load
from benchmarks.crowd import Crowd, measure_crowd
from hre_torch.servers import running

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def toy_may_be_served(monkeypatch):
    """Insecure profiles are never served; server processes inherit this."""
    monkeypatch.setattr(running, "check_exposure", lambda parameters, host: None)


@pytest.mark.gate
def test_the_program_writes_a_page_and_a_document(tmp_path, capsys):
    files = {"--json": tmp_path / "load.json", "--markdown": tmp_path / "load.md"}
    arguments = [str(word) for pair in files.items() for word in pair]
    arguments += ["--rounds", "1", "--values", "300", "--crowds", "4x2x100"]
    arguments += ["--profile", "toy-insecure", "--folder", str(tmp_path)]
    assert load.main(arguments) == 0
    page = files["--markdown"].read_text()
    assert capsys.readouterr().out == page + "\n"
    assert "4 participants x 2 releases x 100 values" in page
    document = json.loads(files["--json"].read_text())
    push, (crowd,) = document["push"], document["crowds"]
    assert (push["values"], push["pushes"]) == (300, 3)
    assert push["added"] == push["loopback"] - push["in_process"]
    assert 0 < push["in_process"] < math.inf
    assert crowd["errors"] == []
    assert crowd["uploads"] >= 2 * 3
    assert crowd["dsp_peak_mib"] > 10
    assert set(tmp_path.iterdir()) == set(files.values())


def test_growth_is_that_of_the_second_half():
    crowd = Crowd(1, 1, 100)
    crowd.memory = {"dsp": [(v, 100 + max(50, v) * 0.02) for v in range(101)]}
    assert crowd.slope("dsp") == pytest.approx(2.0)


@pytest.mark.slow
def test_64_participants_and_200_releases_meet_no_error_and_cost_no_memory(tmp_path):
    crowd = measure_crowd(64, 200, 200, profile="toy-insecure", folder=tmp_path)
    print(json.dumps(crowd.record(), indent=1))
    for role, readings in crowd.memory.items():
        print(role, *(f"{version}: {mib:.1f}" for version, mib in readings[::20]))
    assert crowd.errors == []
    assert len(crowd.push) >= 200 * 32
    assert max(crowd.slope("dsp") or 0.0, crowd.slope("kts") or 0.0) < 1.0


@pytest.mark.slow
def test_8_participants_and_20_releases_of_a_million_values_meet_no_error(tmp_path):
    crowd = measure_crowd(8, 20, 1_000_000, profile="toy-insecure", folder=tmp_path)
    print(json.dumps(crowd.record(), indent=1))
    assert crowd.errors == []
