"""`connect`: the same session against real servers, from the first day or later."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hre_torch.errors import (
    KeyFileError,
    LayoutError,
    RunDirectoryError,
    TaskError,
    WrongTaskError,
)
from hre_torch.participant.connection import (
    connect,
    read_weights,
    write_weights,
)

SUITES = ["plain", "hybrid"]
WEIGHTED = {"combine": "weighted", "max_samples": 100}
NAMES = ("p0", "p1", "p2", "p3")


def same(fill: int) -> np.ndarray:
    return np.full(62, fill, dtype=np.int32)


def fit(session, fill: int) -> np.ndarray:
    """Return an update, with a weight of 40 where the task wants one."""
    weights = [40] * (session.task.config.n_sealed - 62)
    return np.append(same(fill), np.array(weights, dtype=np.int32))


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def one_round(sessions, fill=1):
    for session in sessions:
        session.push(fit(session, fill))
    return [session.pull() for session in sessions]


@pytest.mark.parametrize("suite", SUITES)
def test_sessions_start_from_files_and_open_what_all_pushed(make_hosted_site, suite):
    site = make_hosted_site(suite)
    sessions = [site.connect(name, initial=site.initial) for name in site.names[:3]]
    for (release,) in one_round(sessions, fill=5):
        assert (release.values == 15).all()


def test_the_session_sends_and_fetches_in_the_background_by_default(make_hosted_site):
    site = make_hosted_site("plain")
    session = site.connect("p0", initial=site.initial, background=True)
    assert session.background
    session.push(same(1))
    session.catch_up()
    assert session.statistics.pushes == 1


def test_a_wrong_passphrase_is_said_before_anything_is_sent(make_hosted_site):
    site = make_hosted_site("plain")
    with pytest.raises(KeyFileError, match="does not open"):
        connect(
            "http://127.0.0.1:9",
            key_file=site.folder / "p0.key",
            roster=site.folder / "roster.json",
            passphrase="wrong",
        )


def test_a_servers_key_joins_as_nobody(make_hosted_site):
    site = make_hosted_site("plain")
    with pytest.raises(TaskError, match="not a participant"):
        site.connect("dsp", initial=site.initial)


def test_a_dsp_of_another_task_is_recognised_before_anything_is_sent(make_hosted_site):
    site, other = make_hosted_site("plain"), make_hosted_site("plain")
    site.ports = other.ports
    with pytest.raises(WrongTaskError, match="another task"):
        site.connect("p0", initial=site.initial)


def test_a_task_that_has_not_begun_needs_its_initial_weights(make_hosted_site):
    site = make_hosted_site("plain")
    with pytest.raises(LayoutError, match="give the initial weights"):
        site.connect("p0")


def test_weights_that_the_task_does_not_start_from_are_refused(make_hosted_site):
    site = make_hosted_site("plain")
    write_weights(site.folder / "other.npy", np.zeros(62, dtype=np.int64))
    with pytest.raises(LayoutError, match="hash"):
        site.connect("p0", initial=site.folder / "other.npy")


def test_weights_survive_their_file(tmp_path):
    weights = np.arange(-5, 57, dtype=np.int64)
    write_weights(tmp_path / "w.npy", weights)
    assert (read_weights(tmp_path / "w.npy") == weights).all()
    (tmp_path / "w.npy").write_bytes(b"nothing")
    with pytest.raises(LayoutError, match="holds no weights"):
        read_weights(tmp_path / "w.npy")


class Helpers:
    """Three participants that train all the while; a context manager."""

    def __init__(self, site, names):
        self.sessions = [
            site.connect(name, initial=site.initial, background=True) for name in names
        ]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._train)

    def _train(self):
        while not self._ended.is_set():
            for session in self.sessions:
                session.push(fit(session, 1))
                session.catch_up()
            for session in self.sessions:
                session.catch_up()
            time.sleep(0.1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        for session in self.sessions:
            session.catch_up()


@pytest.mark.parametrize(("suite", "numbers"), [("plain", {}), ("hybrid", WEIGHTED)])
def test_who_comes_late_gets_the_weights_sealed_by_another(
    make_hosted_site, suite, numbers
):
    site = make_hosted_site(suite, **numbers)
    with Helpers(site, site.names[:3]) as others:
        wait_until(lambda: others.sessions[0].version >= 2)
        late = site.connect("p3", timeout=30)
    assert late.version >= 2
    late.pull()
    assert late.version == others.sessions[0].version
    assert (late.released() == others.sessions[0].released()).all()
    before = late.version
    one_round([late, *others.sessions[:2]])
    for session in (*others.sessions, others.sessions[0]):
        session.catch_up()
    late.pull()
    assert late.version == others.sessions[0].version > before
    assert (late.released() == others.sessions[0].released()).all()
    assert late.pending == 0


@pytest.mark.parametrize("background", [False, True])
def test_who_was_silent_for_too_long_goes_on_from_a_sealed_snapshot(
    make_hosted_site, background
):
    site = make_hosted_site("hybrid", staleness_bound=2)
    late = site.connect("p3", initial=site.initial, background=background, timeout=30)
    late.push(same(1))
    with Helpers(site, site.names[:3]) as others:
        wait_until(lambda: others.sessions[0].version >= 8)
        wait_until(lambda: late.pull() and late.version >= 5)
    assert late.pending == 0
    wait_until(lambda: late.pull() or late.version == others.sessions[0].version)
    assert (late.released() == others.sessions[0].released()).all()
    late.push(same(1))
    assert late.pending == 1


def test_after_a_crash_that_took_its_memory_a_participant_goes_on(make_hosted_site):
    site = make_hosted_site("hybrid", max_per_identity=2)
    crashed = site.connect("p0", initial=site.initial)
    crashed.push(same(7))
    crashed.close()
    again = site.connect("p0", initial=site.initial)
    assert again.pending == 0
    # An upload from before the crash may be under way still: its number is not used.
    assert again.push(same(2)) == 1 + again.task.config.pending_limit
    others = [site.connect(name, initial=site.initial) for name in ("p1", "p2")]
    one_round(others, fill=1)
    (release,) = again.pull()
    assert (release.values == 7 + 2 + 1 + 1).all()
    assert again.pending == 0


def test_a_saved_state_goes_on_where_it_stopped(make_hosted_site):
    site = make_hosted_site("plain")
    sessions = [site.connect(name, initial=site.initial) for name in site.names[:3]]
    one_round(sessions)
    sessions[0].push(same(3))
    state = sessions[0].state()
    resumed = site.connect("p0", state=state)
    assert (resumed.version, resumed.pending) == (1, 1)
    assert (resumed.weights() == sessions[0].weights()).all()


@pytest.mark.parametrize(
    "weights", [np.array([0.3, -0.7, 1.5]), np.arange(3, dtype="i4")]
)
def test_weights_of_another_type_are_refused(tmp_path, weights):
    np.save(tmp_path / "w.npy", weights)
    with pytest.raises(LayoutError, match="int64"):
        read_weights(tmp_path / "w.npy")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.arange(3))
    for name in ("empty.npy", "several.npz"):
        with pytest.raises(LayoutError, match=name):
            read_weights(tmp_path / name)


def test_weights_that_cannot_be_written_are_said(tmp_path):
    with pytest.raises(RunDirectoryError, match="cannot write"):
        write_weights(tmp_path / "missing" / "w.npy", np.arange(3))
