from __future__ import annotations

import multiprocessing
import threading

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.crypto.dcr import fixed_base
from hre_torch.crypto.dcr.fixed_base import (
    FixedBaseTable,
    limit_recipient_tables,
    multiply_powers,
    shared_table,
    table_bytes,
)
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.errors import CryptoError, InvalidElementError

PARAMS = load_profile("toy-insecure")
TABLES = {
    window: FixedBaseTable(PARAMS.g, PARAMS.n, 64, window) for window in (1, 5, 8)
}
# Not an n-th residue, so its twists are not those of a public key.
ODD_BASE = (1 + 12345 * PARAMS.n) * 7 % PARAMS.n_squared
ODD_TABLE = FixedBaseTable(ODD_BASE, PARAMS.n, 64, 6)


@given(st.sampled_from(sorted(TABLES)), st.integers(0, 2**64 - 1))
def test_a_table_gives_the_power_that_powmod_gives(window, exponent):
    expected = gmpy2.powmod(PARAMS.g, exponent, PARAMS.n_squared)
    assert TABLES[window].power(exponent) == expected


@given(st.integers(0, 2**64 - 1))
def test_a_base_outside_the_residues_has_correct_powers_too(exponent):
    expected = gmpy2.powmod(ODD_BASE, exponent, PARAMS.n_squared)
    assert ODD_TABLE.power(exponent) == expected


@pytest.mark.parametrize("window", sorted(TABLES))
@pytest.mark.parametrize("exponent", [0, 1, 2**63, 2**64 - 1])
def test_the_smallest_and_largest_exponents_are_exact(window, exponent):
    expected = gmpy2.powmod(PARAMS.g, exponent, PARAMS.n_squared)
    assert TABLES[window].power(exponent) == expected


@pytest.mark.parametrize("bits", [1, 5, 7, 8, 9, 16, 17])
def test_a_width_that_the_window_does_not_divide_is_covered_to_its_last_bit(bits):
    table = FixedBaseTable(PARAMS.g, PARAMS.n, bits, 8)
    largest = 2**bits - 1
    assert table.power(largest) == gmpy2.powmod(PARAMS.g, largest, PARAMS.n_squared)


@given(st.integers(0, 2**64 - 1), st.integers(), st.integers(1, 2**200))
def test_multiply_joins_factor_plaintext_and_power(exponent, plaintext, factor):
    table = TABLES[5]
    expected = (
        factor
        * (1 + plaintext * PARAMS.n)
        * gmpy2.powmod(PARAMS.g, exponent, PARAMS.n_squared)
        % PARAMS.n_squared
    )
    positions = table.positions(exponent)
    assert table.multiply(mpz(factor), positions, plaintext) == expected


@given(st.integers(0, 2**64 - 1))
def test_positions_hold_for_every_table_of_the_same_shape(exponent):
    table = FixedBaseTable(mpz(4), PARAMS.n, 64, 6)
    positions = ODD_TABLE.positions(exponent)
    expected = gmpy2.powmod(4, exponent, PARAMS.n_squared)
    assert table.multiply(mpz(1), positions) == expected


@pytest.mark.parametrize("exponent", [-1, 2**64, 2**64 + 5])
def test_an_exponent_out_of_range_is_refused_without_being_shown(exponent):
    with pytest.raises(CryptoError, match="0 <= e < 2\\^64") as caught:
        TABLES[8].power(exponent)
    assert str(exponent) not in str(caught.value)


@pytest.mark.parametrize("base", [0, -1, PARAMS.n_squared, PARAMS.n, 3 * PARAMS.n])
def test_a_base_out_of_range_or_not_invertible_is_refused(base):
    with pytest.raises(InvalidElementError, match="base of a table"):
        FixedBaseTable(mpz(base), PARAMS.n, 64, 4)


