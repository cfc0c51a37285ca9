from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.encoding import Packing
from hre_torch.errors import ChecksumError, SlotOverflowError, TaskError

REFERENCE = Packing(modulus=2**3071 + 1, value_bits=16, max_additions=256)
SMALL = Packing(modulus=2**511 + 1, value_bits=16, max_additions=256)


def oracle_pack(packing, values):
    """Pack by the formula, one big-integer addition per value."""
    v, width = packing.values_per_plaintext, packing.slot_bits
    plaintexts = []
    for start in range(0, len(values), v):
        group = [int(q) for q in values[start : start + v]]
        m = 1 + (sum(group) << width)
        for i, q in enumerate(group):
            m += q << (width + packing.checksum_bits + i * width)
        plaintexts.append(m)
    return plaintexts


def oracle_digits(packing, m):
    """Read count, checksum and values with centred digits from the lowest slot."""
    width = packing.slot_bits
    digits = []
    widths = [width, packing.checksum_bits] + [width] * packing.values_per_plaintext
    for bits in widths:
        digit = m % 2**bits
        if digit >= 2 ** (bits - 1):
            digit -= 2**bits
        digits.append(digit)
        m = (m - digit) >> bits
    return digits, m


@st.composite
def packings(draw):
    bits = draw(st.integers(200, 1200))
    return Packing(
        modulus=draw(st.integers(2 ** (bits - 1), 2**bits - 1)),
        value_bits=draw(st.integers(2, 24)),
        max_additions=draw(st.integers(1, 1000)),
    )


@st.composite
def packed_updates(draw):
    packing = draw(packings())
    n_values = draw(st.integers(0, 2 * packing.values_per_plaintext + 1))
    count = draw(st.integers(1, min(5, packing.max_additions)))
    number = st.one_of(
        st.integers(-packing.limit, packing.limit),
        st.sampled_from([-packing.limit, packing.limit]),
    )
    updates = draw(
        st.lists(
            st.lists(number, min_size=n_values, max_size=n_values),
            min_size=count,
            max_size=count,
        )
    )
    return packing, [np.array(u, dtype=np.int32) for u in updates]


@given(packed_updates())
def test_packing_agrees_with_the_formula(case):
    packing, updates = case
    for update in updates:
        assert packing.pack(update) == oracle_pack(packing, update)


@given(packed_updates())
def test_unpacking_a_sum_gives_the_sum(case):
    packing, updates = case
    columns = zip(*(packing.pack(update) for update in updates), strict=True)
    residues = [sum(column) % packing.modulus for column in columns]
    values = packing.unpack(residues, updates[0].size, len(updates))
    assert values.dtype == np.int64
    assert values.tolist() == np.sum(updates, axis=0, dtype=np.int64).tolist()


@given(packed_updates())
def test_every_plaintext_leaves_the_guard_bits_free(case):
    packing, updates = case
    # The guard keeps K-fold sums away from n/2, where a sign would flip.
    for m in packing.pack(updates[0]):
        assert abs(packing.max_additions * m) < packing.modulus >> 8


@given(packings())
def test_no_further_value_would_fit(packing):
    width, v = packing.slot_bits, packing.values_per_plaintext
    room = packing.modulus.bit_length() - 8
    assert width + packing.checksum_bits + v * width <= room
    more = (v).bit_length()  # ceil(log2(v + 1)) for v >= 1
    assert 2 * width + more + (v + 1) * width > room


def test_the_reference_workload_takes_876_plaintexts():
    assert REFERENCE.slot_bits == 24
    assert REFERENCE.checksum_bits == 31
    assert REFERENCE.values_per_plaintext == 125
    assert REFERENCE.plaintexts(109_386) == 876


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("packing", [SMALL, REFERENCE], ids=["512", "3072"])
def test_the_most_additions_of_the_largest_values_decode(packing, sign):
    v, most = packing.values_per_plaintext, packing.max_additions
    values = np.full(v + 1, sign * packing.limit, dtype=np.int32)
    residues = [most * m % packing.modulus for m in packing.pack(values)]
    expected = [sign * most * packing.limit] * (v + 1)
    assert packing.unpack(residues, v + 1, most).tolist() == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_one_addition_too_many_is_refused_whatever_is_announced(sign):
    most = SMALL.max_additions
    values = np.full(SMALL.values_per_plaintext, sign * SMALL.limit, dtype=np.int32)
    residues = [(most + 1) * m % SMALL.modulus for m in SMALL.pack(values)]
    with pytest.raises(SlotOverflowError, match="257 plaintexts"):
        SMALL.unpack(residues, values.size, most + 1)
    with pytest.raises((ChecksumError, SlotOverflowError)):
        SMALL.unpack(residues, values.size, most)


