"""Torn and flipped files: noticed, repaired or harmless, never a wrong result."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from hre_torch.errors import StoreError
from hre_torch.protocol.entries import chain_after
from hre_torch.protocol.messages import Release
from hre_torch.protocol.wire import decode, seal
from hre_torch.servers.store import check_store
from tests.servers.store.small_servers import (
    Server,
    join,
    make_world,
    update,
)


@pytest.fixture
def crashed(run, new_pair, tmp_path):
    """Return a function that leaves a world's servers as kill -9 would.

    The newest release's uploads are still kept, two more uploads are pending, one
    participant has fetched nothing (or everybody all, so that old lines are forgotten
    where S is small), and the log of the database is not folded in.
    """

    def crash(world, *, silent=True):
        pair = new_pair(world, tmp_path / "running")
        sessions = join(world, pair)
        run(sessions[:3], 3)
        pair.dsp.restart()
        run(sessions[:3], 2)
        if not silent:
            sessions[3].pull()
            run(sessions[:3], 1)
            sessions[3].pull()
        for turn, session in enumerate(sessions[2:]):
            session.push(update(session, 1000 + turn))
        image = tmp_path / "image"
        shutil.copytree(tmp_path / "running", image)
        assert (image / "dsp" / "ledger.sqlite-wal").stat().st_size > 0
        return image

    return crash


def state_of(world, role, folder):
    """Start a server in the folder, and return the state it has then."""
    server = Server(world, role, folder)
    try:
        return server.server.state()
    finally:
        server.stop()


def copied(image: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(image, to))


def damage(path: Path, generator: random.Random) -> str:
    """Truncate a file, flip bits in it, or blank a stretch of it; say what was done."""
    data = bytearray(path.read_bytes())
    kind = generator.choice(["truncate", "flip", "flip", "blank"])
    if kind == "truncate":
        del data[generator.randrange(len(data)) :]
    elif kind == "flip":
        for _ in range(generator.choice([1, 1, 4, 16])):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    else:
        start = generator.randrange(len(data))
        stop = min(len(data), start + generator.randrange(1, 5000))
        data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    return kind


def is_lost(expected, state) -> bool:
    """Return whether a state lacks just some pending uploads."""
    kept = {entry.digest for entry in state.ledger.entries}
    lost = [e for e in expected.ledger.entries if e.digest not in kept]
    return bool(lost) and all(entry.status == "pending" for entry in lost)


def torn(world, image, scratch, trials, seed):
    """Damage one random file at a time; return how often what came of it."""
    generator = random.Random(seed)
    expected = {
        role: state_of(world, role, copied(image / role, scratch))
        for role in ("dsp", "kts")
    }
    outcomes = Counter()
    for trial in range(trials):
        role = generator.choice(["dsp", "kts"])
        folder = copied(image / role, scratch)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        # Bodies are many and all alike.
        kinds = {path.suffix or path.parent.name: path for path in files}
        path = generator.choice(list(kinds.values()))
        kind = damage(path, generator)
        try:
            state = state_of(world, role, folder)
        except StoreError:
            outcomes["noticed"] += 1
        else:
            if not is_lost(expected[role], state):
                assert state == expected[role], (seed, trial, path.name, kind)
            outcomes["harmless or repaired"] += 1
    return outcomes


def test_torn_files_are_noticed_or_do_no_harm(crashed, tmp_path, files):
    world = make_world()
    outcomes = torn(world, crashed(world), tmp_path / "scratch", 100, seed="files")
    assert outcomes["noticed"] > 20
    assert outcomes["harmless or repaired"] > 5


def test_a_torn_database_that_has_forgotten_much_is_noticed_too(crashed, tmp_path):
    world = make_world(staleness_bound=2)
    image = crashed(world, silent=False)
    assert check_store(image / "kts").uploads["released"] < 6 * 3
    outcomes = torn(world, image, tmp_path / "scratch", 100, seed="inline")
    assert outcomes["noticed"] > 20
    assert outcomes["harmless or repaired"] > 5


@pytest.mark.slow
def test_thousands_of_torn_files_are_noticed_or_do_no_harm(crashed, tmp_path, files):
    world = make_world("gated", assumed_colluders=1)
    torn(world, crashed(world), tmp_path / "scratch", 5000, seed=1)


TEXTS = (b"p0", b"released", b"accepted", b"CREATE TABLE uploads", b"consumed")
"""Texts of rows and of the schema that a KTS has."""


def test_damaged_text_is_a_store_error_whatever_cannot_decode_it(crashed, tmp_path):
    world = make_world()
    image = crashed(world) / "kts"
    # The log is folded in, so that every text is in the one file.
    Server(world, "kts", image).stop()
    whole = (image / "ledger.sqlite").read_bytes()
    for text in TEXTS:
        start = whole.index(text)
        for place in range(start, start + len(text)):
            folder = copied(image, tmp_path / "scratch")
            damaged = bytearray(whole)
            damaged[place] |= 0x80
            (folder / "ledger.sqlite").write_bytes(damaged)
            assert "damaged" in " ".join(check_store(folder).findings), (text, place)
            with pytest.raises(StoreError, match="damaged"):
                state_of(world, "kts", folder)


def test_a_record_that_cannot_be_decoded_is_a_store_error(crashed, tmp_path):
    world = make_world()
    image = crashed(world) / "kts"
    for record in (b"", b"\xc1", b"\xa1\xff", b"\x91\xa1\xff"):

        def spoil(rows, world, record=record):
            rows.change("models", 0, record=record)

        folder = copied(image, tmp_path / "kts")
        rewrite(folder, world, spoil)
        assert "damaged" in " ".join(check_store(folder).findings)
        with pytest.raises(StoreError, match="damaged"):
            state_of(world, "kts", folder)


def bodies_of(folder: Path) -> list[Path]:
    return sorted((folder / "bodies").iterdir())


def test_a_damaged_sum_is_computed_again_from_its_uploads(crashed, tmp_path, files):
    world = make_world("hybrid", n_values=200)
    image = crashed(world) / "dsp"
    expected = state_of(world, "dsp", copied(image, tmp_path / "scratch"))
    outcomes = Counter()
    for number, body in enumerate(bodies_of(image)):
        folder = copied(image, tmp_path / f"scratch{number}")
        damaged = folder / "bodies" / body.name
        *kept, last = damaged.read_bytes()
        damaged.write_bytes(bytes([*kept, last ^ 1]))
        repairs = check_store(folder).repairs
        try:
            state = state_of(world, "dsp", folder)
        except StoreError as error:
            assert not repairs
            outcomes["an upload" if ": upload" in str(error) else "a sum"] += 1
        else:
            if is_lost(expected, state):
                (repair,) = repairs
                assert "its owner sends it again" in repair
                outcomes["a pending upload"] += 1
                continue
            assert state == expected
            outcomes["repaired" if repairs else "spare"] += 1
            if repairs:
                assert damaged.read_bytes() == body.read_bytes()
    # Five sums, of which the newest can be repaired; its three uploads are only needed
    # for that; of two uploads that wait, one is on the disk as pending still.
    assert outcomes == {
        **{"repaired": 1, "spare": 3, "a sum": 4},
        **{"an upload": 1, "a pending upload": 1},
    }


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_pending_upload_costs_only_itself(
    run, new_pair, tmp_path, files, logged, gone
):
    """Its owner was told nothing yet, and sends the same octets again."""
    world = make_world()
    pair = new_pair(world)
    sessions = join(world, pair)
    run(sessions[:3], 1)
    before = set((tmp_path / "dsp" / "bodies").iterdir())
    upload, data = sessions[3]._sender._seal(update(sessions[3], 1))
    deposit = pair.dsp.call("admit", data)
    if logged:
        pair.kts.call("deposit", deposit)
    pair.dsp.stop()
    (body,) = set((tmp_path / "dsp" / "bodies").iterdir()) - before
    body.unlink() if gone else body.write_bytes(b"damaged")
    report = check_store(tmp_path / "dsp")
    assert not report.findings
    (repair,) = report.repairs
    assert "upload 0 of 'p3' is damaged, and dropped at the start" in repair
    for _ in range(2):
        pair.dsp.start()
        assert pair.dsp.server.acknowledge(upload.digest) is None
        assert pair.dsp.server.standing("p3").next_sequence == 0
        pair.dsp.stop()
    assert not check_store(tmp_path / "dsp").repairs
    pair.dsp.start()
    # If the KTS has it, the DSP lacks it until it comes, and acknowledges nothing else.
    pair.compare()
    assert bool(pair.dsp.server.behind) is logged
    pair.submit(data)
    assert pair.dsp.server.behind == ""
    run(sessions[:3], 1)
    heard = pair.dsp.server.state().ledger.entries
    assert [entry.status for entry in heard if entry.digest == upload.digest] == [
        "released"
    ]


def test_a_damaged_accepted_upload_stops_the_start(run, new_pair, tmp_path, files):
    world = make_world()
    pair = new_pair(world)
    sessions = join(world, pair)
    before = set((tmp_path / "dsp" / "bodies").iterdir())
    sessions[0].push(update(sessions[0], 1))
    pair.dsp.stop()
    (body,) = set((tmp_path / "dsp" / "bodies").iterdir()) - before
    body.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="upload 0 of 'p0' is damaged or missing"):
        pair.dsp.start()


def test_files_that_a_killed_server_left_behind_are_removed(crashed, tmp_path, files):
    world = make_world()
    folder = crashed(world) / "dsp"
    known = bodies_of(folder)
    (folder / "bodies" / f"{known[0].name}.unfinished").write_bytes(b"half")
    (folder / "bodies" / ("0" * 64)).write_bytes(b"filed, but no row")
    state_of(world, "dsp", folder)
    assert bodies_of(folder) == known


def test_a_log_that_lost_its_end_is_noticed_though_sqlite_sees_nothing(crashed):
    world = make_world()
    folder = crashed(world) / "kts"
    log = folder / "ledger.sqlite-wal"
    log.write_bytes(log.read_bytes()[:-1])
    with pytest.raises(StoreError, match="its newest steps are lost"):
        state_of(world, "kts", folder)


def test_a_store_put_back_from_an_older_copy_is_noticed_by_its_witness(crashed):
    world = make_world()
    folder = crashed(world) / "kts"
    (folder / "ledger.sqlite").unlink()
    (folder / "ledger.sqlite-wal").unlink()
    with pytest.raises(StoreError, match="its newest steps are lost"):
        state_of(world, "kts", folder)


@pytest.mark.parametrize("role", ["dsp", "kts"])
@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["ledger.sqlite-wal"], "newest steps are lost"),
        (["witness"], None),
        (["ledger.sqlite-wal", "witness"], "its log .* and the witness are gone"),
    ],
)
def test_deleted_files_of_a_store_in_use_are_missed(crashed, role, gone, said):
    """A log that is lost with the witness left an old database, and a sound one."""
    world = make_world()
    folder = crashed(world) / role
    expected = state_of(world, role, copied(folder, folder.with_name("whole")))
    for name in gone:
        (folder / name).unlink()
    findings = check_store(folder).findings
    if said is None:
        assert not findings
        assert state_of(world, role, folder) == expected
        return
    assert any(re.search(said, finding) for finding in findings)
    # An empty log is none either, and a refused start must not make the next one work.
    for _ in range(2):
        with pytest.raises(StoreError, match=said) as refusal:
            Server(world, role, folder)
        assert "bring them back together" in str(refusal.value)
        assert "roster sign --start" in str(refusal.value)
        (folder / "ledger.sqlite-wal").touch()


def test_a_store_that_was_closed_needs_no_log_and_no_witness(run, new_pair, tmp_path):
    world = make_world()
    pair = new_pair(world)
    run(join(world, pair), 1)
    state = pair.kts.server.state()
    pair.kts.stop()
    assert not (tmp_path / "kts" / "ledger.sqlite-wal").exists()
    (tmp_path / "kts" / "witness").unlink()
    assert not check_store(tmp_path / "kts").findings
    assert state_of(world, "kts", tmp_path / "kts") == state


def test_a_witness_that_is_older_after_a_power_cut_does_no_harm(crashed, tmp_path):
    world = make_world()
    folder = crashed(world) / "dsp"
    expected = state_of(world, "dsp", copied(folder, tmp_path / "scratch"))
    (folder / "witness").unlink()
    assert state_of(world, "dsp", folder) == expected
    assert (folder / "witness").stat().st_size == 64


def forge_a_list(rows, world, version, **changes):
    """Change a list, under another signature than that of the KTS."""
    _, encoded, _ = rows.one("releases", version)
    header = decode(encoded, Release, max_bytes=0).header
    forged = msgspec.structs.replace(header, **changes)
    if "chain" in changes:
        chain = chain_after(
            forged.previous,
            version,
            forged.uploads,
            forged.expired,
            forged.commitment,
        )
        forged = msgspec.structs.replace(forged, chain=chain)
    encoded = seal(forged, world.secrets["dsp"].signing).encode()
    rows.change("releases", version, encoded=encoded)


def shorten_a_list(rows, world):
    """Drop the uploads from a list in the middle."""
    forge_a_list(rows, world, 2, uploads=())


def rewrite_the_newest_list(rows, world):
    """Change the newest list, and the chain so that it fits."""
    forge_a_list(rows, world, 5, commitment=b"another", chain=b"")


def exchange_a_list(rows, world):
    """Put one signed list in the place of another."""
    _, encoded, _ = rows.one("releases", 1)
    rows.change("releases", 2, encoded=encoded)


def cut_a_list(rows, world):
    """Cut the end of a list off."""
    _, encoded, _ = rows.one("releases", 3)
    rows.change("releases", 3, encoded=encoded[:-1])


def lose_a_list(rows, world):
    """Remove a list, but not its lines."""
    rows.delete("releases", 2)


def rename_a_line(rows, world):
    """Say of a released upload that somebody else sent it."""
    rows.change("uploads", 0, name="p2")


UNSIGNED = "is not signed by the KTS"
FORGERIES = [
    (shorten_a_list, UNSIGNED, "the hash chain does not recompute at release 2"),
    (rewrite_the_newest_list, UNSIGNED, None),
    *(
        (forge, seen, seen)
        for forge, seen in (
            (exchange_a_list, "the list of release 2 is that of another release"),
            (cut_a_list, "the list of release 3 cannot be read"),
            (lose_a_list, "lines of release 2 are not those of its list"),
            (rename_a_line, "lines of release 1 are not those of its list"),
        )
    ),
]
"""An attacker's change, and what a start and a check without the roster see of it."""


