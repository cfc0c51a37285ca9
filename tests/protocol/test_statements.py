"""A release that does not open is given up by everybody, or by nobody."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.attacks.algebra import blocks_of, lanes_of
from benchmarks.attacks.forgery import Draft
from hre_torch.errors import (
    AggregatorError,
    DisputedReleaseError,
    MessageError,
    ReleaseError,
    SignatureError,
    SpoiledReleaseWarning,
    TaskError,
    TransformError,
)
from hre_torch.optim.federation import Federation, FederationState
from hre_torch.participant.session import Session
from hre_torch.protocol.messages import Statement, StatementReply
from hre_torch.protocol.wire import decode, seal
from hre_torch.protocol.workers import Workers
from hre_torch.servers.key_transform import KeyTransformServer

NAMES = ("alice", "bob", "carol", "dave", "eve")
"""With c = 1 a verdict takes three."""

waits = pytest.warns(SpoiledReleaseWarning, match="does not open for")
gives_up = pytest.warns(SpoiledReleaseWarning, match="was spoiled and is given up")


def same(session: Session, value: int) -> np.ndarray:
    return np.full(session.task.config.n_values, value, dtype=np.int32)


def join_all(federation: Federation) -> dict[str, Session]:
    return {name: federation.join(name) for name in NAMES}


@pytest.fixture
def federate(make_federation):
    def make(suite: str, **options) -> Federation:
        options = {"min_contributions": 3, "combine": "sum"} | options
        return make_federation(suite, participants=NAMES, **options)

    return make


@pytest.fixture(params=["gated", "hybrid"])
def federation(request, federate) -> Federation:
    return federate(request.param)


def release(federation: Federation, sessions: dict[str, Session], *names: str) -> None:
    before = federation.servers.version
    for name in names:
        sessions[name].push(same(sessions[name], 1))
    assert federation.servers.version == before + 1


def release_spoiled(federation: Federation, sessions: dict[str, Session]) -> None:
    """Release updates of alice and bob, and one of eve that counts as two."""
    for name in ("alice", "bob"):
        sessions[name].push(same(sessions[name], 5))
    smuggle(federation)
    assert federation.servers.version == 1


def smuggle(federation: Federation, number: int = 0) -> None:
    """Have eve upload something that counts as two updates."""
    draft = Draft.of_zeros(federation.task, count=2)
    forged = draft.seal(federation._secrets["eve"], number)
    federation.servers.submit("eve", forged.encode())


def serve_wrongly(federation: Federation, victim: str) -> dict[str, int]:
    """Have the DSP multiply a lane of what one recipient is served by 1 + n.

    The returned number is how often it still will.
    """
    cipher, lanes = federation.servers._data_service._cipher, lanes_of(federation.task)
    begin, finish = cipher.begin, cipher.finish
    left = {"left": 10**6}

    def remember(total, recipient):
        parts, kept = begin(total, recipient)
        return parts, (recipient, kept)

    def shift(kept, reply):
        recipient, own = kept
        parts = finish(own, reply)
        if recipient != victim or not left["left"]:
            return parts
        left["left"] -= 1
        heads, blocks = blocks_of(parts, lanes)
        n = lanes.parameters.n
        blocks[0] = (blocks[0][0] * (1 + n) % n**2, *blocks[0][1:])
        return (*lanes.layout.encode(heads, blocks), *parts[2:])

    cipher.begin, cipher.finish = remember, shift
    return left


def kts_of(federation: Federation) -> KeyTransformServer:
    return federation.servers._key_transform


def test_what_an_uploader_has_spoiled_is_given_up_once_c_plus_2_say_so(federation):
    sessions = join_all(federation)
    start = sessions["alice"].released()
    release_spoiled(federation, sessions)
    for name in ("alice", "bob"):
        with waits:
            assert sessions[name].pull() == []
        # It says so once.
        assert sessions[name].pull() == []
        assert (sessions[name].disputed, sessions[name].version) == (1, 0)
        assert sessions[name].pending == 1
    for name in ("carol", "alice", "bob", "dave"):
        with gives_up:
            [given_up] = sessions[name].pull()
        assert given_up.values is None
        assert (sessions[name].version, sessions[name].disputed) == (1, None)
        assert sessions[name].statistics.suspects == ("alice", "bob", "eve")
    for name in ("alice", "bob", "carol"):
        sessions[name].push(same(sessions[name], 1))
    for name in NAMES[:-1]:
        sessions[name].pull()
        assert (sessions[name].weights() == start + 3).all()
        assert sessions[name].statistics.rejected == 1
    assert len({sessions[name].model_digest for name in NAMES[:-1]}) == 1


def test_the_suspects_are_those_in_every_spoiled_list(federate):
    sessions = join_all(federation := federate("gated"))
    release_spoiled(federation, sessions)
    for name in ("alice", "bob", "carol", "alice", "bob"):
        with pytest.warns(SpoiledReleaseWarning):
            sessions[name].pull()
    for name in ("bob", "carol"):
        sessions[name].push(same(sessions[name], 1))
    smuggle(federation, number=1)
    heard = []
    sessions["bob"].on_rejection.append(heard.append)
    for name in ("alice", "bob", "carol", "bob"):
        with pytest.warns(SpoiledReleaseWarning):
            sessions[name].pull()
    assert sessions["alice"].statistics.suspects == ("alice", "bob", "eve")
    assert sessions["bob"].statistics.suspects == ("bob", "eve")
    assert sessions["bob"].statistics.rejected == 2
    assert [{item.name for item in each.uploads} for each in heard] == [
        {"bob", "carol", "eve"}
    ]


def test_who_alone_is_served_wrongly_waits_and_then_hears_that_others_opened(
    federation,
):
    sessions = join_all(federation)
    left = serve_wrongly(federation, "alice")
    release(federation, sessions, "alice", "bob", "carol")
    with waits:
        assert sessions["alice"].pull() == []
    # Pushes go on, upon the version before.
    sessions["alice"].push(same(sessions["alice"], 1))
    assert sessions["alice"].pull() == []
    for name in ("bob", "carol"):
        sessions[name].pull()
        sessions[name].push(same(sessions[name], 1))
    assert federation.servers.version == 2
    with pytest.raises(
        DisputedReleaseError, match=r"1 reject it \(alice\) and 2 have opened it \(bob"
    ):
        sessions["alice"].pull()
    assert sessions["alice"].version == 0
    left["left"] = 0
    sessions["alice"].pull()
    sessions["bob"].pull()
    assert sessions["alice"].model_digest == sessions["bob"].model_digest
    assert sessions["alice"].statistics.rejected == 0


def test_one_key_transform_that_went_wrong_is_asked_for_again_and_nothing_is_said(
    federation,
):
    sessions = join_all(federation)
    serve_wrongly(federation, "alice")["left"] = 1
    release(federation, sessions, "alice", "bob", "carol")
    links = []
    federation.servers.taps.append(lambda link, data: links.append(link))
    sessions["alice"].pull()
    assert sessions["alice"].version == 1
    assert links.count("dsp->alice") == 2
    assert "alice->dsp" not in links


def test_that_it_opened_after_all_is_said_as_well(federate):
    sessions = join_all(federation := federate("gated"))
    left = serve_wrongly(federation, "alice")
    release(federation, sessions, "alice", "bob", "carol")
    with waits:
        sessions["alice"].pull()
    left["left"] = 0
    sessions["alice"].pull()
    standing = sessions["alice"].attest()
    assert (standing.rejected, standing.opened) == ((), ("alice",))


def test_plain_and_hybrid_end_with_equal_weights_when_everybody_gives_a_release_up(
    federate,
):
    ends = {}
    for suite in ("plain", "hybrid"):
        sessions = join_all(federation := federate(suite))
        if suite == "hybrid":
            release_spoiled(federation, sessions)
        else:
            cipher = federation.servers._data_service._cipher
            add = cipher.add
            cipher.add = lambda totals, add=add: add([*totals, totals[0]])
            for name, value in (("alice", 5), ("bob", 5), ("eve", 0)):
                sessions[name].push(same(sessions[name], value))
            cipher.add = add
        for _ in range(2):
            for name in NAMES:
                if sessions[name].version == 0:
                    with pytest.warns(SpoiledReleaseWarning):
                        sessions[name].pull()
        for number, name in enumerate(NAMES[:3]):
            sessions[name].push(same(sessions[name], number))
        for name in NAMES:
            sessions[name].pull()
        ends[suite] = [sessions[name].weights() for name in NAMES]
    assert all((x == y).all() for x, y in zip(*ends.values(), strict=True))


def test_everybody_goes_on_though_all_were_started_again_in_the_middle_of_it(
    federation,
):
    sessions = join_all(federation)
    release_spoiled(federation, sessions)
    for name in ("alice", "bob"):
        with waits:
            sessions[name].pull()
    for last in (False, True):
        saved = msgspec.msgpack.encode(federation.state())
        federation.close()
        federation = Federation.resume(
            msgspec.msgpack.decode(saved, type=FederationState)
        )
        sessions = join_all(federation)
        for name in ("alice", "bob") if last else ("carol",):
            with gives_up:
                sessions[name].pull()
    digests = {sessions[name].model_digest for name in ("alice", "bob", "carol")}
    assert len(digests) == 1
    federation.close()


class Stand:
    """A KTS at version 1, and statements about its release."""

    def __init__(self, federation: Federation) -> None:
        self.task, self.secrets = federation.task, federation._secrets
        self.sessions = join_all(federation)
        release(federation, self.sessions, "alice", "bob", "carol")
        self.kts = kts_of(federation)
        self.chain = self.kts._ledger.chain

    def statement(self, name: str, digest: bytes = b"", **changes):
        header = Statement(
            **{
                "cfg": self.task.cfg,
                "sender": name,
                "version": 1,
                "chain": self.chain,
                "state_digest": digest,
            }
            | changes
        )
        return seal(header, self.secrets[name].signing)

    def restart(self) -> None:
        state = self.kts.state()
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=type(state))
        self.kts = KeyTransformServer(
            self.task, self.secrets["kts"], Workers(), state=again
        )
        assert self.kts.state() == state


@pytest.fixture
def stand(federate) -> Stand:
    return Stand(federate("plain"))


DIGEST = bytes(31) + b"\1"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 2}, ReleaseError),
        ({"version": 0}, ReleaseError),
        ({"chain": bytes(32)}, ReleaseError),
        ({"state_digest": b"short"}, MessageError),
        ({"sender": "mallory"}, TaskError),
        ({"sender": "bob"}, SignatureError),
    ],
)
def test_a_statement_that_is_about_no_release_or_of_somebody_else_is_refused(
    stand, changes, error
):
    before = stand.kts.state()
    with pytest.raises(error):
        stand.kts.declare(stand.statement("alice", **changes))
    assert stand.kts.state() == before


def test_a_verdict_counts_only_if_it_is_the_kts_s_and_names_enough(federate):
    sessions = join_all(federation := federate("gated"))
    release_spoiled(federation, sessions)
    with waits:
        sessions["alice"].pull()
    participant = sessions["alice"]._participant
    standing = sessions["alice"]._receiver._disputes.state()
    assert not standing.final
    enough = msgspec.structs.replace(
        standing, final=True, rejected=("alice", "bob", "carol")
    )
    for changes in (
        {"final": False},
        {"version": 2},
        {"chain": bytes(32)},
        {"rejected": ("alice", "alice", "bob")},
        {"rejected": ("alice", "bob", "nobody")},
        {"opened": ("dave", "eve")},
    ):
        with pytest.raises(TransformError, match="given up once 3 reject it"):
            participant.reject(msgspec.structs.replace(enough, **changes))
        assert participant.version == 0
    key = federation._secrets["dsp"].signing

    def invent(data):
        header = StatementReply(
            cfg=federation.task.cfg,
            sender="dsp",
            statement=decode(data, Statement, max_bytes=0).digest,
            verdict=seal(enough, key).encode(),
        )
        return seal(header, key)

    federation.servers._pass_on = invent
    with pytest.raises(AggregatorError, match="state it again"):
        sessions["alice"].pull()
    assert participant.reject(enough).values is None


said = st.lists(
    st.tuples(st.sampled_from(NAMES), st.booleans(), st.booleans()), max_size=12
)
"""Who states something, whether it opened, whether the KTS was started again before."""


def test_a_verdict_takes_c_plus_2_against_at_most_c_and_stands_for_ever(stand):
    @settings(max_examples=60)
    @given(said)
    def law(statements):
        stand.kts._statements.forget(())
        rejected, opened, final = set(), set(), None
        for name, opens, restarted in statements:
            if restarted:
                stand.restart()
            (opened if opens else rejected).add(name)
            verdict = stand.kts.declare(stand.statement(name, DIGEST if opens else b""))
            header = verdict.header
            if final is None:
                assert header.final == (len(rejected - opened) >= 3 and len(opened) < 2)
                assert set(header.rejected) == rejected - opened
                assert set(header.opened) == opened
                final = verdict.encode() if header.final else None
            else:
                assert verdict.encode() == final

    law()


def test_who_uploads_upon_a_release_has_opened_it(stand):
    for name in ("dave", "eve"):
        stand.sessions[name].pull()
        stand.sessions[name].push(same(stand.sessions[name], 1))
    verdict = stand.kts.declare(stand.statement("alice")).header
    assert (verdict.rejected, verdict.opened) == (("alice",), ("dave", "eve"))


def test_statements_settle_the_last_version_and_one_liar_settles_nothing(stand):
    assert stand.kts.settled()[0] == 0
    stand.kts.declare(stand.statement("eve", DIGEST))
    for name in ("alice", "bob"):
        assert stand.kts.settled()[0] == 0
        stand.sessions[name].pull()
        stand.sessions[name].attest()
    assert stand.kts.settled() == (1, stand.sessions["bob"].model_digest)
    stand.restart()
    assert stand.kts.settled() == (1, stand.sessions["bob"].model_digest)


def test_what_was_said_of_a_release_goes_when_nobody_can_ask_about_it(federate):
    stand = Stand(federation := federate("plain"))
    for _ in range(3):
        for session in stand.sessions.values():
            session.pull()
            session.attest()
        release(federation, stand.sessions, "alice", "bob", "carol")
    versions = {
        decode(data, Statement, max_bytes=0).header.version
        for data in stand.kts.state().statements
    }
    assert versions <= {2, 3}
