from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.rlwe import ring
from hre_torch.crypto.rlwe.ring import (
    LARGEST_NORM,
    RING_DIMENSION,
    SmallElement,
    transform,
)
from hre_torch.crypto.rlwe.sampling import ETA
from hre_torch.errors import InvalidElementError

N = RING_DIMENSION
LOWEST, HIGHEST = -(2**31), 2**31 - 1


def to_memory(coefficients):
    """Order x_0 ... x_(N-1) as x_0, x_M, x_1, x_(M+1), ..."""
    return coefficients.reshape(2, N // 2).T.reshape(-1)


def to_coefficients(memory):
    return memory.reshape(N // 2, 2).T.reshape(-1)


def schoolbook(a, s):
    """Multiply by the definition, in whole numbers: |product| < 2^63 for |s| < 2^20."""
    a = to_coefficients(a).astype(np.int64)
    product = np.zeros(2 * N, dtype=np.int64)
    for k, coefficient in enumerate(to_coefficients(s).tolist()):
        product[k : k + N] += a * coefficient
    return to_memory(product[:N] - product[N:])


def multiply(a, s):
    product = np.empty((1, N), dtype=np.uint32)
    SmallElement(s).multiply(transform(a[None]), product)
    return product[0]


def uniform(seed, shape=N):
    generator = np.random.default_rng(seed)
    return generator.integers(LOWEST, HIGHEST, shape, dtype=np.int32, endpoint=True)


def gaussian(seed, width):
    return np.rint(np.random.default_rng(seed).normal(0, width, N)).astype(np.int64)


def of_norm(length):
    """As long as allowed, with equal entries: the rest is put into one of them."""
    s = np.full(N, int(length / N**0.5), dtype=np.int64)
    s[0] = int((length**2 - (s[1:] ** 2).sum()) ** 0.5)
    return s


EXTREME_UNIFORM = {
    "all lowest": np.full(N, LOWEST, dtype=np.int32),
    "all highest": np.full(N, HIGHEST, dtype=np.int32),
    "alternating": np.where(np.arange(N) % 2, LOWEST, HIGHEST).astype(np.int32),
    "halves": np.where(np.arange(N) < N // 2, LOWEST, HIGHEST).astype(np.int32),
    "random signs": np.where(uniform(1) > 0, LOWEST, HIGHEST).astype(np.int32),
    "one": np.eye(1, N, 5, dtype=np.int32)[0] * HIGHEST,
}
EXTREME_SMALL = {
    "longest single limb": of_norm(LARGEST_NORM),
    "shortest pair of limbs": of_norm(LARGEST_NORM + 1),
    "all 40": np.full(N, 40),
    "all -63": np.full(N, -63),
    "all -63 * 64": np.full(N, -63 * 64),
    "all 40 * 128": np.full(N, 40 * 128),
    "alternating 63 * 128": np.where(np.arange(N) % 2, 63 * 128, -63 * 128),
    "random signs of 63": np.where(uniform(2) > 0, 63, -63),
    "zero": np.zeros(N, dtype=np.int64),
}


@pytest.mark.parametrize("s", EXTREME_SMALL.values(), ids=EXTREME_SMALL)
@pytest.mark.parametrize("a", EXTREME_UNIFORM.values(), ids=EXTREME_UNIFORM)
def test_the_product_is_exact_at_the_extremes(a, s):
    assert np.array_equal(multiply(a, s), schoolbook(a, s).astype(np.uint32))


@pytest.mark.parametrize("width", [ETA, ETA * 2, ETA * 8])
def test_the_product_of_uniform_and_gaussian_is_exact(width):
    for seed in range(3):
        a, s = uniform(seed), gaussian(seed, width)
        assert np.array_equal(multiply(a, s), schoolbook(a, s).astype(np.uint32))


@pytest.mark.parametrize("a", EXTREME_UNIFORM.values(), ids=EXTREME_UNIFORM)
def test_the_error_before_rounding_stays_far_below_its_bound(a):
    for s in (EXTREME_SMALL["longest single limb"], gaussian(3, ETA)):
        points = transform(a[None]) * transform(s.astype(np.int32)[None])
        points = np.fft.ifft(points, axis=1) * np.conjugate(ring._weights())
        # The true product has more than 32 but fewer than 53 bits: doubles hold it.
        error = np.abs(points.view(np.float64)[0] - schoolbook(a, s)).max()
        norms = np.linalg.norm(a.astype(float)) * np.linalg.norm(s.astype(float))
        assert error < 140 * 2.0**-53 * norms < 0.5
        assert error < 1 / 16


def test_the_stated_bound_guarantees_correct_rounding():
    assert 140 * 2.0**-53 * (2.0**31 * N**0.5) * LARGEST_NORM < 0.5
    assert 2.0**-53 * np.log2(N) * (2.0**31 * N**0.5) * LARGEST_NORM < 0.25


def test_an_honest_secret_takes_one_limb_and_an_honest_sum_two():
    assert len(SmallElement(gaussian(1, ETA))._limbs) == 1
    assert len(SmallElement(gaussian(1, ETA * 8))._limbs) == 2


def test_every_limb_is_short_enough():
    for s in EXTREME_SMALL.values():
        for limb in ring._short_limbs(s):
            assert np.linalg.norm(limb.astype(float)) <= LARGEST_NORM


def test_multiplying_by_x_to_the_n_changes_the_sign():
    a, shift = uniform(7), np.zeros(N, dtype=np.int64)
    shift[N - 1] = 1
    x = np.zeros(N, dtype=np.int64)
    x[1] = 1
    once = multiply(a, to_memory(shift)).view(np.int32)
    assert np.array_equal(multiply(once, to_memory(x)), (-a).view(np.uint32))


small = st.lists(st.integers(-5000, 5000), min_size=1, max_size=40).map(
    lambda head: np.array(head + [0] * (N - len(head)))
)


@given(s=small, t=small, seed=st.integers(0, 2**32))
def test_the_product_is_linear(s, t, seed):
    a = uniform(seed)
    assert np.array_equal(multiply(a, s + t), multiply(a, s) + multiply(a, t))


@given(s=small)
def test_the_product_with_one_is_the_element(s):
    one = np.eye(1, N, dtype=np.int32)[0]
    assert np.array_equal(multiply(one, s), s.astype(np.uint32))


def test_blocks_are_multiplied_independently():
    a, s = uniform(9, (5, N)), gaussian(9, 30)
    product = np.empty((5, N), dtype=np.uint32)
    SmallElement(s).multiply(transform(a), product)
    for block, expected in zip(product, a, strict=True):
        assert np.array_equal(block, multiply(expected, s))


def test_a_transform_can_be_written_into_given_memory():
    a, out = uniform(4, (2, N)), np.empty((2, N // 2), dtype=np.complex128)
    assert transform(a, out=out) is out
    assert np.array_equal(out, transform(a))


def test_one_element_may_multiply_fewer_and_then_more_blocks():
    a, element = uniform(9, (5, N)), SmallElement(gaussian(9, 5))
    few, many = np.empty((2, N), np.uint32), np.empty((5, N), np.uint32)
    element.multiply(transform(a[:2]), few)
    element.multiply(transform(a), many)
    assert np.array_equal(few, many[:2])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(N - 1, dtype=np.int64),
        np.zeros((1, N), dtype=np.int64),
        np.zeros(N),
        np.full(N, 2**31),
    ],
)
def test_what_is_not_a_small_element_is_refused(wrong):
    with pytest.raises(InvalidElementError, match="2048 signed integers"):
        SmallElement(wrong)


def test_the_repr_shows_nothing_of_a_secret():
    assert "array" not in repr(SmallElement(np.full(N, 17)))
    assert "17" not in repr(SmallElement(np.full(N, 17))).split(" at ")[0]
