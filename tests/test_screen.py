"""What the command line prints: nothing that a terminal obeys, everywhere readable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import hre_torch
from hre_torch.app.audit import AuditReport
from hre_torch.cli import app
from hre_torch.cli.screen import printable, say
from hre_torch.crypto.keys import key_files
from hre_torch.setup.identities import read_card
from hre_torch.setup.roster_file import read_roster, write_roster
from tests.sites import furnish

ROOT = Path(hre_torch.__file__).parents[1]
COMMAND = [sys.executable, "-c", "from hre_torch.cli import main; main()"]
HOSTILE = "x\x1b[2J\x1b]0;t\x07\nverified  \u202e[red]all[/]\r"


@pytest.fixture
def hre(monkeypatch, tmp_path):
    """Run a command in an empty folder; return what it did."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@given(st.text())
def test_whatever_is_printable_is_kept_and_the_rest_is_spelled_out(text):
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_a_message_of_several_lines_begins_once(capsys):
    say(f"bad {HOSTILE}", title="error")
    shown = capsys.readouterr().err
    assert harmless(shown)
    assert shown.startswith("error: bad x\\x1b[2J")
    assert shown.splitlines()[1].startswith("  verified")


def harmless(shown: str) -> bool:
    """Whether a terminal would do nothing but write, and no line looks like ours."""
    lines = shown.splitlines()
    return all(line.isprintable() for line in lines) and not any(
        line.startswith("verified") for line in lines
    )


def test_what_a_foreign_roster_says_is_shown_without_effect(hre, tmp_path):
    site = furnish(tmp_path, "plain", ("a", "b", "c"), profile="toy-insecure")
    path = site.folder / "roster.json"
    file = read_roster(path)
    cards = [msgspec.structs.replace(card, suite=HOSTILE) for card in file.cards()]
    hostile = msgspec.structs.replace(
        file,
        profile=HOSTILE,
        data_service=cards[0],
        key_transform=cards[1],
        participants=tuple(cards[2:]),
    )
    write_roster(path, hostile)
    for words in (("show", path), ("verify", path), ("add", path, tmp_path / "a.card")):
        result = hre("roster", *words)
        assert "verified" in result.output
        assert harmless(result.output)


def test_an_error_about_a_foreign_file_is_shown_without_effect(hre, tmp_path):
    (tmp_path / "card").write_text(json.dumps({HOSTILE: 1}))
    result = hre("roster", "add", "roster.json", "card")
    assert result.exit_code == 2
    assert "no key card" in result.stderr
    assert harmless(result.output)


def test_a_bad_name_is_refused_before_any_file(hre, tmp_path):
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("secret\n")
    result = hre("keygen", "participant", HOSTILE, "--passphrase-file", secret)
    assert result.exit_code == 2
    assert "cannot be a name" in result.stderr
    assert harmless(result.output)
    assert list(tmp_path.iterdir()) == [secret]


def test_findings_of_an_audit_are_shown_without_effect(hre, monkeypatch):
    found = AuditReport(suite="plain", findings=[f"record 1: {HOSTILE}"])
    monkeypatch.setattr("hre_torch.app.audit.audit", lambda *given: found)
    result = hre("audit", "run")
    assert result.exit_code == 1
    assert result.stdout.startswith("wrong  record 1: x\\x1b[2J")
    assert "[red]all[/]" in result.stdout
    assert harmless(result.stdout)


def test_a_foreign_runs_summary_is_shown_without_effect(hre, toy_recipe, tmp_path):
    assert hre("train", toy_recipe("suite=plain"), "--out", "run").exit_code == 0
    path = tmp_path / "run" / "summary.json"
    summary = json.loads(path.read_text())
    summary["suite"], summary["phases_ms"][HOSTILE] = HOSTILE, 1.0
    path.write_text(json.dumps(summary))
    from hre_torch.app.report.read import read_runs
    from hre_torch.cli.tables import runs_table

    with hre_torch.cli.screen.results.capture() as captured:
        hre_torch.cli.screen.results.print(runs_table(read_runs([path.parent])))
    assert harmless(captured.get())


def test_another_operators_roster_is_an_alarm_with_an_exit_code_of_its_own(
    hre, tmp_path
):
    furnish(tmp_path, "plain", ("a", "b", "c"), profile="toy-insecure")
    path = tmp_path / "roster.json"
    own = read_card(tmp_path / "operator.card").operator.hex()
    spaced = " ".join(own[i : i + 4] for i in range(0, len(own), 4)).upper()
    assert hre("roster", "verify", path, "--operator", spaced).exit_code == 0
    other = read_card(tmp_path / "a.card").card.signing_key.hex()
    result = hre("roster", "verify", path, "--operator", other)
    assert result.exit_code == 4
    assert result.stderr.startswith("ALARM: this is not that operator's roster")
    assert "Usage" not in result.output
    assert "verified" not in result.stdout
    assert own in result.stderr
    assert other in result.stderr


def test_a_roster_that_was_altered_is_an_alarm(hre, tmp_path):
    furnish(tmp_path, "plain", ("a", "b", "c"), profile="toy-insecure")
    path = tmp_path / "roster.json"
    file = read_roster(path)
    task = msgspec.structs.replace(file.task, staleness_bound=7)
    write_roster(path, msgspec.structs.replace(file, task=task))
    result = hre("roster", "verify", path)
    assert result.exit_code == 4
    assert result.stderr.startswith("ALARM: ")


@pytest.mark.gate
def test_an_ascii_terminal_of_sixty_columns_shows_a_run(toy_recipe, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "ascii",
        "COLUMNS": "60",
        "LC_ALL": "C",
    }
    recipe = str(toy_recipe("suite=paper"))
    done = subprocess.run(
        [*COMMAND, "train", recipe, "--out", "run", "--compare", "plain"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    shown = done.stdout.decode("ascii") + done.stderr.decode("ascii")
    assert done.returncode == 0, shown
    assert "\\x" not in shown
    assert "\\u" not in shown
    assert " - test accuracy " in shown
    assert "equal in every bit" in shown
