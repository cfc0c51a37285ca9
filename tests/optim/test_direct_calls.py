"""A script may call the session itself: the model follows, and nothing counts twice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hre_torch.errors import (
    AggregatorError,
    CheckpointError,
    EquivocationError,
    NonFiniteError,
    UnsupportedError,
)
from hre_torch.optim import HREOptimizer

SCALE = 2.0**16


def scalar(value=0.0):
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([value]))
    return model


def joined(federation, participants=1, **options):
    """Participants that all start from zero, each with a model of its own."""
    together = federation(scalar(), participants, combine="sum", **options)
    return [
        (HREOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), session), model)
        for session in map(together.join, together.names)
        for model in [scalar()]
    ]


def move(optimizer, model, update):
    """Make one step that adds exactly this update."""
    model.weight.grad = -torch.tensor([update])
    optimizer.step()


def without_a_line(session):
    """Make the next submission fail; the session sends it again later."""
    submit = session._carrier.aggregator.submit

    def fail(upload):
        session._carrier.aggregator.submit = submit
        raise AggregatorError("not now")

    session._carrier.aggregator.submit = fail


@pytest.mark.parametrize("way", ["pull", "catch_up"])
def test_a_pull_of_the_session_moves_the_model_and_keeps_its_local_steps(
    federation, way
):
    (one, model), (other, its) = joined(federation, 2, min_contributions=1)
    one._pacing.push_every = 10
    move(one, model, 0.25)
    move(other, its, 0.125)
    getattr(one.session, way)()
    assert model.weight.item() == 0.375
    move(one, model, 0.125)
    one.push()
    assert model.weight.item() == 0.5
    for optimizer in (one, other):
        optimizer.session.pull()
        assert optimizer.session.released().tolist() == [0.5 * SCALE]
    assert its.weight.item() == 0.5


def test_what_the_session_sends_again_itself_leaves_the_model_where_it_is(federation):
    ((optimizer, model),) = joined(federation)
    without_a_line(optimizer.session)
    with pytest.raises(AggregatorError):
        move(optimizer, model, 0.25)
    assert model.weight.item() == 0.25
    optimizer.session.resend()
    assert model.weight.item() == 0.25
    move(optimizer, model, 0.125)
    optimizer.pull()
    assert model.weight.item() == 0.375
    assert optimizer.session.released().tolist() == [0.375 * SCALE]


def test_flush_sends_what_has_no_acknowledgement_yet(federation):
    ((optimizer, model),) = joined(federation)
    without_a_line(optimizer.session)
    with pytest.raises(AggregatorError):
        move(optimizer, model, 0.25)
    optimizer.flush()
    optimizer.pull()
    assert optimizer.session.released().tolist() == [0.25 * SCALE]
    assert model.weight.item() == 0.25


@pytest.mark.parametrize("put_back", [False, True])
def test_an_upload_that_is_refused_later_stays_in_the_model(federation, put_back):
    ((optimizer, model),) = joined(federation)
    session = optimizer.session
    without_a_line(session)
    with pytest.raises(AggregatorError):
        move(optimizer, model, 0.25)

    def refused(*answer):
        raise EquivocationError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hre_torch.participant.sender.read_decision", refused)
        with pytest.raises(EquivocationError):
            session.resend()
    assert session.pending == 1
    if put_back:
        with torch.no_grad():
            model.weight.fill_(math.nan)
        with pytest.raises(NonFiniteError):
            optimizer.push()
    assert model.weight.item() == 0.25
    assert optimizer.state_dict()["hre_torch"]["local"].tolist() == [0.0]


def test_an_optimizer_whose_session_another_one_took_is_refused(federation):
    ((optimizer, model),) = joined(federation)
    other = scalar()
    HREOptimizer(torch.optim.SGD(other.parameters(), lr=1.0), optimizer.session)
    for call in (optimizer.pull, optimizer.push, optimizer.catch_up, optimizer.flush):
        with pytest.raises(UnsupportedError, match="Another HREOptimizer was made on"):
            call()
    with pytest.raises(UnsupportedError, match="Another HREOptimizer was made on"):
        move(optimizer, model, 0.25)


def test_an_upload_that_arrived_unheard_is_not_in_the_model_twice(federation):
    ((optimizer, model),) = joined(federation)
    session = optimizer.session
    submit = session._carrier.aggregator.submit

    def lose_the_answer(upload):
        submit(upload)
        session._carrier.aggregator.submit = submit
        raise AggregatorError("no answer")

    session._carrier.aggregator.submit = lose_the_answer
    with pytest.raises(AggregatorError):
        move(optimizer, model, 0.25)
    optimizer.pull()
    assert model.weight.item() == 0.25
    assert session.pushed == session.statistics.pushes == 1


def test_a_model_that_is_not_finite_is_put_back_before_anything_is_fetched(federation):
    ((optimizer, model),) = joined(federation)
    with torch.no_grad():
        model.weight.fill_(math.nan)
    fetch = optimizer.session._carrier.aggregator.fetch
    optimizer.session._carrier.aggregator.fetch = None
    with pytest.raises(NonFiniteError):
        optimizer.session.pull()
    optimizer.session._carrier.aggregator.fetch = fetch
    optimizer.session.pull()
    assert model.weight.item() == 0.0


def test_an_older_state_is_refused_by_a_session_that_has_pushed_since(federation):
    ((optimizer, model),) = joined(federation)
    optimizer._pacing.push_every = 10
    move(optimizer, model, 0.25)
    state = optimizer.state_dict()
    optimizer.push()
    with pytest.raises(CheckpointError, match="after 0 pushes, but this session stand"):
        optimizer.load_state_dict(state)
    assert model.weight.item() == 0.25
    optimizer.pull()
    assert model.weight.item() == 0.25


def test_a_state_of_another_task_brings_no_steps_that_were_not_pushed(federation):
    ((optimizer, model),) = joined(federation)
    optimizer._pacing.push_every = 10
    move(optimizer, model, 0.25)
    made = federation(model, combine="sum")
    again = scalar()
    other = HREOptimizer(torch.optim.SGD(again.parameters(), lr=1.0), made.join())
    other.load_state_dict(optimizer.state_dict())
    assert again.weight.item() == 0.25
