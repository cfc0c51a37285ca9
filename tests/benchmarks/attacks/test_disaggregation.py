"""Lists name identities, so many sums can be solved for each one's mean update.

Whoever may open releases may do it, whichever suite carries them (`plain` here). The
README says so under "What it does not protect against".
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hre_torch.optim.federation import Federation

PARTICIPANTS, CONTRIBUTORS, RELEASES = 6, 3, 20
SPREAD = 0.35
"""Of one participant's updates around their mean, in units of that mean's size."""


def solved(noise: float) -> np.ndarray:
    """Return the correlation of solved and true mean updates, of each participant.

    Args:
        noise: width of what every participant adds to its updates, in units of the
            mean update's size.
    """
    drawn = np.random.default_rng(11)
    torch.manual_seed(7)
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=PARTICIPANTS,
        min_contributions=CONTRIBUTORS,
        suite="plain",
        profile="toy-insecure",
    ) as federation:
        sessions = [federation.join() for _ in federation.names]
        size = federation.task.config.n_values
        mean = drawn.normal(0, 500, (PARTICIPANTS, size))
        pushed: list[list[np.ndarray]] = [[] for _ in sessions]
        lists, sums = [], []
        for _ in range(RELEASES):
            for index in drawn.permutation(PARTICIPANTS)[:CONTRIBUTORS]:
                update = mean[index] + drawn.normal(0, 500 * SPREAD, size)
                pushed[index].append(update)
                sealed = update + drawn.normal(0, 500 * noise, size)
                sessions[index].push(np.rint(sealed).astype(np.int32))
            for session in sessions:
                [opened] = session.pull()
            names = {item.name for item in opened.uploads}
            lists.append([session.name in names for session in sessions])
            sums.append(opened.values)
    found = np.linalg.lstsq(np.array(lists, float), np.array(sums, float), rcond=None)
    return np.array(
        [
            np.corrcoef(guess, np.mean(truth, axis=0))[0, 1]
            for guess, truth in zip(found[0], pushed, strict=True)
        ]
    )


def test_twenty_sums_of_three_of_six_show_each_ones_mean_update():
    correlations = solved(noise=0.0)
    assert correlations.min() > 0.95
    assert correlations.mean() == pytest.approx(0.97, abs=0.02)


def test_noise_before_sealing_bounds_what_sums_show():
    assert solved(noise=4.0).max() < 0.5
