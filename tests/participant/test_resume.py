"""A participant that is killed goes on; a new roster goes on from the last weights."""

from __future__ import annotations

import stat
import threading

import pytest

from hre_torch.app.participant_checkpoint import Checkpoint
from hre_torch.app.participation import propose_recipe, train_participant
from hre_torch.app.recipes import load_recipe
from hre_torch.app.training.learner import Learner
from hre_torch.errors import (
    RunDirectoryError,
    TaskError,
    WrongTaskError,
)
from hre_torch.participant.connection import read_weights

THREE = ("p0", "p1", "p2")


class Killed(BaseException):
    """Ends a training as a kill does: nothing is tidied up."""


@pytest.fixture
def recipe(toy_recipe):
    return load_recipe(
        toy_recipe("suite=hybrid", "min_contributions=3", "train.epochs=3")
    )


@pytest.fixture
def steps(monkeypatch):
    """Record the local steps of p0; `steps.deadly` is one that kills it."""
    real = Learner.step

    class Steps(list):
        deadly = -1

    taken = Steps()

    def step(self, number):
        if self.name == "p0":
            if number == taken.deadly:
                # What was sent before has arrived, whatever else is forgotten.
                self.session.resend()
                raise Killed
            taken.append(number)
        return real(self, number)

    monkeypatch.setattr(Learner, "step", step)
    return taken


def train(site, recipe, name, memory=None, **part):
    """Train one participant to its end, as `hre-torch participate` does."""
    known = None if memory is None else memory.session()
    session = site.connect(
        name,
        initial=site.initial if known is None else None,
        state=known,
        background=True,
    )
    done = train_participant(
        recipe, session, lambda record: None, memory=memory, **part
    )
    session.close()
    return done


def proposing(recipe, start=None):
    """Return what makes the task of a recipe."""
    return lambda roster, parameters: propose_recipe(
        recipe, roster, parameters, "toy-insecure", start=start
    )


