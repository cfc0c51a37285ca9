from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from hre_torch.crypto.rlwe import sampling
from hre_torch.crypto.rlwe.sampling import (
    ETA,
    TAIL_BOUND,
    Keystream,
    probabilities,
    sample_gaussian,
)

COUNT = 1_000_000


class Script:
    """A stream that says first what it is told, then what a keystream says."""

    def __init__(self, *scripted: bytes) -> None:
        self.scripted = list(scripted)
        self.stream = Keystream(bytes(32))

    def octets(self, count: int) -> bytes:
        if self.scripted:
            octets = self.scripted.pop(0)
            assert len(octets) == count
            return octets
        return self.stream.octets(count)


@pytest.fixture(scope="module")
def numbers():
    return sample_gaussian(Keystream(b"a fixed key makes a fixed sample"), COUNT)


def signed_probabilities() -> dict[int, float]:
    magnitudes = [float(p) / 2**200 for p in probabilities(200)]
    two_sided = {m: p / 2 for m, p in enumerate(magnitudes) if m}
    return {0: magnitudes[0], **two_sided, **{-m: p for m, p in two_sided.items()}}


def chi_square_is_ordinary(observed: list[int], expected: list[float]) -> bool:
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    freedom = len(observed) - 1
    return abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_probabilities_are_those_of_the_gaussian():
    weights = {x: math.exp(-x * x / (2 * ETA**2)) for x in range(-90, 91)}
    total = sum(weights.values())
    for x, p in signed_probabilities().items():
        assert p == pytest.approx(weights[x] / total, rel=1e-12)


def test_both_tables_together_give_the_exact_probabilities():
    tables = sampling._tables()
    whole = [0, *map(int, tables.boundaries)]
    left_over = 2**15 - whole[-1]
    fine = [
        (int(h) << 64) + int(w) for h, w in zip(tables.high, tables.low, strict=True)
    ]
    fine = [0, *fine, 2**128]
    exact = probabilities(300)
    for m in range(TAIL_BOUND + 1):
        mine = Fraction(left_over * (fine[m + 1] - fine[m]), 2**143)
        if m + 1 < len(whole):
            mine += Fraction(whole[m + 1] - whole[m], 2**15)
        assert abs(mine - Fraction(int(exact[m]), 2**300)) < Fraction(1, 2**138)


def test_few_words_are_left_over():
    assert (2**15 - int(sampling._tables().boundaries[-1])) / 2**15 < 1 / 2100


def test_beyond_the_cut_lies_less_than_2_to_the_minus_147():
    tail = sum(math.exp(-x * x / (2 * ETA**2)) for x in range(TAIL_BOUND + 1, 200))
    assert 2 * tail / (ETA * math.sqrt(2 * math.pi)) < 2**-147


def test_frequencies_pass_a_chi_square_test(numbers):
    expected = {x: COUNT * p for x, p in signed_probabilities().items()}
    cells = [x for x, e in expected.items() if e >= 10]
    observed = [np.count_nonzero(numbers == x) for x in cells]
    observed.append(COUNT - sum(observed))
    rest = COUNT - sum(expected[x] for x in cells)
    assert chi_square_is_ordinary(observed, [*(expected[x] for x in cells), rest])


def test_moments_are_those_of_the_gaussian(numbers):
    x = numbers.astype(np.float64)
    assert abs(x.mean()) < 5 * ETA / math.sqrt(COUNT)
    assert abs(x.var() / ETA**2 - 1) < 5 * math.sqrt(2 / COUNT)
    assert abs((x**3).mean()) / ETA**3 < 5 * math.sqrt(15 / COUNT)
    assert abs((x**4).mean() / ETA**4 - 3) < 5 * math.sqrt(96 / COUNT)


def test_neighbours_are_not_correlated(numbers):
    x = numbers.astype(np.float64) / ETA
    for lag in (1, 2, 64, 65536):
        assert abs((x[lag:] * x[:-lag]).mean()) < 5 / math.sqrt(COUNT)


def test_words_that_are_left_over_follow_the_remainders():
    drawn = sampling._draw_from_remainders(Keystream(bytes(32)), 200_000)
    remainders = [float(p % 2**200) / 2**200 for p in probabilities(215)]
    expected = [200_000 * r / sum(remainders) for r in remainders]
    cells = [m for m, e in enumerate(expected) if e >= 10]
    observed = [np.count_nonzero(drawn == m) for m in cells]
    observed.append(200_000 - sum(observed))
    rest = 200_000 - sum(expected[m] for m in cells)
    assert chi_square_is_ordinary(observed, [*(expected[m] for m in cells), rest])


def test_a_word_on_a_boundary_belongs_to_the_next_magnitude():
    boundaries = sampling._tables().boundaries
    words = np.array([0, boundaries[0] - 1, boundaries[0], boundaries[1]], dtype="<u2")
    numbers = sample_gaussian(Script(words.tobytes()), 4)
    assert numbers.tolist() == [0, 0, 1, 2]


def test_the_top_bit_is_the_sign():
    boundaries = sampling._tables().boundaries
    words = np.array([boundaries[4], boundaries[4] | 0x8000, 0x8000], dtype="<u2")
    assert sample_gaussian(Script(words.tobytes()), 3).tolist() == [5, -5, 0]


def test_the_largest_words_give_the_largest_magnitudes():
    words = np.array([0x7FFF, 0xFFFF], dtype="<u2").tobytes()
    numbers = sample_gaussian(Script(words, bytes([255] * 32)), 2)
    assert numbers.tolist() == [TAIL_BOUND, -TAIL_BOUND]


def test_the_second_half_of_a_fine_draw_decides_a_tie():
    tables = sampling._tables()
    high, low = int(tables.high[2]), int(tables.low[2])
    draws = [(high << 64) + low - 1, (high << 64) + low]
    octets = b"".join(
        (d >> 64).to_bytes(8, "little") + (d % 2**64).to_bytes(8, "little")
        for d in draws
    )
    words = np.array([0x7FFF, 0x7FFF], dtype="<u2").tobytes()
    assert sample_gaussian(Script(words, octets), 2).tolist() == [2, 3]


@pytest.mark.parametrize("count", [0, 1, 65_535, 65_536, 65_537])
def test_any_number_of_numbers_can_be_drawn(count):
    numbers = sample_gaussian(Keystream(bytes(32)), count)
    assert numbers.shape == (count,)
    assert numbers.dtype == np.int8


def test_different_keys_give_unrelated_numbers():
    x = sample_gaussian(Keystream(bytes(32)), 100_000).astype(np.float64)
    y = sample_gaussian(Keystream(bytes(31) + b"\1"), 100_000).astype(np.float64)
    assert abs((x * y).mean()) / ETA**2 < 5 / math.sqrt(100_000)
