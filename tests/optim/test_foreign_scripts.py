"""What scripts do that nobody here wrote: it works, or it is refused with a remedy."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch
from torch import nn

from hre_torch.errors import (
    AloneWarning,
    CheckpointError,
    HREWarning,
    OutsideChangeError,
    RunDirectoryError,
    SaturationWarning,
    UnsupportedError,
)
from hre_torch.optim import FlatView, HREOptimizer
from hre_torch.optim.federation import Federation


def values(model):
    return FlatView.of(model).read()


def released(optimizer):
    session = optimizer.session
    return session.fixed_point.to_float(session.released())


def wrap(model, session, lr=0.1, momentum=0.0, **options):
    inner = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return HREOptimizer(inner, session, **options)


def fit(model, optimizer, batches):
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.fixture
def trained(network, session, batches):
    """A model after four steps, its optimizer, and what the model was before."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = wrap(model, session(model), push_every=3)
    fit(model, optimizer, batches[:4])
    return model, optimizer, before


# Changes from outside.


def load_the_best_model(model):
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


def write_data(model):
    # Bumps no version counter.
    model[0].weight.data[0, 0] = 5.0


@pytest.mark.parametrize("change", [load_the_best_model, write_data])
@pytest.mark.parametrize(
    "go_on",
    [
        lambda optimizer: optimizer.step(),
        lambda optimizer: optimizer.push(),
        lambda optimizer: optimizer.pull(),
        lambda optimizer: optimizer.flush(),
        lambda optimizer: optimizer.session.pull(),
    ],
    ids=["step", "push", "pull", "flush", "session"],
)
def test_a_change_between_steps_is_refused_and_never_pushed(trained, change, go_on):
    model, optimizer, _ = trained
    pushed = optimizer.session.pushed
    change(model)
    with pytest.raises(OutsideChangeError, match=r"adopt_weights\(\).*restore\(\)"):
        go_on(optimizer)
    assert optimizer.session.pushed == pushed


def test_restore_shows_the_session_and_the_steps_again(trained):
    model, optimizer, _ = trained
    before = values(model)
    load_the_best_model(model)
    optimizer.restore()
    assert (values(model) == before).all()
    optimizer.flush()


def test_adopted_weights_are_the_next_update_and_the_warning_tells_its_size(trained):
    model, optimizer, before = trained
    model.load_state_dict(before)
    with pytest.warns(HREWarning, match="in L2 norm, .*% of the weights' own"):
        optimizer.adopt_weights()
    optimizer.push()
    optimizer.pull()
    optimizer.restore()
    loaded = FlatView(list(before.values())).read()
    assert abs(values(model) - loaded).max() <= 1e-5
    released = optimizer.session.fixed_point.to_float(optimizer.session.released())
    assert abs(released - loaded).max() <= 1e-4


def test_a_swap_that_was_undone_is_no_change(trained, batches):
    """What averaged weights (EMA) do for an evaluation and a checkpoint."""
    model, optimizer, before = trained
    kept = copy.deepcopy(model.state_dict())
    expected = optimizer.state_dict()["hre_torch"]
    model.load_state_dict(before)
    during = optimizer.state_dict()["hre_torch"]
    model.load_state_dict(kept)
    assert torch.equal(during["local"], expected["local"])
    assert during["parameters_sha256"] == expected["parameters_sha256"]
    fit(model, optimizer, batches[4:6])


def test_buffers_may_change_between_steps(session, batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    optimizer = wrap(
        model, session(model, buffers="mean"), module=model, buffers="mean"
    )
    for batch in batches[:3]:
        model(batch[0])
        fit(model, optimizer, [batch])


def test_a_model_may_move_to_another_dtype_between_steps(trained, batches):
    model, optimizer, _ = trained
    model.double()
    fit(model, optimizer, [(x.double(), y) for x, y in batches[:3]])


def test_clipping_weights_after_each_step_works_where_the_script_says_push(
    network, session, batches
):
    def clipped_training(optimizer_of):
        model = network()
        optimizer = optimizer_of(model)
        for batch in batches:
            fit(model, optimizer, [batch])
            for parameter in model.parameters():
                parameter.data.clamp_(-0.2, 0.2)
        return values(model)

    plain = clipped_training(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    federated = clipped_training(
        lambda model: wrap(model, session(model), outside_changes="push")
    )
    assert abs(plain - federated).max() < 1e-3


def test_an_unknown_way_to_treat_changes_is_refused(network, session):
    model = network()
    with pytest.raises(UnsupportedError, match="'refuse' or 'push'"):
        wrap(model, session(model), outside_changes="ignore")


# Checkpoints, in the order of the ImageNet example: model, optimizer, then load both.


def test_a_checkpoint_of_another_task_is_refused_before_it_costs_a_training(
    network, session, batches
):
    first = network()
    optimizer = wrap(first, session(first))
    fit(first, optimizer, batches)
    checkpoint = {
        "model": copy.deepcopy(first.state_dict()),
        "optimizer": optimizer.state_dict(),
    }

    again = network()
    resumed = wrap(again, session(again))
    again.load_state_dict(checkpoint["model"])
    with pytest.raises(CheckpointError, match=r"Federation\.local") as refused:
        resumed.load_state_dict(checkpoint["optimizer"])
    for known in (optimizer, resumed):
        assert known.session.task.cfg.hex()[:16] in str(refused.value)


def test_the_same_checkpoint_loaded_before_the_federation_is_made_goes_on(
    network, session, batches
):
    first = network()
    optimizer = wrap(first, session(first), momentum=0.9)
    fit(first, optimizer, batches)
    loss = fit(first, optimizer, batches[-1:])

    again = network()
    again.load_state_dict(first.state_dict())
    resumed = wrap(again, session(again), momentum=0.9)
    resumed.load_state_dict(optimizer.state_dict())
    assert fit(again, resumed, batches[-1:]) < 1.1 * loss


def test_weights_of_a_plain_checkpoint_are_refused_at_the_next_step(trained, batches):
    model, optimizer, _ = trained
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})
    optimizer.load_state_dict(plain.state_dict())
    with pytest.raises(OutsideChangeError):
        fit(model, optimizer, batches[:1])


