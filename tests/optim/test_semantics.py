"""Training semantics: what is pushed, what stays, and what nobody may lose."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from hre_torch.encoding.fixed_point import StochasticRounding
from hre_torch.errors import (
    AggregatorError,
    BackPressure,
    StaleUploadError,
)
from hre_torch.optim import FlatView, HREOptimizer, Polynomial
from hre_torch.protocol.messages import Upload
from hre_torch.protocol.wire import decode

SCALE = 2.0**16


def sgd(model, session, *, lr=1.0, **options):
    return HREOptimizer(
        torch.optim.SGD(model.parameters(), lr=lr), session, module=model, **options
    )


def scalars(*values):
    """A model whose parameters are just these numbers."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(values))
    return model


def move(optimizer, model, *update):
    """Make one step that adds exactly this update (with a learning rate of 1)."""
    model.weight.grad = -torch.tensor(update)
    optimizer.step()


def train(model, optimizer, batches):
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def bits(model):
    return FlatView.of(model).read().tobytes()


INNERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("every", [(1, 1), (3, 2)], ids=["every step", "3 and 2"])
@pytest.mark.parametrize("inner", INNERS)
def test_a_lone_participant_trains_exactly_as_without_a_federation(
    network, batches, session, inner, every
):
    plain, federated = network(), network()
    train(plain, INNERS[inner](plain.parameters()), batches)
    optimizer = HREOptimizer(
        INNERS[inner](federated.parameters()),
        session(federated),
        push_every=every[0],
        pull_every=every[1],
    )
    train(federated, optimizer, batches)
    assert optimizer.session.statistics.pushes == len(batches) // every[0]
    assert bits(federated) == bits(plain)


def test_an_encrypted_run_equals_a_plain_one_bit_for_bit(network, batches, federation):
    def run(suite):
        together = federation(
            network(), 2, suite=suite, min_contributions=2, combine="mean"
        )
        models = [network(), network()]
        optimizers = [
            sgd(model, together.join(), lr=0.5, rounding=StochasticRounding(seed))
            for seed, model in enumerate(models)
        ]
        for batch in batches[:4]:
            for model, optimizer in zip(models, optimizers, strict=True):
                train(model, optimizer, [batch])
        return [bits(model) for model in models]

    assert run("paper") == run("plain")


def test_the_constructor_loads_the_weights_of_the_task(network, session):
    model = network()
    joined = session(model)
    other = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    sgd(other, joined)
    assert bits(other) == bits(model)


def test_with_sgd_the_update_is_the_gradient_times_the_learning_rate(session):
    model = scalars(0.0, 0.0)
    joined = session(model)
    pushed = []
    joined.push = pushed.append
    optimizer = sgd(model, joined, lr=0.5)
    model.weight.grad = torch.tensor([0.25, -0.5])
    optimizer.step()
    assert pushed[0].tolist() == [-0.125 * SCALE, 0.25 * SCALE]


def test_push_every_and_pull_every_count_local_steps(session):
    model = scalars(0.0)
    joined = session(model)
    optimizer = sgd(model, joined, push_every=3, pull_every=2)
    for _ in range(7):
        move(optimizer, model, 0.01)
    assert optimizer.progress.local_steps == 7
    assert joined.statistics.pushes == 2
    assert joined.statistics.pulls == 3


def test_everybody_ends_on_the_same_weights(federation):
    together = federation(scalars(0.0), 2, min_contributions=1)
    models = [scalars(0.0), scalars(0.0)]
    optimizers = [sgd(model, together.join()) for model in models]
    move(optimizers[0], models[0], 0.25)
    move(optimizers[1], models[1], 0.375)
    optimizers[0].pull()
    assert [model.weight.item() for model in models] == [0.625, 0.625]


def test_own_updates_count_at_once_and_are_not_counted_again_when_released(federation):
    together = federation(scalars(0.0), 2, min_contributions=2, combine="sum")
    models = [scalars(0.0), scalars(0.0)]
    optimizers = [sgd(model, together.join()) for model in models]
    move(optimizers[0], models[0], 0.25)
    assert models[0].weight.item() == 0.25
    assert optimizers[0].session.pending == 1
    move(optimizers[1], models[1], 0.375)
    optimizers[0].pull()
    assert optimizers[0].session.pending == 0
    assert models[0].weight.item() == 0.625


