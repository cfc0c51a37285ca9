"""The store: what was acknowledged is there again after a restart."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import suppress

import msgspec
import pytest

import hre_torch
from hre_torch.errors import (
    AggregatorError,
    SnapshotNeededError,
    StaleUploadError,
    StoreError,
)
from hre_torch.protocol.messages import (
    Ack,
    Statement,
    StatementReply,
    Upload,
    Verdict,
)
from hre_torch.protocol.wire import decode, seal
from hre_torch.servers.store import check_store
from hre_torch.servers.store.rows import FORMAT
from tests.servers.store.small_servers import (
    Pair,
    Server,
    join,
    make_world,
    update,
)


class Twins:
    """A pair that is never interrupted, and one that restarts after every message."""

    def __init__(self, steady, restarted):
        self.steady, self.restarted = steady, restarted

    def _restart(self):
        self.restarted.dsp.restart()
        self.restarted.kts.restart()

    def submit(self, upload):
        ack = self.restarted.submit(upload)
        assert ack == self.steady.submit(upload)
        self._restart()
        return ack

    def fetch(self, name, since):
        list(self.steady.fetch(name, since))
        for download in self.restarted.fetch(name, since):
            yield download
            self._restart()


@pytest.mark.parametrize("suite", ["plain", "paper", "phong", "gated", "hybrid"])
def test_servers_that_restart_after_every_message_equal_uninterrupted_ones(
    suite, run, new_pair
):
    world = make_world(suite)
    steady = Pair(*(Server(world, role, None) for role in ("dsp", "kts")))
    restarted = new_pair(world)
    sessions = join(world, Twins(steady, restarted))
    run(sessions, 2)
    sessions[0].push(update(sessions[0], 99))
    for name in ("dsp", "kts"):
        one, other = getattr(steady, name), getattr(restarted, name)
        assert other.server.state() == one.server.state()
    assert sessions[0].version == 2
    weights = [session.released().tobytes() for session in sessions]
    assert len(set(weights)) == 1


def test_large_bodies_are_files_and_come_back(run, files, world, new_pair, tmp_path):
    pair = new_pair(world)
    sessions = join(world, pair)
    run(sessions[:2], 2, pull=False)
    before = pair.dsp.server.state()
    assert len(list((tmp_path / "dsp" / "bodies").iterdir())) == 4
    pair.dsp.restart()
    assert pair.dsp.server.state() == before


def test_every_upload_is_on_the_disk_before_its_answer(world, new_pair, tmp_path):
    pair = new_pair(world)
    sessions = join(world, pair)
    for turn, session in enumerate(sessions[:2]):
        session.push(update(session, turn))
        for server in (pair.dsp, pair.kts):
            # As after kill -9: nothing was closed, the folder is all there is.
            copy = tmp_path / f"copy{turn}" / server.role
            shutil.copytree(server.folder, copy)
            revived = Server(world, server.role, copy)
            # That the KTS has it is asked again, and costs no commit of its own.
            for pending in revived.call("unconfirmed") if server is pair.dsp else []:
                revived.call("confirm", pair.kts.call("deposit", pending))
            assert revived.server.state() == server.server.state()
            assert revived.server.state().ledger.entries[turn].status == "accepted"
            revived.stop()


def test_a_withdrawn_upload_is_gone_but_its_number_stays_used(world, new_pair):
    pair = new_pair(world)
    session = join(world, pair)[0]
    pair.kts.call = None
    with suppress(TypeError):
        session.push(update(session, 0))
    (digest,) = pair.dsp.server.state().uploads
    pair.dsp.call("withdraw", digest, StaleUploadError())
    before = pair.dsp.server.state()
    pair.dsp.restart()
    assert pair.dsp.server.state() == before
    assert (before.uploads, before.ledger.newest["p0"]) == ({}, 0)


def test_disk_and_state_do_not_grow_from_the_50th_to_the_150th_release(
    run, new_pair, memory
):
    world = make_world(staleness_bound=5)
    pair = new_pair(world, memory)
    sessions = join(world, pair)
    sizes = {50: [], 150: []}
    for release in range(1, 151):
        run(sessions[:3], 1)
        sessions[3].pull()
        for session in sessions:
            session.attest()
        for server in (pair.dsp, pair.kts) if release in sizes else []:
            state = server.server.state()
            sizes[release].append((*on_the_disk(server), state))
            server.restart()
            assert server.server.state() == state
    assert pair.dsp.server.version == 150
    for early, late in zip(*sizes.values(), strict=True):
        assert late[0] == early[0]
        # Free pages are used again; numbers above 127 take an octet more in a message.
        assert late[1] <= early[1] + 2
        assert len(late[2].ledger.entries) == len(early[2].ledger.entries) == 3 * 5
        encoded = [msgspec.msgpack.encode(state) for *_, state in (early, late)]
        assert len(encoded[1]) - len(encoded[0]) < 200


def test_statements_and_verdicts_are_on_the_disk_when_they_are_answered(run, new_pair):
    world = make_world(assumed_colluders=1)
    pair = new_pair(world)
    sessions = join(world, pair)
    run(sessions[:3], 1, pull=False)
    chain = pair.kts.server._ledger.chain

    def declare(name):
        header = Statement(cfg=world.task.cfg, sender=name, version=1, chain=chain)
        return pair.declare(seal(header, world.secrets[name].signing).encode())

    def verdict_in(reply):
        reply = decode(reply, StatementReply, max_bytes=0)
        return decode(reply.header.verdict, Verdict, max_bytes=0)

    verdicts = []
    for name in ("p0", "p1", "p2", "p3", "p0"):
        verdicts.append(verdict_in(declare(name)))
        before = pair.kts.server.state()
        pair.kts.restart()
        assert pair.kts.server.state() == before
    assert [each.header.final for each in verdicts] == [False, False, True, True, True]
    assert len({each.encode() for each in verdicts[2:]}) == 1
    assert verdicts[2].header.rejected == ("p0", "p1", "p2")


def on_the_disk(server):
    """Return how many rows the tables of a store have, and pages its database."""
    rows = server.store._rows
    (pages,) = rows.connection.execute("PRAGMA page_count").fetchone()
    tables = ("uploads", "releases", "bodies", "participants", "evidence")
    tables += ("models", "statements", "verdicts")
    counts = [len(list(rows.every(table))) for table in tables]
    return counts, pages


def test_the_database_shrinks_once_a_silent_participant_has_caught_up(run, new_pair):
    world = make_world(n_values=20_000)
    pair = new_pair(world)
    *busy, silent = join(world, pair)
    database = pair.dsp.folder / "ledger.sqlite"
    run(busy, 12)
    pair.dsp.restart()
    full = database.stat().st_size
    assert full > 12 * 8 * 20_000
    silent.pull()
    run(busy, 1)
    pair.dsp.restart()
    assert database.stat().st_size < full / 2


def test_what_is_kept_for_who_never_fetches_is_bounded_on_disk_and_in_memory(
    run, tmp_path, cleanup
):
    world = make_world(n_values=2000, staleness_bound=3)
    pair = Pair(*(Server(world, r, tmp_path / r, keep=6) for r in ("dsp", "kts")))
    for server in (pair.dsp, pair.kts):
        cleanup.callback(server.stop)
    *busy, silent = join(world, pair)
    lines, octets = [], []
    for _ in range(3):
        run(busy, 10)
        octets.append(sum(f.stat().st_size for f in tmp_path.rglob("*.sqlite")))
        for server in (pair.dsp, pair.kts):
            state = server.server.state()
            newest = state.ledger.version
            assert sorted(state.releases) == list(range(newest - 5, newest + 1))
            lines.append(len(state.ledger.entries))
    assert max(lines) == min(lines)
    assert octets[2] - octets[1] < 3 * 4096
    with pytest.raises(SnapshotNeededError, match="snapshot"):
        silent.pull()
    pair.dsp.restart()
    assert sorted(pair.dsp.server.state().releases) == sorted(
        pair.kts.server.state().releases
    )


def test_a_line_that_is_forgotten_can_never_be_entered_a_second_time(run, new_pair):
    world = make_world(staleness_bound=2)
    pair = new_pair(world)
    sessions = join(world, pair)
    uploads: list[bytes] = []
    submit = pair.submit
    pair.submit = lambda data: (uploads.append(data), submit(data))[1]
    run(sessions, 8)
    first = decode(uploads[0], Upload, max_bytes=1 << 20)
    for _ in ("before a restart", "after it"):
        state = pair.kts.server.state().ledger
        assert first.digest not in {entry.digest for entry in state.entries}
        with pytest.raises(StaleUploadError):
            submit(uploads[0])
        deposit = pair.dsp.server._deposit(first)
        with pytest.raises(StaleUploadError):
            pair.kts.call("deposit", deposit.encode())
        pair.dsp.restart()
        pair.kts.restart()
    assert state.newest == dict.fromkeys(world.task.roster.names, 7)


def test_an_upload_whose_answer_was_lost_is_acknowledged_long_after_its_release(
    run, new_pair
):
    world = make_world(staleness_bound=2, pending_limit=2)
    pair = new_pair(world)
    *busy, silent = join(world, pair)
    submit, uploads = pair.submit, []

    def lose(data):
        uploads.append(data)
        submit(data)
        raise AggregatorError("the line is dead")

    pair.submit = lose
    with suppress(AggregatorError):
        silent.push(update(silent, 0))
    pair.submit = submit
    run(busy, 9)
    pair.dsp.restart()
    pair.kts.restart()
    before = pair.dsp.server.state()
    ack = decode(submit(uploads[0]), Ack, max_bytes=0)
    assert (ack.header.sequence, ack.header.version) == (0, pair.dsp.server.version)
    assert pair.dsp.server.state() == before
    silent.resend()
    silent.pull()
    assert silent.pending == 0
    assert (silent.released() == busy[0].released()).all()


def test_a_store_of_another_format_is_refused_and_both_are_named(world, tmp_path):
    Server(world, "dsp", tmp_path).stop()
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("UPDATE head SET format = 1, made_by = '0.2.0'")
    database.execute("ALTER TABLE uploads ADD COLUMN place")
    database.commit()
    database.close()
    said = rf"has format 1, made by version 0.2.0 .* reads format {FORMAT}"
    with pytest.raises(StoreError, match=said):
        Server(world, "dsp", tmp_path)
    (finding,) = check_store(tmp_path).findings
    assert "has format 1" in finding
    assert "damaged" not in finding


def test_a_store_from_before_versions_were_noted_is_refused(world, tmp_path):
    Server(world, "dsp", tmp_path).stop()
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("UPDATE head SET format = 3")
    database.execute("ALTER TABLE head DROP COLUMN made_by")
    database.commit()
    database.close()
    with pytest.raises(StoreError, match="has format 3, made by an earlier version"):
        Server(world, "dsp", tmp_path)


def test_a_store_says_which_version_made_it(world, tmp_path):
    Server(world, "dsp", tmp_path).stop()
    assert check_store(tmp_path).made_by == hre_torch.__version__


def test_a_fetch_alone_costs_no_commit_and_forgets_nothing_that_matters(
    run, world, new_pair
):
    pair = new_pair(world)
    sessions = join(world, pair)
    run(sessions, 1, pull=False)
    step = check_while_open(pair.dsp)
    for session in sessions:
        session.pull()
        session.pull()
    assert check_while_open(pair.dsp) == step
    pair.dsp.stop()
    assert check_store(pair.dsp.folder).step == step + 1
    pair.dsp.start()


def check_while_open(server):
    """Return the store's step while the server has it open."""
    return server.store._rows.one("head", 0)[4]
