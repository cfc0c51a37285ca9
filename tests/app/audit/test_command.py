"""`hre-torch audit`: what it prints, and the codes with which it exits."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from hre_torch.cli import app


def typed(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_a_whole_run_is_verified_under_the_key_that_was_named(finished):
    result = typed(finished.run, "--operator", finished.operator.public.hex().upper())
    assert result.exit_code == 0
    assert result.stdout.startswith("verified  suite gated: ")
    assert "note" not in result.stdout


def test_without_a_key_it_says_that_the_key_is_the_runs_own(finished):
    result = typed(finished.run)
    assert result.exit_code == 0
    assert f"operator {finished.operator.public.hex()}, as the run" in result.stdout
    assert "--operator" in result.stdout


def test_another_operators_run_is_wrong_under_the_key_that_was_named(finished):
    result = typed(finished.foreign, "--operator", finished.operator.public.hex())
    assert result.exit_code == 1
    assert result.stdout.startswith("wrong  transcript.bin: its operator is ")
    assert "verified" not in result.stdout


def test_an_unfinished_run_has_an_exit_code_of_its_own(scene):
    (scene.run / "summary.json").unlink()
    (scene.run / "checkpoint").mkdir()
    result = typed(scene.run)
    assert result.exit_code == 3
    assert "the run has not ended" in result.stdout
    assert "unfinished  the transcript so far verifies" in result.stdout
    assert "\nverified" not in result.stdout


@pytest.mark.parametrize("key", ["", "deadbeef", "x" * 64])
def test_a_key_that_is_none_is_refused(finished, key):
    result = typed(finished.run, "--operator", key)
    assert result.exit_code == 2
    assert "64 hexadecimal digits" in result.stderr


def test_what_foreign_files_are_called_can_neither_move_the_cursor_nor_colour(scene):
    (scene.run / "[red]\x1b[2J.txt").write_text("")
    result = typed(scene.run)
    assert r"[red]\x1b[2J.txt: it came after the end" in result.stdout