def test_in_a_mean_the_own_update_counts_in_full_until_it_is_released(federation):
    together = federation(scalars(0.0), 2, min_contributions=2, combine="mean")
    models = [scalars(0.0), scalars(0.0)]
    optimizers = [sgd(model, together.join()) for model in models]
    move(optimizers[0], models[0], 0.25)
    assert models[0].weight.item() == 0.25
    move(optimizers[1], models[1], 0.5)
    optimizers[0].pull()
    assert [model.weight.item() for model in models] == [0.375, 0.375]


def test_what_quantisation_leaves_over_goes_with_the_next_push(session):
    model = scalars(0.0)
    joined = session(model)
    optimizer = sgd(model, joined)
    for _ in range(4):
        move(optimizer, model, 0.25 / SCALE)
    assert model.weight.item() == 1.0 / SCALE
    assert joined.released().tolist() == [1]


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SaturationWarning")
def test_what_exceeds_the_bits_of_a_value_arrives_with_later_pushes(session):
    model = scalars(0.0)
    joined = session(model)
    optimizer = sgd(model, joined)
    move(optimizer, model, 1.25)
    assert model.weight.item() == 1.25
    assert joined.released().tolist() == [32767]
    move(optimizer, model, 0.0)
    move(optimizer, model, 0.0)
    assert joined.released().tolist() == [1.25 * SCALE]


def test_without_error_feedback_what_is_left_over_is_dropped(session):
    model = scalars(0.0)
    optimizer = sgd(model, session(model), error_feedback=False)
    move(optimizer, model, 1.25 / SCALE)
    assert model.weight.item() == 1.0 / SCALE


def test_clip_bounds_the_norm_of_an_update_and_drops_the_rest(session):
    model = scalars(0.0, 0.0)
    joined = session(model)
    optimizer = sgd(model, joined, clip=0.25)
    move(optimizer, model, 3.0, 4.0)
    assert np.allclose(joined.released() / SCALE, [0.15, 0.2], atol=1 / SCALE)
    assert torch.allclose(model.weight, torch.tensor([0.15, 0.2]))


def test_an_update_within_the_bound_is_not_changed(session):
    model = scalars(0.0, 0.0)
    optimizer = sgd(model, session(model), clip=0.5)
    move(optimizer, model, 0.125, 0.25)
    assert model.weight.tolist() == [0.125, 0.25]


def test_the_bound_of_the_task_holds_unless_another_is_given(federation):
    model = scalars(0.0)
    together = federation(model, 2, min_contributions=1, clip=0.25)
    optimizer = sgd(model, together.join())
    move(optimizer, model, 0.5)
    assert model.weight.item() == 0.25
    other = scalars(0.0)
    optimizer = sgd(other, together.join(), clip=0.125)
    move(optimizer, other, 0.5)
    assert other.weight.item() == 0.25 + 0.125


def test_a_stale_update_is_weighted_down(federation):
    together = federation(scalars(0.0), 2, min_contributions=1)
    stale, fresh = scalars(0.0), scalars(0.0)
    behind = sgd(
        stale, together.join(), pull_every=100, staleness_weight=Polynomial(1.0)
    )
    ahead = sgd(fresh, together.join())
    move(behind, stale, 0.25)
    assert stale.weight.item() == 0.25
    for _ in range(3):
        move(ahead, fresh, 0.0)
    # The acknowledgement of this push tells how far behind it was.
    move(behind, stale, 0.0)
    staleness = behind.session.staleness
    assert staleness >= 4
    move(behind, stale, 0.25)
    assert stale.weight.item() == pytest.approx(
        0.25 + 0.25 / (staleness + 1), abs=1 / SCALE
    )


@pytest.mark.filterwarnings(
    "ignore::hre_torch.errors.AloneWarning",
    "ignore::hre_torch.errors.SaturationWarning",
)
def test_under_back_pressure_updates_gather_locally_and_nothing_is_lost(federation):
    together = federation(
        scalars(0.0),
        2,
        min_contributions=2,
        max_additions=4,
        max_per_identity=2,
        combine="sum",
    )
    models = [scalars(0.0), scalars(0.0)]
    optimizers = [sgd(model, together.join()) for model in models]
    for _ in range(5):
        move(optimizers[0], models[0], 0.125)
    assert optimizers[0].session.pending == 2
    assert optimizers[0].progress.held_back == 3
    assert models[0].weight.item() == 0.625
    with pytest.raises(BackPressure):
        optimizers[0].push()
    move(optimizers[1], models[1], 0.25)
    optimizers[0].pull()
    move(optimizers[0], models[0], 0.125)
    assert optimizers[0].session.pending == 1
    assert models[0].weight.item() == 0.625 + 0.25 + 0.125


