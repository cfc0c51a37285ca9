"""Keys serve the suite that they were made for, whatever a signed roster says."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from hre_torch.app.node import NodeFiles, open_session
from hre_torch.crypto.keys import key_files
from hre_torch.errors import KeyFileError, TaskError
from hre_torch.participant.connection import connect
from hre_torch.protocol.suites import SUITES
from hre_torch.servers import serving
from hre_torch.setup.identities import open_operator
from hre_torch.setup.roster_file import (
    parse_roster,
    profile_of,
    read_roster,
    roster_of,
    sign_roster,
    task_of,
    write_roster,
)
from tests.sites import furnish


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Files of a hybrid task whose operator has signed a paper roster in its place."""
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    monkeypatch.setattr(serving, "check_exposure", lambda parameters, host: None)
    site = furnish(tmp_path, "hybrid", ("a", "b", "c"), profile="toy-insecure")
    path = tmp_path / "roster.json"
    text, changes = re.subn(rb'("suite": )"hybrid"', rb'\1"paper"', path.read_bytes())
    assert changes
    forged = parse_roster(text, "the forged roster")
    # Nobody but the servers can tell whether a joint key of paper is the right one.
    joint = forged.data_service.public
    forged = msgspec.structs.replace(forged, joint_keys={"dsp": joint, "kts": joint})
    parameters = profile_of(forged, tmp_path)
    task = msgspec.structs.replace(
        forged.task, roster_digest=roster_of(forged, parameters).digest()
    )
    operator = open_operator(tmp_path / "operator.key", b"secret")
    write_roster(path, sign_roster(forged, task, operator, parameters))
    return site


def test_the_forged_roster_is_in_order_but_for_the_keys(site):
    file = read_roster(site.folder / "roster.json")
    task = task_of(file, profile_of(file, site.folder))
    assert task.config.suite == "paper"
    SUITES.get("paper").check(task)


@pytest.mark.parametrize("role", ["dsp", "kts"])
def test_a_server_does_not_serve_its_keys_under_another_suite(site, monkeypatch, role):
    monkeypatch.setattr(serving, "_serve", lambda *given: None)
    serve = {"dsp": serving.serve_dsp, "kts": serving.serve_kts}[role]
    with pytest.raises(KeyFileError, match=r"made for suite 'hybrid'.*for 'paper'"):
        serve(site.folder / f"{role}.yaml", lambda key, file: b"secret")


def test_a_participant_does_not_connect_with_keys_of_another_suite(site):
    with pytest.raises(KeyFileError, match=r"made for suite 'hybrid'.*for 'paper'"):
        connect(
            "http://127.0.0.1:9",
            key_file=site.folder / "a.key",
            roster=site.folder / "roster.json",
            passphrase=b"secret",
            initial=np.arange(62, dtype=np.int64),
        )


def test_a_launched_participant_does_not_start_with_keys_of_another_suite(site):
    files = NodeFiles(
        dsp="http://127.0.0.1:9",
        key=site.folder / "a.key",
        roster=site.folder / "roster.json",
        passphrase=site.folder / "passphrase",
        recipe=site.folder / "recipe.yaml",
    )
    with (
        pytest.raises(KeyFileError, match=r"made for suite 'hybrid'.*for 'paper'"),
        open_session(files),
    ):
        pass


def test_a_card_with_another_suite_on_it_proves_nothing(site):
    """The proof of a card of `hybrid` does not pass for `gated`."""
    file = read_roster(site.folder / "roster.json")
    parameters = profile_of(file, site.folder)
    gated = [msgspec.structs.replace(card, suite="gated") for card in file.cards()]
    file = msgspec.structs.replace(
        file,
        data_service=gated[0],
        key_transform=gated[1],
        participants=tuple(gated[2:]),
    )
    task = msgspec.structs.replace(
        file.task,
        suite="gated",
        roster_digest=roster_of(file, parameters).digest(),
    )
    operator = open_operator(site.folder / "operator.key", b"secret")
    with pytest.raises(TaskError, match="'dsp' does not prove knowledge"):
        sign_roster(file, task, operator, parameters)


def test_a_roster_of_mixed_suites_is_refused_with_who_differs(site):
    file = read_roster(site.folder / "roster.json")
    other = msgspec.structs.replace(file.participants[1], suite="plain")
    mixed = msgspec.structs.replace(
        file, participants=(file.participants[0], other, file.participants[2])
    )
    with pytest.raises(TaskError, match=r"DSP's is for 'paper', but 'b' 'plain'.*new"):
        roster_of(mixed, profile_of(file, site.folder))


def test_a_task_of_another_suite_than_its_cards_is_refused(site):
    file = read_roster(site.folder / "roster.json")
    operator = open_operator(site.folder / "operator.key", b"secret")
    task = msgspec.structs.replace(file.task, suite="plain")
    with pytest.raises(TaskError, match=r"the task says suite 'plain'.*'paper'"):
        sign_roster(file, task, operator, profile_of(file, site.folder))
