"""Servers that go on from an old copy of their state, beside others that do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations, permutations, product
from typing import Any

import msgspec
import numpy as np
import pytest

from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.errors import (
    AggregatorError,
    BehindError,
    EquivocationError,
    HREError,
    ReleaseError,
    SignatureError,
    StaleUploadError,
)
from hre_torch.participant.participant import LearningParticipant, ParticipantState
from hre_torch.participant.session import Session
from hre_torch.protocol.entries import GENESIS
from hre_torch.protocol.evidence import check_evidence
from hre_torch.protocol.messages import ReleaseOrder, Upload
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.wire import Envelope, decode, kind_of, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.data_service import DataServiceProvider
from hre_torch.servers.key_transform import KeyTransformServer
from hre_torch.servers.local import (
    LocalAggregator,
    LocalServers,
    LocalServersState,
)
from tests.tasks import config_for

NAMES = ("alice", "bob", "carol", "dave")
INITIAL = np.zeros(3, dtype=np.int64)
ROUNDS = 5


@cache
def world(suite: str) -> tuple[Task, dict[str, Any]]:
    """Return a task with t = 3 and c = 1, and everybody's secrets."""
    parameters = load_profile("toy-insecure")
    operator = SigningKey(bytes(32))
    secrets, roster = SUITES.get(suite).setup(
        NAMES, parameters, operator=operator.public
    )
    config = config_for(
        roster,
        parameters,
        INITIAL,
        suite=suite,
        min_contributions=3,
        assumed_colluders=1,
        max_additions=16,
        combine="sum",
        pending_limit=4,
    )
    return Task(config, roster, parameters, sign_task(config, operator)), secrets