@pytest.mark.filterwarnings("ignore::hre_torch.errors.AloneWarning")
def test_a_push_that_is_held_back_is_due_again_at_the_next_step(session):
    model = scalars(0.0)
    joined = session(model)
    optimizer = sgd(model, joined, push_every=3)
    accept, calls = joined.push, []

    def refuse_once(values):
        calls.append(optimizer.progress.local_steps)
        if len(calls) == 1:
            raise BackPressure("full")
        return accept(values)

    joined.push = refuse_once
    for _ in range(7):
        move(optimizer, model, 0.01)
    assert calls == [3, 4, 7]


def test_a_stale_upload_is_pushed_again_after_a_pull(federation):
    together = federation(scalars(0.0), 2, min_contributions=1, staleness_bound=1)
    behind_model, ahead_model = scalars(0.0), scalars(0.0)
    behind = sgd(behind_model, together.join(), pull_every=100)
    ahead = sgd(ahead_model, together.join())
    for _ in range(3):
        move(ahead, ahead_model, 0.125)
    move(behind, behind_model, 0.25)
    assert behind.session.statistics.pulls == 1
    assert behind.session.sequence == 2
    ahead.pull()
    assert ahead_model.weight.item() == 0.375 + 0.25
    assert behind_model.weight.item() == 0.375 + 0.25


def test_an_update_that_expires_is_taken_back(federation):
    model = scalars(0.0)
    together = federation(model, 2, min_contributions=2, combine="sum")
    optimizer = sgd(model, together.join())
    move(optimizer, model, 0.25)
    assert model.weight.item() == 0.25
    session = optimizer.session

    def pull_an_expiry(*, wait):
        session._pending.expire(next(iter(session._pending)))
        return []

    session._receiver.receive = pull_an_expiry
    optimizer.pull()
    assert model.weight.item() == 0.0


def test_an_upload_without_acknowledgement_is_counted_once(session):
    model = scalars(0.0)
    joined = session(model)
    optimizer = sgd(model, joined)
    submit = joined._carrier.aggregator.submit
    fails = iter([True, True, False])

    def unreliable(data):
        if next(fails, False):
            raise AggregatorError("the line is dead")
        return submit(data)

    joined._carrier.aggregator.submit = unreliable
    for _ in range(2):
        with pytest.raises(AggregatorError):
            move(optimizer, model, 0.125)
    move(optimizer, model, 0.125)
    assert model.weight.item() == 0.375
    assert joined.released().tolist() == [0.375 * SCALE]
    assert joined.statistics.pushes == 2


def test_an_upload_that_is_refused_when_sent_again_waits_in_the_session(federation):
    model = scalars(0.0)
    together = federation(model)
    joined = together.join()
    optimizer = sgd(model, joined)
    submit = joined._carrier.aggregator.submit

    def die(data):
        raise AggregatorError("the line is dead")

    def refuse(data):
        joined._carrier.aggregator.submit = submit
        error = StaleUploadError("too old")
        error.upload = decode(data, Upload, max_bytes=len(data)).digest
        return together.servers._refusal(error, hashlib.sha256(data).digest())

    joined._carrier.aggregator.submit = die
    with pytest.raises(AggregatorError):
        move(optimizer, model, 0.125)
    joined._carrier.aggregator.submit = refuse
    move(optimizer, model, 0.125)
    assert model.weight.item() == 0.25
    # The newer one is released, and with that the older one is sealed anew.
    assert joined.released().tolist() == [0.125 * SCALE]
    optimizer.pull()
    assert joined.released().tolist() == [0.25 * SCALE]
    assert (joined.statistics.pushes, joined.sequence) == (2, 3)


def test_flush_pushes_what_is_left(session):
    model = scalars(0.0)
    joined = session(model)
    optimizer = sgd(model, joined, push_every=10)
    move(optimizer, model, 0.25)
    optimizer.flush()
    joined.pull()
    assert joined.released().tolist() == [0.25 * SCALE]


def test_flush_sends_nothing_when_all_of_it_rounds_to_zero(session):
    model = scalars(0.0)
    optimizer = sgd(model, session(model), push_every=10)
    move(optimizer, model, 0.25 / SCALE)
    optimizer.flush()
    assert optimizer.session.statistics.pushes == 0
