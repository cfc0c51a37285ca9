from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hre_torch.crypto.rlwe.ring import transform
from hre_torch.crypto.rlwe.sampling import (
    PIECE_BLOCKS,
    PublicExpansion,
    shared_expansion,
)

N = 2048
PIECE_OCTETS = PIECE_BLOCKS * 16384


def collect(expansion, n_blocks):
    """Copy the pieces: they are valid until the next one only."""
    pieces = [piece.copy() for _, piece in expansion.transforms(n_blocks)]
    return np.concatenate(pieces)


def test_elements_are_a_keystream_keyed_by_the_hash_of_the_task():
    key = hashlib.shake_256(b"hre_torch ring expansion 1" + b"cfg").digest(32)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    octets = encryptor.update(bytes(3 * 8192))
    elements = PublicExpansion(b"cfg").elements(0, 3)
    assert elements.astype("<i4").tobytes() == octets


def test_the_first_words_of_block_five_are_what_they_always_were():
    words = PublicExpansion(bytes(32)).elements(5, 1)[0, :2]
    assert words.tolist() == [1542057124, -456733164]


def test_elements_may_be_asked_for_in_any_order():
    expansion = PublicExpansion(b"cfg")
    assert np.array_equal(expansion.elements(4, 3), expansion.elements(0, 7)[4:])


def test_no_element_repeats_within_an_update():
    elements = PublicExpansion(b"cfg").elements(0, 300)
    assert len(np.unique(elements, axis=0)) == 300


def test_two_tasks_have_different_elements():
    one, other = PublicExpansion(b"one"), PublicExpansion(b"other")
    same = one.elements(0, 4) == other.elements(0, 4)
    assert np.count_nonzero(same) <= 1


def test_elements_are_spread_evenly():
    octets = PublicExpansion(b"cfg").elements(0, 128).view(np.uint8)
    counts = np.bincount(octets.reshape(-1), minlength=256)
    statistic = ((counts - 4096) ** 2 / 4096).sum()
    assert abs(statistic - 255) < 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize("n_blocks", [1, PIECE_BLOCKS, PIECE_BLOCKS + 1, 75])
@pytest.mark.parametrize("cache_octets", [0, PIECE_OCTETS, 1 << 30])
def test_the_store_changes_nothing(n_blocks, cache_octets):
    expansion = PublicExpansion(b"cfg", cache_octets=cache_octets)
    expected = transform(expansion.elements(0, n_blocks))
    for _ in range(2):
        assert np.array_equal(collect(expansion, n_blocks), expected)


def test_pieces_say_which_blocks_they_are():
    slices = [blocks for blocks, _ in PublicExpansion(b"cfg").transforms(40)]
    assert slices == [slice(0, 32), slice(32, 40)]


def test_the_store_stays_within_its_limit():
    expansion = PublicExpansion(b"cfg", cache_octets=2 * PIECE_OCTETS + 1)
    collect(expansion, 5 * PIECE_BLOCKS)
    assert expansion.cached_octets == 2 * PIECE_OCTETS


def test_what_is_kept_is_not_computed_again():
    expansion = PublicExpansion(b"cfg")
    first = next(expansion.transforms(1))[1]
    assert np.shares_memory(first, next(expansion.transforms(1))[1])


def test_threads_may_share_an_expansion():
    expansion = PublicExpansion(b"cfg", cache_octets=PIECE_OCTETS)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(collect(expansion, 70)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(results[0], result) for result in results[1:])


def test_all_roles_of_a_process_share_one_expansion():
    assert shared_expansion(b"cfg") is shared_expansion(b"cfg")
    assert shared_expansion(b"cfg") is not shared_expansion(b"another")