def copied(state: Any) -> Any:
    """Return a state as it comes back from a disk."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=type(state))


class History:
    """Five releases and one upload more; keeps what both servers were on the way.

    Attributes:
        newest: both servers' state at the end.
        before_deposit: before the last upload.
        after: both states after so many releases.
        ordered: the KTS's state when the order of the last release arrived.
        signed: the DSP's state when the last release arrived.
    """

    def __init__(self, suite: str) -> None:
        self.task, self.secrets = world(suite)
        self.servers = LocalServers(self.task, self.secrets)
        self.servers.taps.append(self._listen)
        self.sessions = {name: self.session(name) for name in NAMES}
        self.after = [copied(self.servers.state())]
        for _ in range(ROUNDS):
            self.sessions["dave"].pull()
            for name in ("alice", "bob", "carol"):
                self.push(name)
            for name in ("alice", "bob", "carol"):
                self.sessions[name].pull()
            self.after.append(copied(self.servers.state()))
        self.before_deposit = self.after[-1]
        self.push("alice")
        self.newest = copied(self.servers.state())

    def session(self, name: str) -> Session:
        link = LocalAggregator(name, servers=self.servers)
        return Session(self.task, self.secrets[name], link, INITIAL)

    def push(self, name: str) -> None:
        self.sessions[name].push(np.ones(3, dtype=np.int32))

    def pull(self) -> None:
        for session in self.sessions.values():
            session.pull()

    def restore(self, *, dsp: Any = None, kts: Any = None) -> None:
        """Start both servers again, from other states than the newest where given."""
        state = LocalServersState(
            copied(dsp or self.newest.data_service),
            copied(kts or self.newest.key_transform),
        )
        self.servers = LocalServers(self.task, self.secrets, state=state)
        for name, session in self.sessions.items():
            session._carrier.aggregator = LocalAggregator(name, servers=self.servers)

    def _listen(self, link: str, data: bytes) -> None:
        if kind_of(data) == "release_order":
            self.ordered = copied(self.servers._key_transform.state())
        if kind_of(data) == "release":
            self.signed = copied(self.servers._data_service.state())


@pytest.fixture(params=["plain", "gated"])
def history(request) -> History:
    return History(request.param)


def opens_the_last_release(history: History) -> bool:
    """Whether dave, who has not opened it yet, gets the sum that everybody got."""
    late = history.sessions["dave"]
    (opened,) = late.pull()
    return opened.last == ROUNDS and late.released().tolist() == [3 * ROUNDS] * 3


def empty(role: Callable[..., Any], history: History) -> Any:
    name = "dsp" if role is DataServiceProvider else "kts"
    return role(history.task, history.secrets[name], Workers()).state()


# With the other server's help.


def test_servers_of_one_moment_go_on(history):
    history.restore()
    history.push("bob")
    history.push("carol")
    history.pull()
    assert history.servers.version == ROUNDS + 1
    assert {s.pending for s in history.sessions.values()} == {0}
    assert len({s.released().tobytes() for s in history.sessions.values()}) == 1


def test_a_kts_that_lacks_a_deposit_gets_it_again(history):
    history.restore(kts=history.before_deposit.key_transform)
    history.push("bob")
    history.push("carol")
    history.pull()
    assert history.servers.version == ROUNDS + 1
    assert history.sessions["alice"].pending == 0


def test_an_empty_kts_gets_all_deposits_again_before_the_first_release(history):
    task, secrets = history.task, history.secrets
    history.servers = LocalServers(task, secrets)
    history.sessions = {name: history.session(name) for name in NAMES}
    history.push("alice")
    history.push("bob")
    history.newest = copied(history.servers.state())
    history.restore(kts=empty(KeyTransformServer, history))
    history.push("carol")
    assert history.servers.version == 1


def test_a_kts_that_lacks_a_release_but_no_deposit_takes_its_own_list_over(history):
    signed = history.after[ROUNDS].key_transform
    history.restore(dsp=history.after[ROUNDS].data_service, kts=history.ordered)
    again = history.servers._key_transform.state()
    assert again.newest_release == signed.newest_release
    assert again.ledger == signed.ledger
    assert opens_the_last_release(history)


def test_a_dsp_that_lacks_a_release_but_no_upload_records_it(history):
    history.restore(dsp=history.signed, kts=history.after[ROUNDS].key_transform)
    assert history.servers.version == ROUNDS
    assert opens_the_last_release(history)


@pytest.mark.parametrize(
    ("lacking", "said"),
    [(1, "1 release behind"), (4, "4 releases behind"), (5, "5 releases behind")],
)
@pytest.mark.parametrize("which", ["dsp", "kts"])
def test_a_server_that_lacks_releases_and_their_uploads_says_so_and_stops(
    history, which, lacking, said
):
    old = history.after[ROUNDS - lacking]
    states = {"dsp": old.data_service, "kts": old.key_transform}
    with pytest.raises(BehindError, match=f"restored from an older copy: {said}") as e:
        history.restore(**{which: states[which]})
    assert f"the {which} acknowledges nothing" in str(e.value)
    assert "roster sign --start" in str(e.value)


def test_a_dsp_that_lacks_an_accepted_upload_says_so_and_stops(history):
    with pytest.raises(BehindError, match="1 upload behind what the kts has logged"):
        history.restore(dsp=history.before_deposit.data_service)


def test_sessions_that_know_more_than_both_servers_are_not_resumed(make_federation):
    from hre_torch.optim.federation import Federation

    with make_federation("plain", participants=3, min_contributions=3) as federation:
        sessions = [federation.join() for _ in range(3)]
        old = federation.state()
        for session in sessions:
            session.push(np.ones(federation.task.config.n_values, dtype=np.int32))
        for session in sessions:
            session.pull()
        mixed = federation.state()
        mixed.servers = old.servers
        with pytest.raises(BehindError, match="knows 0 releases, and 1 were opened"):
            Federation.resume(mixed)


# A role beside others, message by message.


class Roles:
    """Both roles, and participants that seal what they are told to seal."""

    def __init__(self, suite: str = "plain") -> None:
        self.task, self.secrets = world(suite)
        self.dsp = DataServiceProvider(self.task, self.secrets["dsp"], Workers())
        self.kts = KeyTransformServer(self.task, self.secrets["kts"], Workers())
        self.people = {
            name: LearningParticipant(self.task, self.secrets[name], Workers())
            for name in NAMES
        }

    def seal(self, name: str) -> Envelope[Upload]:
        values = np.ones(3, dtype=np.int32)
        version = self.people[name].version
        digests = bytes([version]) * 32 if version else self.task.config.initial_digest
        return self.people[name].seal(values, version, digests)

    def accept(self, upload: Envelope[Upload]) -> None:
        self.dsp.confirm(self.kts.deposit(self.dsp.admit(upload)))

    def release(self) -> Any:
        release = self.kts.approve(self.dsp.propose())
        self.dsp.record(release)
        return release

    def opened(self, release: Any, *names: str) -> None:
        for name in names:
            self.people[name].rebase(release.header.version, release.header.chain)

    def deposit(self, upload: Envelope[Upload]) -> Any:
        """Forward an upload as a DSP does that checks nothing."""
        return self.dsp._deposit(upload)

    def order(self, version: int, *uploads: Envelope[Upload]) -> Any:
        header = ReleaseOrder(
            cfg=self.task.cfg,
            sender="dsp",
            version=version,
            uploads=tuple(upload.digest for upload in uploads),
        )
        return seal(header, self.secrets["dsp"].signing)

    def kts_from(self, state: Any) -> KeyTransformServer:
        secret = self.secrets["kts"]
        return KeyTransformServer(self.task, secret, Workers(), state=copied(state))

    def dsp_from(self, state: Any) -> DataServiceProvider:
        secret = self.secrets["dsp"]
        return DataServiceProvider(self.task, secret, Workers(), state=copied(state))


@pytest.fixture
def roles() -> Roles:
    return Roles()


def test_a_missing_upload_that_its_owner_sends_again_heals_the_dsp(roles):
    old = copied(roles.dsp.state())
    first, second = roles.seal("alice"), roles.seal("bob")
    roles.accept(first)
    roles.dsp = roles.dsp_from(old)
    roles.dsp.compare(roles.kts.records())
    with pytest.raises(BehindError):
        roles.dsp.admit(second)
    assert roles.dsp.propose() is None
    roles.accept(first)
    assert roles.dsp.behind == ""
    roles.accept(second)


def test_a_kts_that_lacks_a_deposit_logs_that_one_before_any_other(roles):
    old = copied(roles.kts.state())
    first, second = roles.seal("alice"), roles.seal("alice")
    roles.accept(first)
    roles.kts = roles.kts_from(old)
    roles.kts.compare(roles.dsp.records())
    assert (roles.kts.lag, "1 upload behind" in roles.kts.behind) == (1, True)
    with pytest.raises(BehindError):
        roles.kts.deposit(roles.dsp.admit(second))
    for deposit in roles.dsp.lacking(roles.kts.records()):
        roles.kts.deposit(deposit)
    assert roles.kts.behind == ""
    for deposit in roles.dsp.unconfirmed():
        roles.dsp.confirm(roles.kts.deposit(deposit))
    assert roles.kts._ledger.next_sequence("alice") == 2


def test_a_kts_exchanged_for_an_older_copy_is_noticed_by_the_next_deposit(roles):
    """No connection fails, so nobody compares everything."""
    old = copied(roles.kts.state())
    for name in NAMES[:3]:
        roles.accept(roles.seal(name))
    release = roles.release()
    roles.opened(release, *NAMES)
    roles.kts = roles.kts_from(old)
    deposit = roles.dsp.admit(roles.seal("dave"))
    for _ in range(2):
        with pytest.raises(BehindError, match="1 release behind what the dsp has sign"):
            roles.kts.deposit(deposit)
    # An older word that was long under way takes nothing back.
    late = msgspec.structs.replace(deposit.header, version=0, chain=GENESIS, parts=())
    with pytest.raises(BehindError):
        roles.kts.deposit(seal(late, roles.secrets["dsp"].signing, parts=deposit.parts))
    assert roles.kts._ledger.next_sequence("dave") == 0
    assert roles.dsp.unconfirmed()


def test_a_dsp_exchanged_for_an_older_copy_is_noticed_by_the_next_receipt(roles):
    old = copied(roles.dsp.state())
    for name in NAMES[:3]:
        roles.accept(roles.seal(name))
    roles.release()
    roles.dsp = roles.dsp_from(old)
    receipt = roles.kts.deposit(roles.dsp.admit(roles.seal("dave")))
    for _ in range(2):
        with pytest.raises(BehindError, match="1 release behind what the kts has sign"):
            roles.dsp.confirm(receipt)
    assert roles.dsp.propose() is None
    with pytest.raises(BehindError):
        roles.dsp.admit(roles.seal("alice"))


def test_a_server_with_another_history_is_noticed_by_the_next_deposit(roles):
    uploads = [roles.seal(name) for name in NAMES]
    for upload in uploads:
        roles.accept(upload)
    before = copied(roles.kts.state())
    roles.release()
    other = roles.kts_from(before)
    other.approve(roles.order(1, *uploads[:3]))
    roles.kts = other
    deposit = roles.dsp.admit(roles.seal("alice"))
    with pytest.raises(BehindError, match="release 1 here is not that in"):
        roles.kts.deposit(deposit)


def test_a_list_that_is_on_its_way_holds_up_no_acknowledgement(roles):
    for name in NAMES[:3]:
        roles.accept(roles.seal(name))
    release = roles.kts.approve(roles.dsp.propose())
    roles.accept(roles.seal("dave"))
    early = roles.dsp.admit(roles.seal("alice"))
    roles.dsp.record(release)
    roles.dsp.confirm(roles.kts.deposit(early))
    assert (roles.dsp.behind, roles.kts.behind) == ("", "")


def test_a_dsp_whose_receipts_were_lost_takes_over_the_list_that_names_the_uploads(
    roles,
):
    uploads = [roles.seal(name) for name in NAMES[:3]]
    for upload in uploads:
        roles.dsp.admit(upload)
    before = copied(roles.dsp.state())
    for upload in uploads:
        roles.accept(upload)
    release = roles.kts.approve(roles.dsp.propose())
    roles.dsp = roles.dsp_from(before)
    roles.dsp.compare(roles.kts.records(roles.dsp.records().header))
    assert (roles.dsp.version, roles.dsp.chain) == (1, release.header.chain)
    for upload in uploads:
        assert roles.dsp.acknowledge(upload.digest) is not None


def test_one_header_that_names_the_future_costs_only_its_own_upload(roles):
    liar = LearningParticipant(
        roles.task,
        roles.secrets["dave"],
        Workers(),
        ParticipantState(version=7, chain=bytes([7] * 32)),
    )
    for _ in range(3):
        lie = liar.seal(np.ones(3, dtype=np.int32), 7, bytes(32))
        with pytest.raises(StaleUploadError, match="an old copy"):
            roles.dsp.admit(lie)
        with pytest.raises(StaleUploadError, match="an old copy"):
            roles.kts.deposit(roles.deposit(lie))
    assert roles.dsp.behind == roles.kts.behind == ""
    for name in ("alice", "bob", "carol"):
        roles.accept(roles.seal(name))
    assert roles.release().header.version == 1


def test_an_upload_on_another_history_is_refused_whatever_its_version(roles):
    fork = ParticipantState(chain=bytes([1] * 32))
    dave = LearningParticipant(roles.task, roles.secrets["dave"], Workers(), fork)
    digest = roles.task.config.initial_digest
    upload = dave.seal(np.ones(3, dtype=np.int32), 0, digest)
    with pytest.raises(StaleUploadError, match="another release 0"):
        roles.dsp.admit(upload)
    with pytest.raises(StaleUploadError, match="another release 0"):
        roles.kts.deposit(roles.deposit(upload))


@pytest.mark.parametrize("which", ["dsp", "kts"])
def test_more_participants_than_may_lie_tell_a_server_alone_that_it_is_old(
    roles, which
):
    old_dsp, old_kts = copied(roles.dsp.state()), copied(roles.kts.state())
    uploads = [roles.seal(name) for name in ("alice", "bob", "carol")]
    for upload in uploads:
        roles.accept(upload)
    roles.opened(roles.release(), "alice", "bob")
    newer = [roles.seal("alice"), roles.seal("bob")]
    roles.dsp, roles.kts = roles.dsp_from(old_dsp), roles.kts_from(old_kts)
    server = getattr(roles, which)

    def send(upload):
        if which == "dsp":
            return roles.dsp.admit(upload)
        return roles.kts.deposit(roles.deposit(upload))

    with pytest.raises(StaleUploadError):
        send(newer[0])
    assert server.behind == ""
    with pytest.raises(BehindError, match="1 release behind what 2 participants"):
        send(newer[1])
    with pytest.raises(BehindError):
        send(uploads[0])
    assert server.lag == 1
    assert roles.dsp.propose() is None


def test_a_restored_kts_that_signed_twice_is_convicted_by_the_dsp(roles):
    """The DSP compares its list with the KTS's; both signatures are kept."""
    uploads = [roles.seal(name) for name in NAMES]
    for upload in uploads:
        roles.kts.deposit(roles.dsp.admit(upload))
    twin = roles.kts_from(roles.kts.state())
    for upload in uploads:
        roles.dsp.confirm(roles.kts.deposit(roles.deposit(upload)))
    roles.release()
    twin.approve(roles.order(1, *uploads[:3]))
    twin.compare(roles.dsp.records())
    assert "release 1 here is not that in what the dsp has signed" in twin.behind
    with pytest.raises(EquivocationError, match="two different releases"):
        roles.dsp.compare(twin.records(roles.dsp.records().header))
    (evidence,) = roles.dsp.evidence
    assert "'kts' has signed two different releases" in check_evidence(
        evidence, roles.task
    )


