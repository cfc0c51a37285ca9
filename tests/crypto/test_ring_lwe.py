from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hre_torch.crypto.entropy import Entropy
from hre_torch.crypto.rlwe import masking
from hre_torch.crypto.rlwe.masking import accumulate, encode_numbers, mask, unmask
from hre_torch.crypto.rlwe.parameters import RingParameters
from hre_torch.crypto.rlwe.ring import SmallElement, transform
from hre_torch.crypto.rlwe.sampling import ETA, TAIL_BOUND, PublicExpansion
from hre_torch.errors import (
    ChecksumError,
    DecryptionError,
    InvalidElementError,
    SlotOverflowError,
)

PARAMETERS = RingParameters(value_bits=16, max_additions=64)
EXPANSION = PublicExpansion(b"a task")
DELTA = 2**10


class ScriptedEntropy(Entropy):
    """Always the same bytes: for tests that compare two runs."""

    def octets(self, count: int) -> bytes:
        return bytes(range(count))


def random_values(seed, n_values, parameters=PARAMETERS):
    limit = parameters.limit
    generator = np.random.default_rng(seed)
    return generator.integers(-limit, limit + 1, n_values, dtype=np.int32)


def add_up(updates, parameters=PARAMETERS):
    """Mask every update and return the sum of words and the sum of secrets."""
    total = np.zeros(parameters.words(updates[0].size), dtype=np.uint32)
    secret_sum = np.zeros(2048, dtype=np.int64)
    for values in updates:
        masked = mask(values, parameters, EXPANSION)
        accumulate(total, masked.words)
        secret_sum += masked.secret
    return total, secret_sum


def open_sum(total, secret_sum, count, n_values, parameters=PARAMETERS):
    return unmask(total, secret_sum, count, n_values, parameters, EXPANSION)


def change(total, index, by):
    # A slice of one word: single words warn when they wrap around, arrays do not.
    total[index : index + 1] += np.uint32(by % 2**32)


@pytest.fixture
def three():
    """Three updates of two blocks: values, sum of words, sum of secrets."""
    updates = [random_values(seed, 3000) for seed in range(3)]
    return sum(u.astype(np.int64) for u in updates), *add_up(updates)


@pytest.mark.parametrize("n_values", [1, 2044, 2045, 2046, 4090, 70_000])
def test_what_is_masked_can_be_opened(n_values):
    values = random_values(n_values, n_values)
    assert np.array_equal(open_sum(*add_up([values]), 1, n_values), values)


def test_an_empty_update_has_no_words():
    values = np.zeros(0, dtype=np.int32)
    assert open_sum(*add_up([values]), 1, 0).size == 0


bounded = st.lists(st.integers(-32767, 32767), min_size=6, max_size=6)


@settings(max_examples=50)
@given(updates=st.lists(bounded, min_size=1, max_size=8))
def test_the_sum_of_masks_opens_to_the_sum_of_values(updates):
    arrays = [np.array(u, dtype=np.int32) for u in updates]
    opened = open_sum(*add_up(arrays), len(arrays), 6)
    assert opened.tolist() == np.sum(updates, axis=0).tolist()


