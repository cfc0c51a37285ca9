"""`push_every="auto"`: exchanges take at most a share of the time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.errors import UnsupportedError
from hre_torch.optim import HREOptimizer
from hre_torch.optim.settings import Pacing


class Training:
    """Local steps and exchanges that take so many seconds of a clock."""

    def __init__(self, step: float, exchange: float, share: float = 0.2) -> None:
        self.now = 0.0
        self.step, self.exchange = step, exchange
        self.pacing = Pacing("auto", "auto", share, clock=lambda: self.now)
        self.since = 0

    def run(self, steps: int) -> list[int]:
        """Make local steps; return how many there were before each exchange."""
        exchanges = []
        for _ in range(steps):
            self.now += self.step
            self.since += 1
            self.pacing.begin()
            due = self.since >= self.pacing.pull_every
            if due:
                exchanges.append(self.since)
                self.now += self.exchange
                self.since = 0
            self.pacing.end(exchanged=due)
        return exchanges


def test_the_interval_doubles_until_exchanges_take_their_share():
    # 2 s of every 10 s.
    assert Training(step=1.0, exchange=2.0).run(39) == [1, 1, 2, 4, 8, 8, 8]


@given(
    step=st.floats(1e-4, 10.0),
    cost=st.floats(0.01, 300.0),
    share=st.floats(0.05, 0.9),
)
def test_the_share_is_kept_and_no_exchange_is_left_out_that_fits(step, cost, share):
    training = Training(step, cost * step, share)
    training.run(30_000 if cost > 100 else 3_000)
    every = training.pacing.push_every
    assert cost / (cost + every) <= share * (1 + 1e-6)
    assert every == 1 or cost / (cost + every - 1) > share * (1 - 1e-6)


def test_a_pause_and_a_dear_first_exchange_move_nothing_for_long():
    training = Training(step=1.0, exchange=60.0)
    training.run(1)
    training.exchange = 2.0
    training.run(100)
    training.now += 3600.0
    assert set(training.run(100)) == {8}


def test_exchanges_that_become_cheap_come_more_often():
    training = Training(step=1.0, exchange=20.0)
    training.run(1000)
    assert training.pacing.push_every == 80
    training.exchange = 0.1
    training.run(1000)
    assert training.pacing.push_every == 1


def test_a_training_exchanges_by_itself_and_goes_on_where_it_was(
    network, session, batches
):
    def train(optimizer, model):
        for inputs, labels in batches * 3:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, session(model), push_every="auto")
    train(optimizer, model)
    counts = optimizer.session.statistics
    assert counts.pushes == counts.pulls > 1
    assert optimizer.push_every > 1
    state = optimizer.state_dict()
    other = HREOptimizer(inner, optimizer.session, push_every="auto")
    assert other.push_every == 1
    other.load_state_dict(state)
    assert other.push_every == optimizer.push_every
    assert other.state_dict()["hre_torch"]["pacing"] == state["hre_torch"]["pacing"]


def test_what_hre_torch_run_was_told_holds_unless_the_script_says_more(
    network, session
):
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    joined = session(model)
    joined.defaults = {"push_every": "auto"}
    assert HREOptimizer(inner, joined)._pacing.automatic
    assert not HREOptimizer(inner, joined, push_every=3)._pacing.automatic
    joined.defaults = {"push_every": 10, "pull_every": 10}
    assert HREOptimizer(inner, joined, push_every="auto")._pacing.automatic


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"push_every": "auto", "pull_every": 3}, "leave pull_every out"),
        ({"push_every": "often"}, "at least 1, or auto"),
        ({"pull_every": "auto"}, "pull_every is 'auto'"),
        ({"exchange_share": 0}, "exchange_share is 0"),
        ({"exchange_share": 1.0}, "between 0 and 1"),
        ({"exchange_share": float("nan")}, "exchange_share is nan"),
    ],
)
def test_what_cannot_be_meant_is_refused(network, session, settings, told):
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnsupportedError, match=told):
        HREOptimizer(inner, session(model), **settings)
