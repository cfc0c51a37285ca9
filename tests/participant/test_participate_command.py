"""`hre-torch participate`: a person sees what `train` shows, a program reads JSON."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hre_torch import load_recipe
from hre_torch.app.participation import propose_recipe
from hre_torch.cli import app

CHANGES = (
    "suite=plain",
    "participants=1",
    "min_contributions=1",
    "train.speeds=null",
    "train.epochs=1",
)


@pytest.fixture
def take_part(make_hosted_site, toy_recipe):
    """Take part alone in a toy task: `take_part(*options)`."""
    recipe = toy_recipe(*CHANGES)
    loaded = load_recipe(recipe)

    def propose(roster, parameters):
        return propose_recipe(loaded, roster, parameters, "toy-insecure")

    site = make_hosted_site("plain", ("p0",), propose=propose)

    def run(*options):
        words = ["participate", recipe, "--dsp", site.url("dsp")]
        for name in ("key", "roster", "initial", "passphrase-file"):
            files = {"key": "p0.key", "roster": "roster.json", "initial": "initial.npy"}
            words += [f"--{name}", site.folder / files.get(name, "passphrase")]
        return CliRunner().invoke(app, [str(word) for word in (*words, *options)])

    return run


@pytest.mark.servers
def test_a_person_sees_progress_and_the_result(take_part, tmp_path):
    result = take_part("--out", tmp_path / "out.npy")
    assert result.exit_code == 0, result.output
    assert "training toy" in result.stderr
    assert "step 0 of 12 · version 0" in result.stderr
    assert "test accuracy" in result.stderr
    shown, written = result.stdout.splitlines()
    assert shown.startswith("version ")
    assert "test accuracy" in shown
    assert written == f"Written to {tmp_path / 'out.npy'}"


@pytest.mark.servers
def test_a_terminal_shows_steps_loss_staleness_bytes_and_phases(take_part, monkeypatch):
    screen = Console(
        file=io.StringIO(), force_terminal=True, width=160, color_system=None
    )
    monkeypatch.setattr(sys.modules["hre_torch.cli.participate"], "messages", screen)
    assert take_part().exit_code == 0
    last = screen.file.getvalue().split("12 of 12 steps")[-1]
    for heading in ("loss", "version", "stale", "pending", "sent", "received"):
        assert heading in last
    for phase in ("train", "quant.", "encr.", "submit", "open", "load"):
        assert phase in last
    assert "elapsed" in last
    assert "test accuracy" in last
    assert "MB" in last or "kB" in last


@pytest.mark.servers
def test_with_json_every_line_is_a_record_and_nothing_else_is_shown(take_part):
    result = take_part("--json")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["event"] for record in records] == ["epoch", "end"]
    assert {"participant", "loss", "version", "bytes_up"} <= set(records[0])
    assert [records[0][key] for key in ("held_back", "rejected", "spent")] == [0, 0, 0]
    assert "training" not in result.stderr