# Wrapping again.


def test_steps_that_were_not_pushed_move_to_the_new_optimizer(
    network, session, batches
):
    """Flower's quickstart makes its optimizer in every round."""
    once, often = network(), network()
    whole = wrap(once, session(once), push_every=5)
    fit(once, whole, batches)

    joined = session(often)
    for start in range(0, 12, 3):
        optimizer = wrap(often, joined, push_every=5)
        fit(often, optimizer, batches[start : start + 3])
    assert (values(often) == values(once)).all()
    assert joined.pushed == whole.session.pushed == 2
    optimizer.flush()
    whole.flush()
    assert (joined.released() == whole.session.released()).all()


def test_one_model_in_two_open_sessions_is_refused(network, federation):
    together = federation(network(), 4)
    model = network()
    first = together.join()
    wrap(model, first)
    with pytest.raises(UnsupportedError, match=r"copy\.deepcopy\(model\)"):
        wrap(model, together.join())
    first.close()
    wrap(model, together.join())


# Snapshots, and compiled steps.


def test_a_saved_federation_does_not_follow_later_training(
    network, federation, batches
):
    together = federation(network(), 2, min_contributions=1)
    model = network()
    optimizer = wrap(model, together.join())
    fit(model, optimizer, batches[:3])
    state = together.state()
    before = msgspec.msgpack.encode(state)
    fit(model, optimizer, batches[3:])
    assert msgspec.msgpack.encode(state) == before
    resumed = type(together).resume(state)
    fit(model, optimizer, batches[3:])
    assert msgspec.msgpack.encode(state) == before
    assert resumed.join("p0").statistics.pushes == 3


# Python 3.13.0; torch.compile says so.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python:RuntimeWarning")
def test_a_compiled_step_is_the_same_step(network, session, batches):
    model, compiled = network(), network()
    optimizer = wrap(model, session(model))
    fit(model, optimizer, batches[:2])

    other = wrap(compiled, session(compiled))
    step = torch.compile(other.step, backend="eager")
    for inputs, labels in batches[:2]:
        other.zero_grad()
        nn.functional.cross_entropy(compiled(inputs), labels).backward()
        step()
    assert (values(model) == values(compiled)).all()
    assert other.progress.local_steps == 2


# Alone in a federation, and values too large for a push.


def test_who_trains_alone_is_told_at_the_first_push_that_is_held_back(
    network, federation, batches
):
    together = federation(network(), 4, min_contributions=3, max_additions=8)
    model = network()
    optimizer = wrap(model, together.join())
    with pytest.warns(AloneWarning, match="1 of 4 participants has joined: you are tr"):
        fit(model, optimizer, batches)
    assert optimizer.progress.held_back == 10


def test_pushes_without_a_release_are_told_once(network, federation, batches):
    together = federation(network(), 4, min_contributions=3)
    model = network()
    optimizer = wrap(model, together.join())
    with pytest.warns(AloneWarning, match="No release has come for 10 pushes") as told:
        fit(model, optimizer, batches)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_a_federation_in_turn_is_told_nothing(network, federation, batches):
    together = federation(network(), 3, min_contributions=3)
    models = [network() for _ in range(3)]
    optimizers = [wrap(model, together.join()) for model in models]
    for batch in batches:
        for model, optimizer in zip(models, optimizers, strict=True):
            fit(model, optimizer, [batch])
    assert all(optimizer.session.version >= 11 for optimizer in optimizers)


def test_values_that_were_cut_are_counted_and_told_once(network, session, batches):
    model = network()
    optimizer = wrap(model, session(model), lr=100.0)
    with pytest.warns(SaturationWarning, match="of 57 values of a push") as told:
        fit(model, optimizer, batches[:3])
    assert len(told) == 1
    assert optimizer.progress.saturated > 0
    again = network()
    small = wrap(again, session(again), lr=0.01)
    fit(again, small, batches[:3])
    assert small.progress.saturated == 0