@pytest.mark.parametrize(("b", "K"), [(16, 64), (20, 4), (12, 64)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_open_exactly(b, K, sign):
    parameters = RingParameters(b, K)
    values = np.full(2050, sign * parameters.limit, dtype=np.int32)
    opened = open_sum(*add_up([values] * K, parameters), K, 2050, parameters)
    assert (opened == sign * K * parameters.limit).all()


@pytest.mark.parametrize("value", [32768, -32768, 2**31 - 1, -(2**31)])
def test_a_value_of_too_many_bits_is_refused(value):
    values = np.zeros(70_000, dtype=np.int32)
    values[68_000] = value
    with pytest.raises(SlotOverflowError, match="index 68000 exceeds \\+-32767"):
        mask(values, PARAMETERS, EXPANSION)


def test_every_encoded_number_obeys_the_limit_at_the_extremes():
    for b in (12, 15, 16, 22):
        parameters = RingParameters(b, 1)
        for sign in (1, -1):
            values = np.full(2045, sign * parameters.limit, dtype=np.int32)
            numbers = encode_numbers(values, 0, parameters)
            assert np.abs(numbers).max() <= parameters.limit


def test_checksum_digits_are_centred_in_base_2_to_the_b_minus_1():
    values = np.array([32767, 32767, -5], dtype=np.int32)
    count, low, high = encode_numbers(values, 0, PARAMETERS)[0, :3].tolist()
    assert count == 1
    assert low + 2**15 * high == 65529
    assert -(2**14) <= low < 2**14


def test_words_follow_the_equation():
    values = random_values(1, 2045)
    masked = mask(values, PARAMETERS, EXPANSION)
    product = np.empty((1, 2048), dtype=np.uint32)
    SmallElement(masked.secret).multiply(transform(EXPANSION.elements(0, 1)), product)
    noisy = (masked.words - product[0]).view(np.int32)[3:]
    errors = noisy - DELTA * values
    assert np.abs(errors).max() <= TAIL_BOUND
    assert abs(errors.std() - ETA) < 0.5


def test_secrets_are_small_and_of_the_right_width():
    secret = mask(random_values(1, 5), PARAMETERS, EXPANSION).secret
    assert secret.shape == (2048,)
    assert np.abs(secret).max() <= TAIL_BOUND
    assert abs(secret.std() - ETA) < 0.5


def test_two_masks_of_the_same_values_share_nothing():
    values = random_values(1, 4090)
    one, other = (mask(values, PARAMETERS, EXPANSION) for _ in range(2))
    assert np.count_nonzero(one.words == other.words) <= 1
    assert np.count_nonzero(one.secret == other.secret) < 400


def test_all_secret_randomness_comes_from_entropy():
    values = random_values(1, 4090)
    runs = [
        mask(values, PARAMETERS, EXPANSION, entropy=ScriptedEntropy()) for _ in range(2)
    ]
    assert np.array_equal(runs[0].words, runs[1].words)
    assert np.array_equal(runs[0].secret, runs[1].secret)


def test_masked_words_look_uniform():
    words = mask(np.zeros(300_000, np.int32), PARAMETERS, EXPANSION).words
    counts = np.bincount(words >> np.uint32(22), minlength=1024)
    expected = words.size / 1024
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - 1023) < 5 * (2 * 1023) ** 0.5


def test_the_repr_shows_neither_words_nor_secret():
    assert (
        repr(mask(random_values(1, 5), PARAMETERS, EXPANSION)) == "Masked(2048 words)"
    )


def test_opening_leaves_its_arguments_as_they_are(three):
    _, total, secret_sum = three
    before = total.copy(), secret_sum.copy()
    total.flags.writeable = False
    open_sum(total, secret_sum, 3, 3000)
    assert np.array_equal(total, before[0])
    assert np.array_equal(secret_sum, before[1])


def test_more_additions_than_the_task_allows_are_refused(three):
    _, total, secret_sum = three
    for count in (0, 65):
        with pytest.raises(SlotOverflowError, match="1 to 64"):
            open_sum(total, secret_sum, count, 3000)


def test_another_count_than_was_announced_is_rejected(three):
    _, total, secret_sum = three
    with pytest.raises(ChecksumError, match="block 0 counts 3 updates, but 4"):
        open_sum(total, secret_sum, 4, 3000)


@pytest.mark.parametrize("index", [0, 2047])
def test_a_shifted_secret_sum_does_not_open(three, index):
    _, total, secret_sum = three
    secret_sum[index] += 1
    with pytest.raises(DecryptionError):
        open_sum(total, secret_sum, 3, 3000)


def test_a_secret_sum_out_of_range_does_not_open(three):
    _, total, secret_sum = three
    secret_sum[4] = PARAMETERS.residual_limit(3) + 1
    with pytest.raises(DecryptionError):
        open_sum(total, secret_sum, 3, 3000)


@pytest.mark.parametrize("n_values", [1, 24, 3000])
def test_a_shifted_secret_does_not_open_in_the_largest_sum(n_values):
    updates = [random_values(seed, n_values) for seed in range(64)]
    total, secret_sum = add_up(updates)
    opened = open_sum(total, secret_sum, 64, n_values)
    assert np.array_equal(opened, sum(updates))
    secret_sum[7] -= 1
    with pytest.raises(DecryptionError):
        open_sum(total, secret_sum, 64, n_values)


def test_noise_that_no_single_word_gives_away_does_not_open(three):
    _, total, secret_sum = three
    # Every word of the first block moves by less than ten deviations.
    total[:2048] += np.uint32(40)
    assert PARAMETERS.residual_limit(3) > 100
    with pytest.raises(DecryptionError):
        open_sum(total, secret_sum, 3, 3000)


def test_a_secret_sum_longer_than_honest_ones_add_up_to_does_not_open(three):
    secret_sum = three[2]
    secret_sum[:] = 30 * np.sign(secret_sum)
    assert np.abs(secret_sum).max() < PARAMETERS.residual_limit(3)
    with pytest.raises(DecryptionError):
        masking._check_secret(secret_sum, 3, PARAMETERS)


@pytest.mark.parametrize("n_values", [1, 24, 2044])
def test_the_first_block_is_sent_whole_and_checked_whole(n_values):
    values = random_values(n_values, n_values)
    total, secret_sum = add_up([values])
    assert total.size == 2048
    for by in (DELTA, -DELTA):
        spoiled = total.copy()
        change(spoiled, 3 + n_values, by)
        # Even where the checksum agrees.
        change(spoiled, 1, by)
        with pytest.raises(ChecksumError, match="behind the last one"):
            open_sum(spoiled, secret_sum, 1, n_values)
    change(total, 2047, 200)
    with pytest.raises(DecryptionError):
        open_sum(total, secret_sum, 1, n_values)


@pytest.mark.parametrize("index", [1, 3, 2047, 2048, 3005])
def test_noise_beyond_ten_deviations_does_not_open(three, index):
    _, total, secret_sum = three
    change(total, index, 200)
    with pytest.raises(DecryptionError):
        open_sum(total, secret_sum, 3, 3000)


@pytest.mark.parametrize("index", [3, 2047, 2051, 3005])
def test_a_shift_of_one_value_is_rejected_by_the_checksum(three, index):
    _, total, secret_sum = three
    change(total, index, DELTA)
    with pytest.raises(ChecksumError, match=f"block {index // 2048}"):
        open_sum(total, secret_sum, 3, 3000)


def test_two_wraps_that_cancel_modulo_the_plaintexts_are_rejected(three):
    expected, total, secret_sum = three
    # Each is half the plaintext modulus 2^22: together they change no sum modulo it.
    for index in np.flatnonzero(expected[:2045] > 0)[:2]:
        change(total, 3 + index, DELTA << 21)
    with pytest.raises(ChecksumError, match="do not add up"):
        open_sum(total, secret_sum, 3, 3000)


def test_sums_that_honest_values_cannot_reach_are_rejected(three):
    _, total, secret_sum = three
    # A change that its own checksum confirms: only the range gives it away.
    change(total, 10, DELTA * 8 * 2**15)
    change(total, 2, DELTA * 8)
    with pytest.raises(SlotOverflowError, match="3 values of 16 bits"):
        open_sum(total, secret_sum, 3, 3000)


def test_a_sum_of_another_task_does_not_open(three):
    _, total, secret_sum = three
    with pytest.raises(DecryptionError):
        unmask(total, secret_sum, 3, 3000, PARAMETERS, PublicExpansion(b"another"))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(3005, np.uint32), np.zeros((1, 3006), np.uint32), np.zeros(3006)],
)
def test_words_of_another_shape_or_type_are_refused(three, wrong):
    _, total, secret_sum = three
    with pytest.raises(InvalidElementError, match="expected"):
        open_sum(wrong, secret_sum, 3, 3000)
    with pytest.raises(InvalidElementError, match="expected"):
        accumulate(total, wrong)