def test_records_of_anybody_else_change_nothing(roles):
    forged = seal(
        msgspec.structs.replace(roles.kts.records().header, version=9),
        roles.secrets["dave"].signing,
    )
    with pytest.raises(SignatureError):
        roles.dsp.compare(forged)
    assert roles.dsp.behind == ""


def test_a_head_says_where_a_ledger_stands(roles):
    for name in ("alice", "bob", "carol"):
        roles.accept(roles.seal(name))
    release = roles.release()
    roles.accept(roles.seal("alice"))
    for server, key in (
        (roles.dsp, roles.task.roster.data_service),
        (roles.kts, roles.task.roster.key_transform),
    ):
        head = decode(
            server.head().encode(),
            type(server.head().header),
            cfg=roles.task.cfg,
            max_bytes=0,
        )
        head.verify(key.signing_key)
        said = head.header
        assert (said.version, said.chain) == (1, release.header.chain)
        counts = [(each.next_sequence, each.waiting) for each in said.counts]
        assert counts == [(2, 1), (1, 0), (1, 0), (0, 0)]
        initial = roles.task.config.initial_digest
        assert (said.settled_version, said.settled_digest) == (0, initial)


# A DSP that cheats beside a KTS whose whole folder was restored.


class Cheat:
    """A DSP with every upload ever made, after a release that everybody has opened.

    Attributes:
        forgotten: digests in the list that the KTS has signed and forgotten.
        old: uploads from before that release.
        newer: honest uploads from after it.
    """

    def __init__(self) -> None:
        self.roles = roles = Roles()
        self.copies = [copied(roles.kts.state())]
        self.old = {name: roles.seal(name) for name in NAMES}
        self.old["dave again"] = roles.seal("dave")
        for upload in self.old.values():
            roles.kts.deposit(roles.deposit(upload))
            self.copies.append(copied(roles.kts.state()))
        listed = [self.old[name] for name in ("alice", "bob", "carol")]
        release = roles.kts.approve(roles.order(1, *listed))
        self.forgotten = {upload.digest for upload in listed}
        roles.opened(release, *NAMES)
        self.newer = {name: roles.seal(name) for name in ("alice", "bob", "carol")}

    def tries(self, kts: KeyTransformServer, *shown: Envelope[Upload]) -> list[Any]:
        """Show the KTS some uploads, order every list that there is; return lists."""
        for upload in shown:
            try:
                kts.deposit(self.roles.deposit(upload))
            except HREError:
                continue
        everything = [*self.old.values(), *self.newer.values()]
        signed = []
        for three in combinations(everything, 3):
            again = self.roles.kts_from(kts.state())
            again._horizon._claims = dict(kts._horizon._claims)
            try:
                signed.append(again.approve(self.roles.order(1, *three)).header)
            except (ReleaseError, BehindError):
                continue
        return signed

    def overlap(self, lists: list[Any]) -> bool:
        return any(
            0 < len(self.forgotten & {item.digest for item in each.uploads}) < 3
            for each in lists
        )


