"""Every moment is charged to exactly one phase."""

from __future__ import annotations

import contextlib

import pytest

from hre_torch.app.training.phases import PhaseBook


@pytest.fixture
def clock():
    """A clock that tests move by hand."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def test_a_phase_is_not_charged_for_those_inside_it(clock):
    book = PhaseBook(clock=clock)
    participant, servers = book.observer("p0"), book.observer("servers")
    with participant("submit"):
        clock.now += 1.0
        with servers("check"):
            clock.now += 4.0
        with servers("add"):
            clock.now += 8.0
        clock.now += 2.0
    assert book.milliseconds("p0") == {"submit": 3000.0}
    assert book.milliseconds("servers") == {"check": 4000.0, "add": 8000.0}


def test_the_mean_is_over_calls_of_everybody(clock):
    book = PhaseBook(clock=clock)
    for party, seconds in (("p0", 1.0), ("p1", 2.0), ("p1", 6.0)):
        with book.observer(party)("open"):
            clock.now += seconds
    assert book.milliseconds() == {"open": 3000.0}
    assert book.milliseconds("p1") == {"open": 4000.0}


def test_a_phase_that_fails_is_charged_and_leaves_the_book_in_order(clock):
    book = PhaseBook(clock=clock)
    observe = book.observer("p0")
    with observe("train"):
        with contextlib.suppress(ValueError), observe("fetch"):
            clock.now += 5.0
            raise ValueError
        clock.now += 1.0
    assert book.milliseconds("p0") == {"fetch": 5000.0, "train": 1000.0}


def test_a_book_goes_on_from_earlier_totals(clock):
    first = PhaseBook(clock=clock)
    with first.observer("p0")("train"):
        clock.now += 1.0
    second = PhaseBook(first.totals, clock=clock)
    with second.observer("p0")("train"):
        clock.now += 3.0
    assert second.milliseconds("p0") == {"train": 2000.0}


def test_a_party_that_did_nothing_has_no_phases():
    assert PhaseBook().milliseconds("nobody") == {}
