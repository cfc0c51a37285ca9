"""Torn and flipped files: noticed, repaired or harmless, never a wrong result."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from hre_torch.aggregators.store import check_store
from hre_torch.errors import StoreError
from tests.aggregators.store.small_servers import (
    Server,
    join,
    make_world,
    update,
)


@pytest.fixture
def crashed(run, new_pair, tmp_path):
    """Return a function that leaves a world's servers as kill -9 would.

    The newest release's uploads are still kept, two more uploads are pending, one
    participant has fetched nothing, and the log of the database is not folded in.
    """

    def crash(world):
        pair = new_pair(world, tmp_path / "running")
        sessions = join(world, pair)
        run(sessions[:3], 3)
        pair.dsp.restart()
        run(sessions[:3], 2)
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
            assert state == expected[role], (seed, trial, path.name, kind)
            outcomes["harmless or repaired"] += 1
    return outcomes


@pytest.mark.parametrize("bodies", ["inline", "files"])
def test_torn_files_are_noticed_or_do_no_harm(bodies, crashed, tmp_path, request):
    if bodies == "files":
        request.getfixturevalue("files")
    world = make_world()
    outcomes = torn(world, crashed(world), tmp_path / "scratch", 100, seed=bodies)
    assert outcomes["noticed"] > 20
    assert outcomes["harmless or repaired"] > 5


@pytest.mark.slow
def test_thousands_of_torn_files_are_noticed_or_do_no_harm(crashed, tmp_path, files):
    world = make_world("gated", assumed_colluders=1)
    torn(world, crashed(world), tmp_path / "scratch", 5000, seed=1)


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
            assert state == expected
            outcomes["repaired" if repairs else "spare"] += 1
            if repairs:
                assert damaged.read_bytes() == body.read_bytes()
    # Five sums, of which the newest can be repaired; its three uploads are only needed
    # for that; two uploads are pending.
    assert outcomes == {"repaired": 1, "spare": 3, "a sum": 4, "an upload": 2}


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


def test_a_witness_that_is_older_after_a_power_cut_does_no_harm(crashed, tmp_path):
    world = make_world()
    folder = crashed(world) / "dsp"
    expected = state_of(world, "dsp", copied(folder, tmp_path / "scratch"))
    (folder / "witness").unlink()
    assert state_of(world, "dsp", folder) == expected
    assert (folder / "witness").stat().st_size == 64


def test_a_rewritten_row_is_found_out_by_the_hash_chain(crashed):
    world = make_world()
    folder = crashed(world) / "dsp"
    server = Server(world, "dsp", folder)
    rows = server.store._rows
    rows.begin()
    # An attacker's change, with a tally that fits: the order of a list.
    rows.change("uploads", 0, place=1)
    rows.change("uploads", 1, place=0)
    rows.advance()
    rows.commit()
    server.stop()
    assert check_store(folder).findings == [
        "the hash chain does not recompute at release 1"
    ]
    with pytest.raises(StoreError, match="hash chain does not recompute at release 1"):
        state_of(world, "dsp", folder)


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