@cache
def cheat() -> Cheat:
    return Cheat()


def test_no_restored_kts_signs_anything_once_two_honest_headers_have_come():
    """Whatever else the DSP shows it, in whatever order, from whatever copy."""
    this = cheat()
    for copy, first, second in product(
        this.copies, this.newer.values(), this.newer.values()
    ):
        if first is second:
            continue
        for more in ((), tuple(this.old.values())):
            for place in (0, len(more)):
                kts = this.roles.kts_from(copy)
                shown = [*more[:place], first, second, *more[place:]]
                assert this.tries(kts, *shown) == []


def test_no_restored_kts_ever_lists_an_upload_that_knows_what_it_forgot():
    this = cheat()
    known = {upload.digest for upload in this.newer.values()}
    for copy in this.copies:
        for shown in permutations(this.newer.values(), 1):
            kts = this.roles.kts_from(copy)
            for each in this.tries(kts, *this.old.values(), *shown):
                assert not known & {item.digest for item in each.uploads}


def test_an_honest_head_is_enough_for_a_restored_kts_to_sign_nothing_else():
    this = cheat()
    roles = this.roles
    for copy in this.copies:
        kts = roles.kts_from(copy)
        header = msgspec.structs.replace(
            roles.dsp.records().header, version=1, chain=roles.kts.chain
        )
        kts.compare(seal(header, roles.secrets["dsp"].signing))
        assert "1 release behind what the dsp has signed" in kts.behind
        signed = []
        for three in combinations(this.old.values(), 3):
            with pytest.raises(BehindError):
                signed.append(kts.approve(roles.order(1, *three)))
        assert signed == []


def test_what_remains_is_a_dsp_that_hides_all_that_was_sealed_since():
    """Nothing that this KTS gets to see differs from what it saw the first time."""
    this = cheat()
    kts = this.roles.kts_from(this.copies[-1])
    assert this.overlap(this.tries(kts))


def test_a_refused_upload_is_kept_while_a_server_is_behind(history):
    """The session hears no refusal: it sends the same octets again."""
    servers = history.servers
    servers._data_service.compare(servers._key_transform.records())
    servers._data_service._horizon.compare(ROUNDS + 1, GENESIS)
    bob = history.sessions["bob"]
    with pytest.raises(AggregatorError, match="1 release behind"):
        history.push("bob")
    assert bob.pending == 1
    servers._data_service._horizon.compare(ROUNDS, servers._data_service.chain)
    bob.resend()
    history.push("carol")
    history.pull()
    assert bob.pending == 0
