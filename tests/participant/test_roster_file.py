"""Keys, cards, rosters: what people exchange, and what is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys import key_files
from hre_torch.errors import (
    KeyFileError,
    SignatureError,
    TaskError,
    UnsupportedError,
)
from hre_torch.optim.federation import Federation
from hre_torch.protocol.task import TaskConfig
from hre_torch.setup.identities import (
    CardFile,
    make_operator,
    make_role,
    open_operator,
    open_role,
    read_card,
)
from hre_torch.setup.roster_file import (
    RosterFile,
    add_card,
    add_joint_key,
    fingerprint,
    profile_of,
    read_roster,
    roster_of,
    sign_roster,
    task_of,
    write_roster,
)
from tests.sites import furnish
from tests.tasks import config_for


@pytest.fixture(autouse=True)
def cheap_passphrases(monkeypatch):
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)


@pytest.fixture
def make(tmp_path):
    """Make one role's files: `make(role, name, suite=...)` returns its card."""

    def make_one(role, name, suite="gated", profile="toy-insecure"):
        return make_role(
            role,
            name,
            suite=suite,
            profile=profile,
            key=tmp_path / f"{name}.key",
            card=tmp_path / f"{name}.card",
            passphrase=b"secret",
        )

    return make_one


@pytest.fixture
def operator(tmp_path):
    return make_operator(
        key=tmp_path / "operator.key",
        card=tmp_path / "operator.card",
        passphrase=b"secret",
    )


def gather(*cards) -> RosterFile:
    file = RosterFile()
    for card in cards:
        file = add_card(file, card)
    return file


def everybody(make, operator, suite="gated") -> RosterFile:
    return gather(
        operator,
        make("dsp", "dsp", suite),
        make("kts", "kts", suite),
        *(make("participant", name, suite) for name in ("a", "b", "c")),
    )


def task_for(file, parameters, **changes) -> TaskConfig:
    return config_for(
        roster_of(file, parameters),
        parameters,
        np.zeros(4, dtype=np.int64),
        suite=file.suite,
        profile=file.profile,
        **{"max_additions": 64, "min_contributions": 3, "combine": "sum"} | changes,
    )


def opened(key, file=None, suite="gated"):
    """Return the secret of a role, for a roster's suite and group."""
    suite = file.suite if file else suite
    parameters = load_profile("toy-insecure")
    return open_role(key, b"secret", suite=suite, parameters=parameters)


def sign(file, tmp_path) -> RosterFile:
    parameters = profile_of(file, tmp_path)
    key = open_operator(tmp_path / "operator.key", b"secret")
    return sign_roster(file, task_for(file, parameters), key, parameters)


def test_a_card_file_says_what_keygen_returned(make, tmp_path):
    made = make("participant", "a")
    assert read_card(tmp_path / "a.card") == made


def test_the_key_file_holds_the_secret_of_its_card(make, tmp_path):
    made = make("dsp", "dsp")
    secret = opened(tmp_path / "dsp.key")
    assert secret.signing.public == made.card.signing_key
    assert (secret.role, secret.name) == ("dsp", "dsp")


@pytest.mark.parametrize(("role", "name"), [("dsp", "x"), ("participant", "kts")])
def test_servers_and_participants_do_not_borrow_each_others_names(make, role, name):
    with pytest.raises(TaskError, match="names of the servers"):
        make(role, name)


def test_no_file_is_ever_overwritten(make):
    make("participant", "a")
    with pytest.raises(KeyFileError, match="exists already"):
        make("participant", "a")


def test_the_suite_with_one_key_for_all_is_not_for_many_machines(make):
    with pytest.raises(UnsupportedError, match="would have to travel"):
        make("participant", "a", suite="phong")


def test_an_operators_key_and_a_roles_key_are_not_taken_for_each_other(
    make, operator, tmp_path
):
    make("dsp", "dsp")
    with pytest.raises(KeyFileError, match="operator's key"):
        opened(tmp_path / "operator.key")
    with pytest.raises(KeyFileError, match="no server's"):
        open_operator(tmp_path / "dsp.key", b"secret")


def test_a_signed_roster_survives_its_file_and_verifies(make, operator, tmp_path):
    signed = sign(everybody(make, operator), tmp_path)
    write_roster(tmp_path / "roster.json", signed)
    read = read_roster(tmp_path / "roster.json")
    assert read == signed
    task = task_of(read, profile_of(read, tmp_path))
    assert task.roster.names == ("a", "b", "c")
    assert fingerprint(read) == fingerprint(signed)


def test_another_card_drops_the_signature_and_changes_the_fingerprint(
    make, operator, tmp_path
):
    signed = sign(everybody(make, operator), tmp_path)
    grown = add_card(signed, make("participant", "d"))
    assert (grown.task, grown.signature) == (None, b"")
    assert fingerprint(grown) != fingerprint(signed)
    with pytest.raises(TaskError, match="not signed"):
        task_of(grown, profile_of(grown, tmp_path))