class InTheBackground:
    """Others that train meanwhile; a context manager."""

    def __init__(self, site, recipe, names):
        self.done = {}
        self._threads = [
            threading.Thread(
                target=lambda name=name: self.done.update(
                    {name: train(site, recipe, name)}
                )
            )
            for name in names
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_killed_participant_goes_on_and_trains_no_batch_twice(
    make_hosted_site, recipe, steps, every, tmp_path
):
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    memory = Checkpoint(tmp_path / "p0.state", every=0.0)
    steps.deadly = 5
    noted = memory.keep

    def keep(remembered):
        # The first note is the only one, or every step makes one.
        noted(remembered)
        memory._next += every

    memory.keep = keep
    with InTheBackground(site, recipe, THREE[1:]) as others:
        with pytest.raises(Killed):
            train(site, recipe, "p0", memory)
        assert stat.S_IMODE(memory.path.stat().st_mode) == 0o600
        steps.deadly = -1
        done = train(site, recipe, "p0", Checkpoint(memory.path))
    # Where the only note is old, what was pushed since is not trained again, and what
    # was trained but not pushed is.
    push_every = recipe.train.push_every
    first = 5 // push_every * push_every if every else 5
    assert steps[:5] == list(range(5))
    assert steps[5:] == list(range(first, first + len(steps) - 5))
    assert len(steps) > 10
    # Until what came of it is written, a training that has ended can be asked again.
    steps.clear()
    again = train(site, recipe, "p0", Checkpoint(memory.path))
    assert steps == []
    assert again.accuracy == done.accuracy
    assert (again.weights == done.weights).all()
    assert set(others.done) == {"p1", "p2"}
    assert done.version > 0


def test_what_is_remembered_carries_a_training_from_part_to_part(
    make_hosted_site, recipe, steps, tmp_path
):
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    path = tmp_path / "p0.state"
    with InTheBackground(site, recipe, THREE[1:]):
        for part in range(3):
            train(site, recipe, "p0", Checkpoint(path), part=part, parts=3)
            # What others did since the last push is no work of one's own.
            optimizer = Checkpoint(path)._read().learner.optimizer
            assert optimizer["hre_torch"]["local"].abs().max() < 2**-14
    assert steps == list(range(len(steps)))
    assert len(steps) > 5


def test_what_another_training_remembers_is_refused(
    make_hosted_site, recipe, toy_recipe, steps, tmp_path
):
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    memory = Checkpoint(tmp_path / "p0.state", every=0.0)
    steps.deadly = 1
    with pytest.raises(Killed):
        train(site, recipe, "p0", memory)
    other = load_recipe(
        toy_recipe("suite=hybrid", "min_contributions=3", "train.lr=9", name="other")
    )
    with pytest.raises(RunDirectoryError, match="remembers recipe"):
        train(site, other, "p0", memory)
    with pytest.raises(WrongTaskError, match="state is that of 'p0'"):
        train(site, recipe, "p1", memory)
    with pytest.raises(RunDirectoryError, match="remembers participant p0"):
        memory.recall("p1", memory.session().cfg, b"")
    memory.path.write_bytes(b"\x80")
    with pytest.raises(RunDirectoryError, match="damaged"):
        train(site, recipe, "p0", memory)


def test_a_new_roster_evicts_one_rotates_a_key_and_goes_on_from_the_last_weights(
    make_hosted_site, recipe
):
    old = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    with InTheBackground(old, recipe, THREE[1:]) as others:
        last = train(old, recipe, "p0")
    last = max([last, *others.done.values()], key=lambda done: done.version).weights
    # p1 leaves, p3 comes, and p2 has lost its key and made a new one.
    (old.folder / "p2.key").rename(old.folder / "lost.key")
    new = make_hosted_site(
        "hybrid",
        ("p0", "p2", "p3"),
        propose=proposing(recipe, start=last),
        keys=old.folder,
    )
    assert (read_weights(new.initial) == last).all()
    # The old roster, and whatever is sealed under it, is worth nothing here.
    old.ports = new.ports
    with pytest.raises(WrongTaskError):
        old.connect("p1", initial=old.initial)
    (new.folder / "new.key").write_bytes((new.folder / "p2.key").read_bytes())
    for name, lost in (("p1", "p1.key"), ("p2", "lost.key")):
        (new.folder / f"{name}.key").unlink(missing_ok=True)
        (new.folder / f"{name}.key").write_bytes((old.folder / lost).read_bytes())
        (new.folder / f"{name}.key").chmod(0o600)
        with pytest.raises(TaskError):
            new.connect(name, initial=new.initial)
    with InTheBackground(new, recipe, ("p0", "p3")) as others:
        (new.folder / "p2.key").write_bytes((new.folder / "new.key").read_bytes())
        assert train(new, recipe, "p2").version > 0
    assert all(done.version > 0 for done in others.done.values())


def test_a_kill_between_two_pushes_counts_no_step_twice(
    make_hosted_site, toy_recipe, steps, tmp_path
):
    recipe = load_recipe(
        toy_recipe(
            "suite=hybrid",
            "min_contributions=3",
            "train.epochs=4",
            "train.push_every=4",
            "train.pull_every=4",
        )
    )
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    memory = Checkpoint(tmp_path / "p0.state", every=0.0)
    keep_if_due, restored = memory.keep_if_due, []

    def keep_once(remembered, *others):
        # The last note is made two steps after a push, and two before the next.
        if remembered.args == (6,):
            keep_if_due(remembered, *others)

    memory.keep_if_due = keep_once
    steps.deadly = 9
    restore = Learner._restore

    def looking(self, state):
        restored.append(state.optimizer["hre_torch"])
        restore(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_restore", looking)
        with InTheBackground(site, recipe, THREE[1:]):
            with pytest.raises(Killed):
                train(site, recipe, "p0", memory)
            steps.deadly = -1
            train(site, recipe, "p0", Checkpoint(memory.path))
    # Step 8 was trained and not pushed; all before it were pushed.
    assert steps[:10] == [*range(9), 8]
    assert steps[9:] == list(range(8, 8 + len(steps) - 9))
    assert not restored[0]["local"].any()


@pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")
def test_a_kill_after_a_push_that_was_held_back_counts_no_step_twice(
    make_hosted_site, toy_recipe, steps, monkeypatch, tmp_path
):
    recipe = load_recipe(
        toy_recipe(
            "suite=hybrid",
            "min_contributions=3",
            "max_additions=6",
            "train.epochs=12",
            "train.push_every=4",
        )
    )
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    others = InTheBackground(site, recipe, THREE[1:])
    record, heard = Learner.step, []

    def step(self, number):
        # After steps 3 and 7 two uploads wait, which is the most that may. Room comes
        # with the first release, after the push that is due at step 11 was held back.
        if self.name == "p0" and number == 14 and not heard:
            heard.append(number)
            others.__enter__()
            while self.session.pending:
                self.pull()
        return record(self, number)

    monkeypatch.setattr(Learner, "step", step)
    steps.deadly = 17
    memory = Checkpoint(tmp_path / "p0.state", every=1e9)
    try:
        with pytest.raises(Killed):
            train(site, recipe, "p0", memory)
        steps.deadly = -1
        train(site, recipe, "p0", Checkpoint(memory.path))
    finally:
        others.__exit__()
    # Steps 8 to 14 went with one push; 15 and 16 were trained and not pushed.
    assert steps[:19] == [*range(17), 15, 16]
    assert steps[17:] == list(range(15, 15 + len(steps) - 17))


def test_two_kills_in_a_row_leave_no_step_out(
    make_hosted_site, toy_recipe, steps, tmp_path
):
    """Numbers that are passed over at a restart are no pushes at the next one."""
    recipe = load_recipe(
        toy_recipe("suite=hybrid", "min_contributions=3", "train.epochs=4")
    )
    every = recipe.train.push_every
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    with InTheBackground(site, recipe, THREE[1:]):
        for deadly in (5, 9):
            steps.deadly = deadly
            with pytest.raises(Killed):
                train(site, recipe, "p0", Checkpoint(tmp_path / "p0.state", every=1e9))
        steps.deadly = -1
        train(site, recipe, "p0", Checkpoint(tmp_path / "p0.state"))
    second, third = (deadly // every * every for deadly in (5, 9))
    begun = [*range(5), *range(second, 9)]
    assert steps[: len(begun)] == begun
    assert steps[len(begun) :] == list(range(third, third + len(steps) - len(begun)))


def test_who_resumes_alone_and_finds_no_room_takes_its_steps_and_ends(
    make_hosted_site, toy_recipe, steps, tmp_path
):
    """The DSP has uploads that wait for others, and the last note does not say so."""
    recipe = load_recipe(
        toy_recipe("suite=hybrid", "min_contributions=3", "max_additions=6")
    )
    site = make_hosted_site("hybrid", THREE, propose=proposing(recipe))
    steps.deadly = 4
    with pytest.raises(Killed):
        train(site, recipe, "p0", Checkpoint(tmp_path / "p0.state", every=1e9))
    steps.deadly = -1
    done = train(site, recipe, "p0", Checkpoint(tmp_path / "p0.state", every=0.0))
    assert done.version == 0
    assert steps[-1] == max(steps) > 4
