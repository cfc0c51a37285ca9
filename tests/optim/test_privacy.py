"""Differential privacy: the noise is as wide as it must be, and only where it must."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from hre_torch.encoding.fixed_point import NearestRounding, StochasticRounding
from hre_torch.errors import UnsupportedError
from hre_torch.optim import GaussianNoise, HREOptimizer
from hre_torch.optim.privacy import discrete_gaussian


class Scripted:
    """A seeded stand-in for the operating system's bytes, so that tests repeat."""

    def __init__(self):
        self.stream = np.random.default_rng(5)

    def octets(self, count):
        return self.stream.bytes(count)


@pytest.mark.parametrize("width", [0.5, 2.0, 4.6, 1000.5])
def test_the_discrete_gaussian_has_the_width_it_was_asked_for(width):
    drawn = discrete_gaussian(width, 200_000, Scripted())
    assert drawn.shape == (200_000,)
    reach = np.arange(-40, 41)
    weights = np.exp(-np.square(reach) / (2 * width**2))
    expected = (
        math.sqrt((weights * reach**2).sum() / weights.sum()) if width < 5 else width
    )
    # Standard deviations of the estimates are below 0.25 % of the width.
    assert abs(drawn.std() / expected - 1) < 0.01
    assert abs(drawn.mean()) < 0.01 * width
    if width < 5:
        shares = np.array([(drawn == x).mean() for x in reach])
        assert abs(shares - weights / weights.sum()).max() < 0.006


def make(federation, network, *, participants=4, **options):
    options = {
        "clip": 0.01,
        "noise_width": 5000.0,
        "min_contributions": 4,
        "assumed_colluders": 1,
        "combine": "mean",
        "max_additions": 4,
    } | options
    return federation(network(), participants=participants, **options)


def optimizer_of(together, model, noise, **options):
    inner = torch.optim.SGD(model.parameters(), lr=0.0)
    return HREOptimizer(inner, together.join(), noise=noise, **options)


def test_the_honest_part_of_a_release_carries_the_noise_that_was_promised(
    federation, network
):
    noise, pushes = GaussianNoise(2.0), []
    # A release may hold 16 updates of each, and all of them are to be protected.
    together = make(federation, network, max_additions=64, max_per_identity=16)
    assert together.task.config.pending_limit == 16
    for _ in range(4):
        session = together.join()
        seal = session.push
        session.push = lambda values, seal=seal: pushes.append(values) or seal(values)
        model = network()
        inner = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer = HREOptimizer(inner, session, noise=noise, pull_every=1000)
        for _ in range(40):
            # Nothing is learned, so that all that is pushed is noise.
            optimizer.push()
            if session.pending >= together.task.config.pending_limit:
                break
    values = np.concatenate(pushes).astype(float)
    sensitivity = 0.01 * 2**16 / 4 + 0.5 * math.sqrt(57)
    honest = 4 - 1
    # 57 values a push; the estimate's deviation is 1 / sqrt(2 N) of the width.
    assert values.size >= 57 * 4 * 8
    for own in (1, 16):
        # With so many of one participant's updates and one of the other honest ones.
        joint = values.std() * math.sqrt(honest - 1 + own)
        least = 2.0 * own * sensitivity
        assert joint > least * (1 - 4 / math.sqrt(2 * values.size))
    assert joint == pytest.approx(least, rel=4 / math.sqrt(2 * values.size))


def test_error_feedback_does_not_take_the_noise_back(federation, network):
    model = network()
    together = federation(model, clip=0.05, noise_width=5000.0, max_additions=1)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = optimizer_of(together, model, GaussianNoise(1.0))
    optimizer.push()
    optimizer.pull()
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert moved.abs().max() > 0
    # Nothing is left: the next push would be empty but for noise of its own.
    optimizer.flush()
    assert optimizer.session.statistics.pushes == 1


def test_a_rounding_of_ones_own_is_covered_as_the_stochastic_one_is(
    federation, network
):
    widths = [
        optimizer_of(
            make(federation, network), network(), GaussianNoise(2.0), rounding=rule
        )._exchange._noise_width
        for rule in (None, NearestRounding(), StochasticRounding(1), np.rint)
    ]
    assert widths[0] == widths[1]
    assert widths[2] == widths[3]
    assert widths[2] - widths[0] == pytest.approx(
        2.0 * 0.5 * math.sqrt(57) / math.sqrt(3)
    )


def test_the_same_seeded_training_without_noise_is_unchanged(federation, network):
    model = network()
    optimizer = optimizer_of(federation(model, clip=0.05), model, None)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.push()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip": None, "noise_width": None}, "set clip"),
        ({"noise_width": 3.0}, "leaves room for noise_width=3.0; make it with"),
        ({"noise_width": None}, "leaves room for noise_width=None"),
        ({"clip": 0.5, "value_bits": 8}, "value_bits="),
        ({"fraction_bits": 2}, "between 2.0 and"),
        ({"assumed_colluders": 4, "suite": "plain"}, "0 honest contributions"),
    ],
)
def test_noise_that_cannot_be_calibrated_is_refused(options, says, federation, network):
    with pytest.raises(UnsupportedError, match=says):
        optimizer_of(
            make(federation, network, **options), network(), GaussianNoise(0.5)
        )


def test_a_multiplier_that_is_no_multiplier_is_refused():
    with pytest.raises(UnsupportedError, match="multiplier is 0"):
        GaussianNoise(0)
    with pytest.raises(UnsupportedError, match="multiplier is '1'"):
        GaussianNoise("1")
    with pytest.raises(UnsupportedError, match="delta is 2"):
        GaussianNoise(1.0).epsilon(1, 2)


@pytest.mark.parametrize("multiplier", [0.7, 2.0, 8.0])
@pytest.mark.parametrize("releases", [1, 30, 1000])
def test_epsilon_is_the_least_over_all_orders(multiplier, releases):
    orders = 1 + np.logspace(-6, 6, 200_001)
    bounds = releases * orders / (2 * multiplier**2) + math.log(1e5) / (orders - 1)
    exact = GaussianNoise(multiplier).epsilon(releases, 1e-5)
    assert exact <= bounds.min() * (1 + 1e-9)
    assert exact == pytest.approx(bounds.min(), rel=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None,
    reason="needs the extra: pip install 'hre-torch[opacus]'",
)
@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_epsilon_agrees_with_the_accountant_of_opacus():
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(50):
        accountant.step(noise_multiplier=4.0, sample_rate=1.0)
    theirs = accountant.get_epsilon(1e-5, alphas=[1 + x / 100 for x in range(1, 9000)])
    ours = GaussianNoise(4.0).epsilon(50, 1e-5)
    # Theirs converts by a later and slightly tighter lemma.
    assert theirs <= ours < 1.1 * theirs
