"""Sums that are longer than clipped updates can make them are rejected by everybody."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hre_torch.encoding.fixed_point import (
    FixedPoint,
    NearestRounding,
    StochasticRounding,
)
from hre_torch.errors import SlotOverflowError, TaskError
from hre_torch.participant.session import Session
from hre_torch.protocol.combination import Combination
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.vectors import norm_bound, require_norm, squared_norm
from tests.tasks import plain_config

SUITES = ["plain", "phong", "paper", "gated", "hybrid"]
ROUNDINGS = [NearestRounding(), StochasticRounding(3), np.floor, np.ceil]
BASE = plain_config(("a", "b", "c"), 100, min_contributions=3, clip=0.25)
COMBINE = {
    "sum": {"combine": "sum"},
    "mean": {"combine": "mean"},
    "weighted": {"combine": "weighted", "max_samples": 100},
}


def changed(**numbers) -> TaskConfig:
    return msgspec.structs.replace(BASE, **numbers)


@pytest.mark.parametrize(
    ("numbers", "count", "weight", "bound"),
    [
        # n_params = 100, so r = 10; C 2^f = 16384.
        ({"combine": "sum"}, 1, 0, 16384 + 10),
        ({"combine": "sum"}, 7, 0, 7 * (16384 + 10)),
        # 4 * 16384 / 3 = 21845.33 is rounded up.
        ({"combine": "mean"}, 4, 0, 21846 + 40),
        ({"combine": "mean", "min_contributions": 1}, 4, 0, 4 * (16384 + 10)),
        # M = 100: half a weight each.
        (COMBINE["weighted"], 4, 200, 2 * 16384 + 40),
        # The root of 2 is rounded up in both places.
        ({"combine": "sum", "n_params": 2}, 1, 0, 16384 + 2),
        # sigma sqrt(n) (r + 10) = 5 * 2 * 20.
        ({"combine": "sum", "noise_width": 5.0}, 4, 0, 4 * (16384 + 10) + 200),
        # As a float, 0.1 is a bit above: 5 C 2^f = 32768 and a bit is rounded up.
        ({"combine": "sum", "clip": 0.1}, 5, 0, 32769 + 50),
        ({"combine": "sum", "clip": 2.0**-40}, 1, 0, 11),
    ],
)
def test_the_bound_is_the_documented_one(numbers, count, weight, bound):
    config = changed(**numbers)
    assert norm_bound(config, count, weight) == bound


@given(
    values=st.lists(st.integers(-(2**61), 2**61), max_size=20),
    repeated=st.sampled_from([1, 5000]),
)
def test_squares_add_up_exactly_however_large(values, repeated):
    many = np.tile(np.array(values, dtype=np.int64), repeated)
    assert squared_norm(many) == repeated * sum(value**2 for value in values)


def test_squares_beyond_64_bits_are_no_trouble_at_real_size():
    values = np.full(10**6, 64 * 32767, dtype=np.int32)
    assert squared_norm(values) == 10**6 * (64 * 32767) ** 2


@settings(max_examples=300)
@given(
    combine=st.sampled_from(sorted(COMBINE)),
    clip=st.floats(2.0**-20, 8.0),
    bits=st.sampled_from([(8, 4), (16, 16), (24, 20)]),
    count=st.integers(1, 6),
    t=st.integers(1, 3),
    rule=st.sampled_from(ROUNDINGS),
    alike=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_sum_of_clipped_updates_is_rejected(
    combine, clip, bits, count, t, rule, alike, seed
):
    """All of length C and, where `alike`, in one direction: as long as they can be."""
    config = changed(
        clip=clip,
        min_contributions=t,
        value_bits=bits[0],
        fraction_bits=bits[1],
        **{"max_additions": 64} | COMBINE[combine],
    )
    combination, drawn = Combination(config), np.random.default_rng(seed)
    point = FixedPoint(value_bits=bits[0], fraction_bits=bits[1])
    total = np.zeros(config.n_sealed, dtype=np.int64)
    direction = drawn.normal(size=config.n_params)
    for _ in range(count):
        if not alike:
            direction = drawn.normal(size=config.n_params)
        update = direction * (clip / np.linalg.norm(direction))
        weight = combination.weight_of(
            int(drawn.integers(1, 101)) if combine == "weighted" else None
        )
        own = combination.multiple(weight, slice(0, config.n_params))
        largest = combination.largest(weight)
        quantised = np.clip(point.quantise(update / own, rule), -largest, largest)
        total[: config.n_params] += quantised
        total[config.n_params :] += weight
    weight = int(total[-1]) if combine == "weighted" else 0
    require_norm(config, total, count, weight)


@pytest.mark.parametrize("combine", sorted(COMBINE))
def test_one_unit_beyond_the_bound_is_refused_and_the_bound_itself_is_not(combine):
    config = changed(n_params=1, clip=0.25, **COMBINE[combine])
    weight = 100 if combine == "weighted" else 0
    bound = norm_bound(config, 2, weight)
    require_norm(config, np.array([bound, 0]), 2, weight)
    for value in (bound + 1, -bound - 1):
        with pytest.raises(SlotOverflowError, match="add up to a norm of"):
            require_norm(config, np.array([value, 0]), 2, weight)


def test_buffers_have_no_bound_and_tasks_without_a_clip_none_either():
    config = changed(n_params=1, n_buffers=1, clip=0.25)
    require_norm(config, np.array([0, 2**40]), 1)
    require_norm(changed(clip=None), np.full(100, 2**40), 1)


@pytest.mark.parametrize(
    "numbers", [{"clip": -1.0}, {"clip": math.inf}, {"noise_width": 0.0}]
)
def test_a_bound_that_is_none_is_refused(numbers):
    with pytest.raises(TaskError, match="must be a positive number"):
        plain_config(("a",), 1, **numbers)


def hostile(session: Session) -> Session:
    """Let a participant seal what it likes."""
    session._participant._check_values = lambda values: None
    return session


def upload(session: Session, value: int) -> np.ndarray:
    values = np.full(session.task.config.n_sealed, value, dtype=np.int32)
    if session.task.config.combine == "weighted":
        values[-1] = 100
    return values


T3 = {"participants": 4, "min_contributions": 3, "max_additions": 64}


@pytest.mark.filterwarnings("ignore::hre_torch.errors.SpoiledReleaseWarning")
@pytest.mark.parametrize("combine", sorted(COMBINE))
@pytest.mark.parametrize("suite", SUITES)
def test_a_release_with_an_upload_of_all_minus_a_half_is_rejected_by_everybody(
    suite, combine, make_federation
):
    federation = make_federation(suite, clip=0.25, **T3, **COMBINE[combine])
    sessions = [federation.join() for _ in federation.names]
    before = sessions[0].released()
    hostile(sessions[0]).push(upload(sessions[0], -(2**15) + 1))
    for session in sessions[1:3]:
        session.push(upload(session, 5))
    # Where a rejection waits for a verdict, the third one settles it.
    opened = {name: [] for name in federation.names}
    for session in (*sessions, *sessions):
        opened[session.name] += session.pull()
    assert [[each.values for each in mine] for mine in opened.values()] == 4 * [[None]]
    for session in sessions:
        assert session.statistics.rejected == 1
        assert np.array_equal(session.released(), before)
    # Nothing is stuck: the next release is applied.
    for session in sessions[:3]:
        session.push(upload(session, 5))
    for session in sessions:
        [opened] = session.pull()
        assert opened.values is not None


def test_without_a_clip_such_a_release_moves_every_weight_by_a_half(make_federation):
    federation = make_federation("plain", combine="sum", **T3)
    sessions = [federation.join() for _ in federation.names]
    before = sessions[3].released()
    for session, value in zip(sessions, (-(2**15) + 1, 0, 0), strict=False):
        session.push(upload(session, value))
    sessions[3].pull()
    assert (sessions[3].released() - before == -(2**15) + 1).all()


def test_a_participant_does_not_seal_what_everybody_would_reject(make_federation):
    session = make_federation("plain", clip=0.25, combine="sum").join()
    with pytest.raises(SlotOverflowError, match="norm"):
        session.push(upload(session, 2**14))
    assert session.push(upload(session, 100)) == 0


def test_releases_with_a_bound_each_are_opened_one_by_one(make_federation):
    for clip, downloads in ((None, 1), (0.25, 2)):
        federation = make_federation("paper", clip=clip, combine="sum")
        a, b, late = (federation.join() for _ in range(3))
        for _ in range(2):
            for session in (a, b):
                session.push(upload(session, 1))
        assert len(late.pull()) == downloads