def test_every_change_of_a_signed_roster_is_noticed(make, operator, tmp_path):
    signed = sign(everybody(make, operator), tmp_path)
    parameters = profile_of(signed, tmp_path)
    other = msgspec.structs.replace(signed.participants[0], name="mallory")
    changes = [
        {"participants": (other, *signed.participants[1:])},
        {"participants": signed.participants[1:]},
        {"task": msgspec.structs.replace(signed.task, min_contributions=2)},
        {"task": msgspec.structs.replace(signed.task, staleness_bound=7)},
        {"operator": signed.participants[0].signing_key},
        {"signature": bytes(64)},
        {"data_service": signed.key_transform, "key_transform": signed.data_service},
    ]
    for change in changes:
        with pytest.raises((TaskError, SignatureError)):
            task_of(msgspec.structs.replace(signed, **change), parameters)


def test_a_card_comes_once_and_for_the_same_suite_and_profile(make, operator):
    file = everybody(make, operator)
    with pytest.raises(TaskError, match="already"):
        add_card(file, read_like(file, "a"))
    with pytest.raises(TaskError, match="make its keys again"):
        add_card(file, make("participant", "e", suite="plain"))


def read_like(file, name):
    """Return a card file with the card that the roster has under a name."""
    card = next(card for card in file.participants if card.name == name)
    return CardFile(
        profile=file.profile,
        parameters_digest=file.parameters_digest,
        card=card,
    )


def test_in_suite_paper_both_servers_compute_the_joint_key(make, operator, tmp_path):
    file = everybody(make, operator, suite="paper")
    parameters = profile_of(file, tmp_path)
    with pytest.raises(TaskError, match="roster joint"):
        roster_of(file, parameters)
    for name in ("dsp", "kts"):
        secret = opened(tmp_path / f"{name}.key", file)
        file = add_joint_key(file, secret, parameters)
    roster = roster_of(file, parameters)
    assert len(roster.joint_key) == parameters.lanes
    lying = dict(file.joint_keys, kts=tuple(reversed(file.joint_keys["kts"])))
    with pytest.raises(TaskError, match="different joint keys"):
        roster_of(msgspec.structs.replace(file, joint_keys=lying), parameters)


def test_only_the_named_operator_signs(make, operator, tmp_path):
    file = everybody(make, operator)
    parameters = profile_of(file, tmp_path)
    stranger = opened(tmp_path / "a.key").signing
    with pytest.raises(TaskError, match="not the key of the operator"):
        sign_roster(file, task_for(file, parameters), stranger, parameters)


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"format": "other"}', b"[1]"])
def test_what_is_no_roster_or_card_is_said(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(TaskError, match="no roster"):
        read_roster(tmp_path / "file")
    with pytest.raises(TaskError, match="no key card"):
        read_card(tmp_path / "file")
    with pytest.raises(TaskError, match="cannot read"):
        read_roster(tmp_path / "nothing")


def test_a_new_roster_is_another_task_with_the_same_people_left(tmp_path):
    furnish(tmp_path, "gated", ("a", "b", "c", "d"), profile="toy-insecure")
    old = read_roster(tmp_path / "roster.json")
    cards = [read_card(tmp_path / f"{name}.card") for name in ("dsp", "kts", "a", "b")]
    renewed = make_role(
        "participant",
        "c",
        suite="gated",
        profile="toy-insecure",
        key=tmp_path / "c2.key",
        card=tmp_path / "c2.card",
        passphrase=b"secret",
    )
    file = gather(read_card(tmp_path / "operator.card"), *cards, renewed)
    new = sign(file, tmp_path)
    parameters = profile_of(new, tmp_path)
    assert task_of(new, parameters).cfg != task_of(old, parameters).cfg
    assert task_of(new, parameters).roster.names == ("a", "b", "c")


BAD_NAMES = [
    "",
    "Alice",
    "a b",
    "-a",
    ".hidden",
    "a/../b",
    "cl\N{LATIN SMALL LETTER I WITH DIAERESIS}nic",
    "a\n",
    "a\nverified",
    "a\x1b[2J",
    "a" * 65,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_a_name_is_safe_in_files_logs_and_terminals(make, tmp_path, name):
    with pytest.raises(TaskError, match=r"cannot be a name.*choose another") as caught:
        make("participant", name)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.glob("**/*.key"))
    with pytest.raises(TaskError, match="cannot be a name"):
        Federation.local(torch.nn.Linear(2, 2), participants=["a", "b", name])


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_a_card_with_a_bad_name_is_not_read(make, tmp_path, name):
    make("participant", "good")
    path = tmp_path / "good.card"
    path.write_text(path.read_text().replace('"good"', json.dumps(name)))
    with pytest.raises(TaskError, match=r"cannot be a name.*- at `\$.card`"):
        read_card(path)


@pytest.mark.parametrize("name", ["a", "7", "clinic-7.example_org", "a" * 64])
def test_names_may_be_those_of_machines(make, name):
    assert make("participant", name).card.name == name