def test_adding_goes_on_in_place_and_wraps_around():
    total = np.array([2**32 - 1, 5], dtype=np.uint32)
    accumulate(total, np.array([2, 7], dtype=np.uint32))
    assert total.tolist() == [1, 12]


def test_without_a_store_of_transforms_the_result_is_the_same(three):
    expected, total, secret_sum = three
    bare = PublicExpansion(b"a task", cache_octets=0)
    opened = unmask(total, secret_sum, 3, 3000, PARAMETERS, bare)
    assert np.array_equal(opened, expected)


def test_temporary_memory_does_not_grow_with_the_model():
    bare = PublicExpansion(b"a task", cache_octets=0)
    values = random_values(3, 1_500_000)
    tracemalloc.start()
    try:
        masked = mask(values, PARAMETERS, bare)
        peak_of_mask = tracemalloc.get_traced_memory()[1] - masked.words.nbytes
        secret_sum = masked.secret.astype(np.int64)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        opened = unmask(masked.words, secret_sum, 1, values.size, PARAMETERS, bare)
        peak_of_unmask = tracemalloc.get_traced_memory()[1] - before - opened.nbytes
    finally:
        tracemalloc.stop()
    assert np.array_equal(opened, values)
    assert max(peak_of_mask, peak_of_unmask) < 8 << 20