@pytest.mark.parametrize(("bits", "window"), [(0, 4), (64, 0), (-1, 4)])
def test_a_table_without_bits_or_window_is_refused(bits, window):
    with pytest.raises(CryptoError, match="must be 1 or more"):
        FixedBaseTable(PARAMS.g, PARAMS.n, bits, window)


def test_the_repr_of_a_table_is_short():
    assert len(repr(TABLES[8])) < 100


def test_the_memory_estimate_counts_the_shorter_last_row():
    per_entry = TABLES[8].memory_bytes // (8 * 256)
    assert FixedBaseTable(PARAMS.g, PARAMS.n, 9, 8).memory_bytes == per_entry * 258
    assert table_bytes(PARAMS, 8) == TABLES[8].memory_bytes


def test_the_memory_of_one_large_table_is_7_megabytes_at_3072_bits():
    estimate = table_bytes(load_profile("demo3072"), fixed_base.JOINT_WINDOW)
    assert 6e6 < estimate < 8e6


def test_shared_tables_are_built_once():
    assert shared_table(PARAMS.g, PARAMS) is shared_table(PARAMS.g, PARAMS)
    assert shared_table(PARAMS.g, PARAMS, 3) is not shared_table(PARAMS.g, PARAMS)


def test_a_full_cache_drops_the_table_used_longest_ago():
    cache = fixed_base._TableCache(2 * table_bytes(PARAMS, 4))
    first, second = (cache.table(mpz(base), PARAMS, 4) for base in (4, 9))
    assert cache.table(mpz(4), PARAMS, 4) is first
    cache.table(mpz(25), PARAMS, 4)
    assert cache.table(mpz(4), PARAMS, 4) is first
    assert cache.table(mpz(9), PARAMS, 4) is not second


def test_a_cache_smaller_than_one_table_still_serves():
    cache = fixed_base._TableCache(1)
    for base in (4, 9):
        expected = gmpy2.powmod(base, 77, PARAMS.n_squared)
        assert cache.table(mpz(base), PARAMS, 4).power(77) == expected


def test_threads_that_want_one_table_get_the_same_one():
    cache = fixed_base._TableCache(1 << 30)
    start = threading.Barrier(4)
    found = []

    def fetch():
        start.wait()
        found.append(cache.table(mpz(49), PARAMS, 8))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(table) for table in found}) == 1


def power_in_child(exponent):
    return int(shared_table(PARAMS.g, PARAMS).power(exponent))


def test_a_child_forked_while_a_table_is_built_can_still_build_its_own():
    with (
        fixed_base._shared._lock,
        multiprocessing.get_context("fork").Pool(1) as pool,
    ):
        found = pool.apply_async(power_in_child, (99,)).get(timeout=30)
    assert found == gmpy2.powmod(PARAMS.g, 99, PARAMS.n_squared)


ONE_TABLE = table_bytes(PARAMS, fixed_base.RECIPIENT_WINDOW)


def keys_of(recipient, lanes=2):
    powers = range(lanes * recipient + 2, lanes * (recipient + 1) + 2)
    return [gmpy2.powmod(PARAMS.g, k, PARAMS.n_squared) for k in powers]


def come(cache, recipient, times=1):
    for _ in range(times):
        tables = cache.tables(keys_of(recipient), PARAMS)
    return tables


def test_tables_are_built_two_at_a_time_when_a_recipient_comes_again_and_then_kept():
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    keys = keys_of(0, lanes=5)
    made = [cache.tables(keys, PARAMS) for _ in range(6)]
    assert [len(tables) for tables in made] == [0, 2, 4, 5, 5, 5]
    assert all(x is y for x, y in zip(made[3], made[5], strict=True))
    assert all(x is y for x, y in zip(made[1], made[5], strict=False))


def test_a_recipient_that_comes_once_leaves_no_table():
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    for recipient in range(50):
        assert come(cache, recipient) == ()
    assert cache._bytes == 0


