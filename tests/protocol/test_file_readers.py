"""Files from outside: read, or refused with a typed error; never a crash.

As in `test_decoders.py`, every reader gets 20,000 malformed inputs (slow: 200,000).
"""

from __future__ import annotations

import io

import msgspec
import pytest
import torch

from hre_torch.crypto.dcr import modulus
from hre_torch.crypto.keys import key_files
from hre_torch.optim.federation import Federation
from hre_torch.protocol.task import Task
from hre_torch.setup.identities import CardFile, read_card
from hre_torch.setup.roster_file import RosterFile, parse_roster, task_of
from tests.protocol.barrage import attack, counts, endless
from tests.protocol.mutations import Mutator


class InMemory:
    """Stands for the path of a file that holds just these octets."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(7)
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=4,
        suite="gated",
        profile="toy-insecure",
        min_contributions=3,
    ) as federation:
        return federation.task


@counts(4_000)
def test_a_key_file_opens_or_is_refused(tmp_path, monkeypatch, count):
    mutator = Mutator(10)
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    samples = []
    for name in ("a", "b"):
        key_files.write_key_file(
            tmp_path / name,
            role="dsp",
            name=name,
            parameters_digest=b"",
            secret=bytes(64),
            passphrase=b"open",
        )
        samples.append((tmp_path / name).read_bytes())
    monkeypatch.setattr(key_files, "read_private", lambda data, most: data)
    monkeypatch.setattr(key_files, "Path", bytes)
    mutants = (data for data in endless(mutator.octets, samples) if data not in samples)
    answers = attack(
        lambda data: key_files.read_key_file(data, passphrase=b"open"), mutants, count
    )
    assert answers["KeyFileError"] == count


@counts(4_000)
def test_a_card_is_read_or_refused(task, count):
    mutator = Mutator(12)
    roster = task.roster
    cards = [CardFile(card=card) for card in roster.cards()]
    samples = [msgspec.json.encode(card) for card in cards]
    attack(
        lambda data: read_card(InMemory(data)),
        endless(mutator.document, samples),
        count,
    )


@pytest.fixture
def roster(task) -> bytes:
    file = RosterFile(
        profile="toy-insecure",
        parameters_digest=task.parameters.digest,
        operator=task.roster.operator,
        data_service=task.roster.data_service,
        key_transform=task.roster.key_transform,
        participants=task.roster.participants,
        task=task.config,
        signature=task.signature,
    )
    return msgspec.json.format(msgspec.json.encode(file))


@counts(4_000)
def test_a_roster_is_parsed_or_refused(roster, count):
    mutants = endless(Mutator(13).document, [roster])
    attack(lambda data: parse_roster(data, "a file"), mutants, count)


@counts(400)
def test_a_roster_becomes_the_task_that_was_signed_or_is_refused(task, roster, count):
    attack(
        lambda data: task_of(parse_roster(data, "a file"), task.parameters),
        endless(Mutator(14).document, [roster]),
        count,
        lambda decoded, data: decoded.cfg == task.cfg,
    )


@counts(4_000)
def test_a_profile_is_parsed_or_refused(count):
    mutator = Mutator(11)
    parameters = modulus.load_profile("toy-insecure")
    sample = modulus.profile_json(parameters).encode()
    attack(
        lambda data: modulus._parse_profile.__wrapped__(data, "a file"),
        endless(mutator.document, [sample]),
        count,
        lambda parsed, data: parsed == parameters,
    )
