"""Steps that fail: a refusal is kept, and a failing disk lets no answer leave."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hre_torch.errors import EquivocationError, StoreError
from hre_torch.protocol.entries import Entry
from hre_torch.servers.journal import StoredState
from hre_torch.servers.store import Store, blobs, disk
from hre_torch.servers.store.rows import Rows
from tests.servers.store.small_servers import join, make_world, update

ENTRY = Entry("p0", 0, 0, bytes(32), bytes(31) + b"\1")
STORED = StoredState(b"header", b"", b"signature", (bytes(5000),))


@pytest.fixture
def store(world, tmp_path):
    made = Store.open(tmp_path / "dsp", world.task, "dsp")
    assert made.load() is None
    yield made
    made.close()


def connection_of(server):
    return server.store._rows.connection


def fill_the_disk(server, monkeypatch):
    connection = connection_of(server)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


def make_the_disk_read_only(server, monkeypatch):
    connection_of(server).execute("PRAGMA query_only = ON")


def fill_the_disk_of_the_bodies(server, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(blobs, "FILE_BYTES", 100)
    monkeypatch.setattr(disk.os, "write", full)


def break_the_disk(server, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            return getattr(connection, name)

        def execute(self, sql, *values):
            if sql == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return connection.execute(sql, *values)

    connection = connection_of(server)
    server.store._rows.connection = Broken()


FAILURES = [
    (fill_the_disk, "disk is full"),
    (make_the_disk_read_only, "read-only"),
    (fill_the_disk_of_the_bodies, "disk is full"),
    (break_the_disk, "disk I/O error"),
]


@pytest.mark.parametrize(("failure", "complaint"), FAILURES)
def test_nothing_is_acknowledged_while_the_disk_fails_and_nothing_lost_after(
    failure, complaint, new_pair, monkeypatch
):
    world = make_world(n_values=20_000)
    pair = new_pair(world)
    sessions = join(world, pair)
    sessions[0].push(update(sessions[0], 0))
    before = pair.dsp.server.state()
    with monkeypatch.context() as patch:
        failure(pair.dsp, patch)
        with pytest.raises(StoreError, match=complaint):
            sessions[1].push(update(sessions[1], 1))
        with pytest.raises(StoreError, match="make a new role"):
            sessions[1].resend()
    pair.dsp.restart()
    pair.reconcile()
    assert pair.dsp.server.state() == before
    sessions[1].resend()
    sessions[2].push(update(sessions[2], 2))
    assert [opened.count for opened in sessions[3].pull()] == [3]


def test_a_store_that_failed_goes_on_after_load_in_the_same_process(
    world, new_pair, monkeypatch
):
    pair = new_pair(world)
    session = join(world, pair)[0]
    make_the_disk_read_only(pair.dsp, monkeypatch)
    with suppress(StoreError):
        session.push(update(session, 0))
    stale = pair.dsp.server
    state = pair.dsp.store.load()
    assert state is None
    with (
        pytest.raises(StoreError, match="after its store had failed"),
        pair.dsp.store.transaction(),
    ):
        stale._journal.accepted(bytes(32))
    pair.dsp.restart()
    session.resend()
    assert session.pending == 1


LIMITED = """
import resource, signal, sys
from pathlib import Path
from hre_torch.servers.store.rows import Rows
from hre_torch.servers.store.disk import disk_errors
from hre_torch.errors import StoreError
folder = Path(sys.argv[1])
rows = Rows(folder / "ledger.sqlite")
rows.create(bytes(32), "dsp")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with disk_errors(folder):
        rows.begin()
        rows.insert("evidence", 0, bytes(1_000_000))
        rows.commit()
except StoreError as error:
    print(error)
"""


def test_the_operating_systems_own_refusal_to_write_is_a_typed_error(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True
    )
    assert run.stdout.startswith(f"the store in {tmp_path} failed"), run.stderr


def test_a_refusal_keeps_its_evidence_and_the_store_goes_on(world, new_pair):
    pair = new_pair(world)
    one, again = join(world, pair)[0], join(world, pair)[0]
    one.push(update(one, 0))
    with pytest.raises(EquivocationError):
        again.push(update(again, 1))
    pair.dsp.restart()
    assert [each.accused for each in pair.dsp.server.evidence] == ["p0"]
    other = join(world, pair)[1]
    other.push(update(other, 2))


def test_after_an_error_that_is_no_refusal_nothing_of_the_step_is_kept(store):
    with suppress(ZeroDivisionError), store.transaction():
        store.journal.entered(ENTRY, STORED)
        raise ZeroDivisionError
    with pytest.raises(StoreError, match="has failed"), store.transaction():
        pass
    assert store.load() is None


def test_only_its_owner_can_read_a_store(store):
    with store.transaction():
        store.journal.entered(ENTRY, STORED)
    files = [path for path in store._folder.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o077 for path in (store._folder, *files)} == {0}


def test_a_step_outside_of_a_transaction_is_refused(store):
    with pytest.raises(StoreError, match="outside"):
        store.journal.entered(ENTRY, STORED)


def test_a_transaction_before_load_is_refused(world, tmp_path):
    store = Store.open(tmp_path, world.task, "kts")
    with pytest.raises(StoreError, match="was not loaded"), store.transaction():
        pass
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"), store.transaction():
        pass


def test_a_transaction_inside_another_belongs_to_it(store):
    with suppress(ZeroDivisionError), store.transaction():
        with store.transaction():
            store.journal.witnessed(b"evidence")
        raise ZeroDivisionError
    assert store.load() is None
    with store.transaction(), store.transaction():
        store.journal.witnessed(b"evidence")
    assert store.load().evidence == (b"evidence",)


def test_a_store_of_another_task_or_role_is_refused(world, tmp_path):
    Store.open(tmp_path, world.task, "dsp").close()
    for task, role in ((make_world().task, "dsp"), (world.task, "kts")):
        store = Store.open(tmp_path, task, role)
        with pytest.raises(StoreError, match="its own folder"):
            store.load()
        store.close()


def test_a_store_that_is_in_use_is_refused_here_and_in_other_processes(store, world):
    with pytest.raises(StoreError, match="in use"):
        Store.open(store._folder, world.task, "dsp")
    child = os.fork()
    if child == 0:
        from hre_torch.servers.store import witness

        witness._OPEN_HERE.clear()
        try:
            Store.open(store._folder, world.task, "dsp")
        except StoreError:
            os._exit(7)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_sqlite_is_believed_only_what_it_answers():
    # A database in memory has no write-ahead log, and says so when asked for one.
    with pytest.raises(StoreError, match="journal_mode = 'memory'"):
        Rows(Path(":memory:"))


def test_a_folder_that_cannot_be_made_is_a_typed_error(world, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="run `hre-torch db check`"):
        Store.open(tmp_path / "file" / "dsp", world.task, "dsp")