def test_rewritten_rows_are_found_out_by_signatures_and_hash_chain(crashed, tmp_path):
    world = make_world()
    image = crashed(world) / "dsp"
    for forge, at_start, at_check in FORGERIES:
        folder = copied(image, tmp_path / "dsp")
        rewrite(folder, world, forge)
        findings = " ".join(check_store(folder).findings)
        assert at_check in findings if at_check else not findings
        with pytest.raises(StoreError, match=at_start):
            state_of(world, "dsp", folder)


def rewrite(folder, world, forge):
    """Change rows; the tally fits again, which is no art."""
    server = Server(world, folder.name, folder)
    rows = server.store._rows
    rows.begin()
    forge(rows, world)
    server.store._witness.write(rows.advance(), rows.tally)
    rows.commit()
    server.stop()


def test_the_check_begins_with_the_oldest_list_that_is_kept(run, new_pair):
    world = make_world(staleness_bound=2)
    pair = new_pair(world)
    run(join(world, pair), 6)
    kept = [version for version, *_ in pair.kts.store._rows.every("releases")]
    assert kept == [6, 7, 8]
    pair.kts.stop()
    assert check_store(pair.kts.folder).findings == []

    def forget_what_was_before(rows, world):
        forge_a_list(rows, world, 6, previous=bytes(32))

    rewrite(pair.kts.folder, world, forget_what_was_before)
    (finding,) = check_store(pair.kts.folder).findings
    assert finding == "the hash chain does not recompute at release 6"


def test_a_check_sees_what_a_start_would_see_and_touches_nothing(crashed, files):
    world = make_world()
    image = crashed(world)

    def everything():
        return {path: path.read_bytes() for path in image.rglob("*") if path.is_file()}

    before = everything()
    report = check_store(image / "dsp")
    assert everything() == before
    assert (report.role, report.task) == ("dsp", world.task.cfg.hex())
    assert (report.version, report.kept) == (5, [1, 2, 3, 4, 5])
    # The newest receipt was not worth a commit of its own.
    assert report.uploads == {"released": 15, "accepted": 1, "pending": 1}
    assert (report.findings, report.repairs) == ([], [])
    assert check_store(image / "kts").findings == []


def test_a_check_of_a_folder_without_a_store_says_which_folder_to_name(tmp_path):
    with pytest.raises(StoreError, match="name the folder"):
        check_store(tmp_path)
