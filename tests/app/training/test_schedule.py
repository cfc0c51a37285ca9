"""The order of steps is a function of the recipe, and survives an interruption."""

from __future__ import annotations

from itertools import islice

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.app.training.schedule import Schedule, ScheduleState

SPEEDS = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4)


@given(SPEEDS, st.integers(0, 5), st.integers(0, 2**32))
def test_everybody_takes_exactly_its_steps(speeds, steps, seed):
    counts = [steps + i for i in range(len(speeds))]
    turns = list(Schedule(speeds, counts, jitter=0.3, seed=seed))
    for i, count in enumerate(counts):
        assert [t.step for t in turns if t.participant == i] == list(range(count))


@given(SPEEDS, st.integers(0, 2**32))
def test_simulated_time_never_runs_backwards(speeds, seed):
    turns = list(Schedule(speeds, [9] * len(speeds), jitter=0.9, seed=seed))
    assert [t.time for t in turns] == sorted(t.time for t in turns)
    assert all(t.time > 0 for t in turns)


@given(SPEEDS, st.integers(0, 12), st.integers(0, 2**32))
def test_a_schedule_goes_on_from_its_state_as_if_never_interrupted(speeds, cut, seed):
    def schedule(state=None):
        counts = [5] * len(speeds)
        return Schedule(speeds, counts, jitter=0.5, seed=seed, state=state)

    whole = list(schedule())
    first = schedule()
    head = list(islice(first, cut))
    stored = msgspec.msgpack.encode(first.state())
    state = msgspec.msgpack.decode(stored, type=ScheduleState)
    assert head + list(schedule(state)) == whole


def test_a_schedule_goes_on_across_the_blocks_in_which_durations_are_drawn():
    def schedule(state=None):
        return Schedule([1.0, 1.5], [1500, 1500], jitter=0.5, seed=3, state=state)

    whole = list(schedule())
    first = schedule()
    head = list(islice(first, 2100))
    assert head + list(schedule(first.state())) == whole


def test_a_participant_twice_as_fast_takes_twice_as_many_turns():
    turns = islice(Schedule([1.0, 2.0], [400, 400], jitter=0.2, seed=1), 300)
    fast = sum(turn.participant for turn in turns)
    assert fast == pytest.approx(200, abs=5)


def test_another_seed_gives_another_order():
    orders = [
        [t.participant for t in Schedule([1.0] * 3, [9] * 3, jitter=0.5, seed=seed)]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]