@pytest.mark.parametrize("sign", [1, -1])
def test_one_addition_too_many_spoils_the_digits_that_are_read(sign):
    """Shows that the refusal above is needed: slots have room for K, not for K + 1."""
    most, v = SMALL.max_additions, SMALL.values_per_plaintext
    values = np.full(v, sign * SMALL.limit, dtype=np.int32)
    (m,) = SMALL.pack(values)
    digits, _ = oracle_digits(SMALL, (most + 1) * m)
    assert digits[2] != sign * (most + 1) * SMALL.limit


@given(
    st.integers(1, 257),
    st.lists(
        st.sampled_from([-1, 1]),
        min_size=SMALL.values_per_plaintext,
        max_size=SMALL.values_per_plaintext,
    ),
)
def test_a_carry_never_reaches_the_two_service_slots(count, signs):
    values = np.array(signs, dtype=np.int32) * SMALL.limit
    (m,) = SMALL.pack(values)
    digits, _ = oracle_digits(SMALL, count * m)
    assert digits[0] == count
    assert digits[1] == count * int(values.sum())


def test_a_carry_out_of_a_value_slot_breaks_the_checksum():
    (m,) = SMALL.pack(np.full(3, SMALL.limit, dtype=np.int32))
    offset = SMALL.slot_bits + SMALL.checksum_bits
    # A dishonest upload: the value is too wide, checksum and count are as they should.
    forged = m + (1 << (SMALL.slot_bits - 1) << offset)
    with pytest.raises(ChecksumError, match="plaintext 0 do not add up"):
        SMALL.unpack([forged], 3, 1)


def test_a_value_out_of_range_with_a_matching_checksum_is_found():
    (m,) = SMALL.pack(np.zeros(3, dtype=np.int32))
    offset = SMALL.slot_bits + SMALL.checksum_bits
    excess = SMALL.limit + 1
    forged = m + (excess << offset) + (excess << SMALL.slot_bits)
    with pytest.raises(SlotOverflowError, match="out of range"):
        SMALL.unpack([forged], 3, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_plaintext_wider_than_its_slots_is_found(sign):
    (m,) = SMALL.pack(np.zeros(3, dtype=np.int32))
    forged = m + sign * (1 << (SMALL.modulus.bit_length() - 3))
    with pytest.raises(SlotOverflowError, match="wider than its slots"):
        SMALL.unpack([forged % SMALL.modulus], 3, 1)


def test_a_wrong_count_is_found():
    residues = SMALL.pack(np.arange(40, dtype=np.int32))
    residues[1] *= 2
    with pytest.raises(ChecksumError, match="Plaintext 1 counts 2 additions, but 1"):
        SMALL.unpack(residues, 40, 1)


def test_a_missing_plaintext_is_found():
    residues = SMALL.pack(np.arange(40, dtype=np.int32))
    with pytest.raises(ChecksumError, match="2 plaintexts arrived, but 40 values"):
        SMALL.unpack(residues[:2], 40, 1)


def test_a_count_of_none_is_refused():
    with pytest.raises(SlotOverflowError, match="sum of 0 plaintexts"):
        SMALL.unpack([], 0, 0)


@pytest.mark.parametrize("value", [32768, -32768, 2**31 - 1, -(2**31)])
def test_a_value_beyond_its_bits_is_not_packed(value):
    values = np.array([0, 1, value], dtype=np.int32)
    with pytest.raises(SlotOverflowError, match=r"1 values exceed .* at index 2"):
        SMALL.pack(values)


def test_an_empty_update_takes_no_plaintext():
    assert SMALL.pack(np.zeros(0, dtype=np.int32)) == []
    assert SMALL.unpack([], 0, 1).tolist() == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((2**60 + 1, 16, 256), "no room for one value"),
        ((2**511, 1, 256), "value_bits is 1"),
        ((2**511, 33, 256), "value_bits is 33"),
        ((2**511, 16, 0), "max_additions is 0"),
        ((2**3071, 32, 2**31), "exact sums"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(fields, reason):
    with pytest.raises(TaskError, match=reason):
        Packing(*fields)


@pytest.mark.slow
@pytest.mark.parametrize("additions", [100, 256])
def test_a_million_values_survive_the_most_additions(additions):
    packing = Packing(2**3071 + 1, value_bits=16, max_additions=additions)
    stream = np.random.default_rng(0)
    values = stream.integers(-32767, 32768, 1_000_000).astype(np.int32)
    values[::1000] = packing.limit
    values[1::1000] = -packing.limit
    residues = [additions * m % packing.modulus for m in packing.pack(values)]
    decoded = packing.unpack(residues, values.size, additions)
    assert np.array_equal(decoded, additions * values.astype(np.int64))