# The end of a training, and what everybody has.


def test_finish_pushes_the_rest_and_learns_the_newest(network, session, batches):
    model = network()
    optimizer = wrap(model, session(model), push_every=100, pull_every=100)
    fit(model, optimizer, batches)
    end = optimizer.finish()
    assert (end.version, end.pending, end.unpushed) == (1, 0, False)
    assert abs(values(model) - released(optimizer)).max() <= 2.0**-16


def test_finish_tells_what_was_not_released_and_does_not_wait_for_nobody(
    network, federation, batches
):
    together = federation(network(), 4, min_contributions=3)
    models = [network(), network()]
    optimizers = [wrap(model, together.join()) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        fit(model, optimizer, batches[:2])
    # The other one trains in this very thread, which waiting would stop.
    with pytest.warns(AloneWarning, match="2 of your updates were not released"):
        end = optimizers[0].finish(timeout=3600)
    assert end.pending == 2


def test_finish_waits_for_others_in_their_threads(network, federation, batches):
    together = federation(network(), 3, min_contributions=3)

    def train(number):
        model = network()
        optimizer = wrap(model, together.join(f"p{number}"), push_every=4)
        fit(model, optimizer, batches[: 4 * (number + 1)])
        return optimizer.finish(timeout=60).pending

    with warnings.catch_warnings(), ThreadPoolExecutor(3) as pool:
        # Who makes more pushes than the others may keep one.
        warnings.simplefilter("ignore", AloneWarning)
        pending = list(pool.map(train, range(3)))
    assert pending[0] == 0
    assert together.servers.version >= 1


def test_released_weights_are_shown_inside_a_block_and_nothing_else_happens(
    trained, batches
):
    model, optimizer, _ = trained
    before = values(model)
    with optimizer.released():
        assert (values(model) == released(optimizer)).all()
        for forbidden in (optimizer.step, optimizer.push, optimizer.pull):
            with pytest.raises(UnsupportedError, match="leave the block"):
                forbidden()
    assert (values(model) == before).all()
    state = optimizer.released_state_dict(model)
    assert (values(model) == before).all()
    assert (FlatView(list(state.values())).read() == released(optimizer)).all()
    fit(model, optimizer, batches[4:6])


def test_release_hooks_hear_of_every_release_until_they_are_removed(
    network, session, batches
):
    model = network()
    optimizer = wrap(model, session(model))
    heard = []
    handle = optimizer.register_release_hook(lambda opened: heard.append(opened.last))
    fit(model, optimizer, batches[:3])
    handle.remove()
    fit(model, optimizer, batches[3:5])
    assert heard == [1, 2, 3]


FORGETFUL = """
import torch
from hre_torch import Federation, HREOptimizer

def train(name):
    model = torch.nn.Linear(2, 1)
    federation = Federation.local(
        model, participants=[name], suite="plain", profile="toy-insecure"
    )
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, federation.join(), push_every=10)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer

left = train("forgetful")
finished, flushed = train("finished"), train("flushed")
finished.finish()
flushed.flush()
"""


def test_a_program_that_forgets_to_finish_is_told_at_its_exit():
    script = [sys.executable, "-c", FORGETFUL]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if "has not finished" in line]
    assert len(told) == 1
    assert "'forgetful'" in told[0]
    assert "Call optimizer.finish()" in told[0]


def test_the_checkpoint_of_a_saved_federation_resumes_exactly(
    network, federation, batches, tmp_path
):
    """The ImageNet example's --resume, with one more file beside the checkpoint."""

    def begin(together):
        model = network()
        inner = torch.optim.Adam(model.parameters(), lr=0.05)
        return model, HREOptimizer(inner, together.join("p0"), push_every=5)

    whole, optimizer = begin(federation(network()))
    fit(whole, optimizer, batches)

    together = federation(network())
    first, stopped = begin(together)
    fit(first, stopped, batches[:7])
    together.save(tmp_path / "federation")
    checkpoint = {"model": first.state_dict(), "optimizer": stopped.state_dict()}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    assert (tmp_path / "federation").stat().st_mode & 0o777 == 0o600

    again, resumed = begin(type(together).load(tmp_path / "federation"))
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    fit(again, resumed, batches[7:])
    assert (values(again) == values(whole)).all()


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"{}", None])
def test_a_file_that_is_no_saved_federation_is_refused(federation, tmp_path, damage):
    path = tmp_path / "federation"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(RunDirectoryError, match="federation"):
        Federation.load(path)


def test_a_federation_saved_by_another_version_says_which(
    network, federation, tmp_path
):
    path = tmp_path / "federation"
    path.write_bytes(msgspec.msgpack.encode({"format": 99, "made_by": "9.9"}))
    with pytest.raises(RunDirectoryError, match=r"made by hre_torch 9\.9"):
        Federation.load(path)
