"""What the servers tell whoever makes their state durable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hre_torch.errors import (
    EquivocationError,
    HREError,
    StaleUploadError,
    UsedNumberError,
)
from hre_torch.participant.participant import LearningParticipant
from hre_torch.protocol.entries import Entry
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.wire import Envelope
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.journal import Journal
from hre_torch.servers.key_transform import KeyTransformServer

TOLD = [name for name in vars(Journal) if not name.startswith("_")]


class Listening(Journal):
    """A journal that remembers what it was told, in order."""

    def __init__(self):
        self.heard: list[str] = []

    def __getattribute__(self, name):
        if name in TOLD:
            self.heard.append(name)
        return super().__getattribute__(name)


class Servers:
    """Both roles of a toy federation, each with a listening journal."""

    def __init__(self, federation):
        self.task = federation.task
        self.secrets = federation._secrets
        self.initial = federation._initial
        self.dsp_journal, self.kts_journal = Listening(), Listening()
        self.dsp = DataServiceProvider(
            self.task, self.secrets["dsp"], Workers(), journal=self.dsp_journal
        )
        self.kts = KeyTransformServer(
            self.task, self.secrets["kts"], Workers(), journal=self.kts_journal
        )
        names = self.task.roster.names
        self.people = {
            name: LearningParticipant(self.task, self.secrets[name], Workers())
            for name in names
        }

    def upload(
        self,
        name: str,
        value: int = 1,
        *,
        version: int = 0,
        model: bytes = b"",
        voids: tuple[int, ...] = (),
    ) -> Envelope[Upload]:
        values = np.full(self.task.config.n_values, value, dtype=np.int32)
        model = model or state_digest(self.initial)
        return self.people[name].seal(values, version, model, voids)

    def accept(self, name: str) -> None:
        deposit = self.dsp.admit(self.upload(name))
        self.dsp.confirm(self.kts.deposit(deposit))

    def release(self) -> None:
        self.dsp.record(self.kts.approve(self.dsp.propose()))

    def open(self, name: str, since: int) -> None:
        while wanted := self.dsp.next_range(name, since):
            reply = self.kts.transform(self.dsp.begin(name, *wanted))
            since = self.people[name].open(self.dsp.finish(reply).encode()).last


@pytest.fixture
def servers(make_federation) -> Servers:
    return Servers(
        make_federation("plain", participants=2, combine="sum", max_per_identity=2)
    )


def test_a_quiet_task_is_told_in_the_order_in_which_it_happens(servers):
    for name in ("p0", "p1"):
        servers.accept(name)
    servers.release()
    for name in ("p0", "p1"):
        servers.open(name, 0)
    uploads = ["entered", "accepted"] * 2
    first = [*uploads, "released", "named"]
    assert servers.dsp_journal.heard == [*first, "fetched", "fetched"]
    assert servers.kts_journal.heard == first


def test_a_sum_that_everybody_has_goes_once_its_model_is_settled(servers):
    model = bytes(32)
    for version in range(2):
        for name in ("p0", "p1"):
            upload = servers.upload(name, version=version, model=version * model)
            servers.dsp.confirm(servers.kts.deposit(servers.dsp.admit(upload)))
        assert "forgotten" not in servers.dsp_journal.heard
        servers.release()
        for name in ("p0", "p1"):
            servers.open(name, version)
    uploads = ["entered", "accepted"] * 2
    assert servers.dsp_journal.heard[8:] == [
        *(*uploads, "released", "named", "forgotten"),
        *("fetched", "fetched"),
    ]
    assert set(servers.dsp.state().releases) == {2}


def test_lines_that_nobody_needs_any_more_are_told_with_a_later_release(
    make_federation,
):
    servers = Servers(
        make_federation("plain", participants=2, combine="sum", staleness_bound=1)
    )
    names = ("p0", "p1")
    for version in range(3):
        for name in names:
            model = bytes(32) if version else b""
            upload = servers.upload(name, version=version, model=model)
            servers.dsp.confirm(servers.kts.deposit(servers.dsp.admit(upload)))
        servers.release()
        for name in names:
            servers.open(name, version)
    # Of each identity one line stays for the upload whose answer it may wait for, Q = 1
    # here; a line before that goes with the release that makes it the last but one.
    assert servers.dsp_journal.heard.count("outlived") == 2
    assert servers.kts_journal.heard.count("outlived") == 2


def test_what_changes_nothing_is_not_told(servers):
    upload = servers.upload("p0")
    deposit = servers.dsp.admit(upload)
    receipt = servers.kts.deposit(deposit)
    servers.dsp.confirm(receipt)
    heard = [*servers.dsp_journal.heard], [*servers.kts_journal.heard]
    servers.dsp.admit(upload)
    servers.kts.deposit(deposit)
    servers.dsp.confirm(receipt)
    servers.open("p0", 0)
    assert heard == (servers.dsp_journal.heard, servers.kts_journal.heard)


REFUSED: list[Callable[[Servers], object]] = [
    lambda servers: servers.dsp.next_range("p0", 9),
    lambda servers: servers.dsp.next_range("p9", 0),
]


@pytest.mark.parametrize("step", REFUSED)
def test_a_refused_step_tells_nothing(step, servers):
    servers.accept("p1")
    with pytest.raises(HREError):
        step(servers)
    assert servers.dsp_journal.heard == ["entered", "accepted"]
    assert servers.kts_journal.heard == ["entered", "accepted"]


def test_a_refused_upload_is_told_once_by_the_number_that_it_uses_up(servers):
    upload = servers.upload("p1", version=5)
    for error in (StaleUploadError, StaleUploadError):
        with pytest.raises(error) as refused:
            servers.dsp.admit(upload)
        assert refused.value.upload == upload.digest
    assert servers.dsp_journal.heard == ["refused"]
    model = state_digest(servers.initial)
    with pytest.raises(UsedNumberError):
        servers.dsp._ledger.check_entry(Entry("p1", 0, 0, model, bytes(32)))


def test_what_an_accepted_upload_voids_is_told_as_withdrawn_at_both_servers(servers):
    servers.accept("p0")
    upload = servers.upload("p0", voids=(0,))
    deposit = servers.dsp.admit(upload)
    assert servers.dsp_journal.heard == ["entered", "accepted", "entered"]
    servers.dsp.confirm(servers.kts.deposit(deposit))
    assert servers.kts_journal.heard[2:] == ["withdrawn", "entered", "accepted"]
    assert servers.dsp_journal.heard[3:] == ["withdrawn", "accepted"]


def test_evidence_is_told_by_the_step_that_is_refused(servers):
    servers.dsp.admit(servers.upload("p0", 1))
    forgetful = LearningParticipant(servers.task, servers.secrets["p0"], Workers())
    servers.people["p0"] = forgetful
    with pytest.raises(EquivocationError):
        servers.dsp.admit(servers.upload("p0", 2))
    assert servers.dsp_journal.heard == ["entered", "witnessed"]


def test_uploads_that_wait_for_the_kts_are_forwarded_again_after_a_restart(servers):
    servers.dsp.admit(servers.upload("p0"))
    servers.dsp.admit(servers.upload("p1"))
    revived = DataServiceProvider(
        servers.task, servers.secrets["dsp"], Workers(), state=servers.dsp.state()
    )
    for deposit in revived.unconfirmed():
        revived.confirm(servers.kts.deposit(deposit))
    assert revived.unconfirmed() == []
    assert revived.propose() is not None


def test_a_release_whose_answer_was_lost_comes_again_though_more_uploads_came(servers):
    for name in ("p0", "p1"):
        servers.accept(name)
    lost = servers.kts.approve(servers.dsp.propose())
    servers.accept("p0")
    order = servers.dsp.propose()
    assert len(order.header.uploads) == 3
    again = servers.kts.approve(order)
    assert again.encode() == lost.encode()
    servers.dsp.record(again)
    assert servers.dsp.version == servers.kts.version == 1
    assert servers.kts_journal.heard.count("released") == 1


def test_a_damaged_sum_is_told_once_it_was_computed_again(servers):
    for name in ("p0", "p1"):
        servers.accept(name)
    parts = [stored.parts for stored in servers.dsp.state().uploads.values()]
    servers.release()
    state = servers.dsp.state()
    released = state.releases[1]
    state.releases[1] = type(released)(released.encoded, 2, (), tuple(parts))
    journal = Listening()
    revived = DataServiceProvider(
        servers.task, servers.secrets["dsp"], Workers(), state=state, journal=journal
    )
    assert journal.heard == ["rebuilt"]
    assert revived.state() == servers.dsp.state()