def test_all_tables_of_recipients_stay_within_one_budget():
    cache = fixed_base._RecipientTables(5 * ONE_TABLE)
    for _ in range(10):
        for recipient in range(20):
            come(cache, recipient)
    kept = sum(fixed_base._bytes_of(r) for r in cache._known.values())
    assert kept == cache._bytes == 4 * ONE_TABLE


def test_a_crowd_whose_tables_do_not_fit_takes_nobody_elses():
    cache = fixed_base._RecipientTables(3 * ONE_TABLE)
    first = come(cache, 0, times=2)
    assert come(cache, 1, times=5) == ()
    assert come(cache, 0) == first


def test_who_has_not_come_for_long_makes_room(monkeypatch):
    monkeypatch.setattr(fixed_base, "_LATELY", 3)
    cache = fixed_base._RecipientTables(3 * ONE_TABLE)
    assert len(come(cache, 0, times=3)) == 2
    # Several blocks in a row are one visit.
    assert come(cache, 1, times=20) == ()
    for _ in range(2):
        come(cache, 2)
        come(cache, 1)
    assert len(come(cache, 1)) == 2
    assert come(cache, 0) == ()
    assert cache._bytes == 2 * ONE_TABLE


def test_a_last_block_with_fewer_lanes_uses_the_tables_that_are_there():
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    keys = keys_of(0, lanes=4)
    assert [len(cache.tables(keys[:2], PARAMS)) for _ in range(2)] == [0, 2]
    wide = cache.tables(keys, PARAMS)
    assert len(wide) == 4
    assert cache.tables(keys[:3], PARAMS) == wide[:3]


def test_who_copies_the_first_key_of_another_gets_no_table_of_it():
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    come(cache, 0, times=3)
    copied = [keys_of(0)[0], keys_of(1)[1]]
    assert cache.tables(copied, PARAMS) == ()
    assert len(come(cache, 0)) == 2


def test_a_table_that_could_not_be_made_takes_no_room():
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    bad = [mpz(4), PARAMS.n]
    cache.tables(bad, PARAMS)
    for _ in range(2):
        with pytest.raises(InvalidElementError):
            cache.tables(bad, PARAMS)
    assert cache._bytes == ONE_TABLE


def test_others_do_not_wait_while_a_table_is_built(monkeypatch):
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    come(cache, 0)
    seen = []

    class Watched(FixedBaseTable):
        def __init__(self, *arguments):
            seen.append((come(cache, 1 + len(seen)), come(cache, 0)))
            super().__init__(*arguments)

    monkeypatch.setattr(fixed_base, "FixedBaseTable", Watched)
    assert len(come(cache, 0)) == 2
    assert seen == [((), ())] * 2


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(1, 2**200), min_size=2))
def test_powers_are_the_same_with_tables_and_without(exponent, factors):
    keys = keys_of(7, lanes=len(factors))
    n_squared = PARAMS.n_squared
    expected = tuple(
        factor * gmpy2.powmod(key, exponent, n_squared) % n_squared
        for factor, key in zip(factors, keys, strict=True)
    )
    for _ in range(4):
        assert multiply_powers(factors, keys, mpz(exponent), PARAMS) == expected


@pytest.mark.parametrize("visits", [1, 5])
def test_an_exponent_out_of_range_is_refused_with_tables_and_without(visits):
    keys = keys_of(100 + visits)
    for _ in range(visits):
        multiply_powers([1, 1], keys, mpz(5), PARAMS)
    with pytest.raises(CryptoError, match="0 <= e < 2\\^64"):
        multiply_powers([1, 1], keys, mpz(2**64), PARAMS)


def test_a_server_may_be_told_to_build_none(monkeypatch):
    cache = fixed_base._RecipientTables(100 * ONE_TABLE)
    monkeypatch.setattr(fixed_base, "_recipients", cache)
    limit_recipient_tables(0)
    for _ in range(5):
        multiply_powers([1, 1], keys_of(0), mpz(5), PARAMS)
    assert cache._bytes == 0
    with pytest.raises(CryptoError, match="use 0 or more"):
        limit_recipient_tables(-1)
