from __future__ import annotations

import os

import numpy as np
import pytest

from hre_torch.errors import StoreError
from hre_torch.protocol.suites.hybrid import WordStore

N_WORDS = (1 << 18) + 5


def random_words(seed):
    return np.random.default_rng(seed).integers(2**32, size=N_WORDS, dtype=np.uint32)


@pytest.fixture(params=[0, 1 << 30], ids=["file", "memory"])
def store(request):
    return WordStore(N_WORDS, least_octets=request.param)


def test_words_come_back_as_they_were(store):
    kept = [store.keep(random_words(seed)) for seed in range(3)]
    for seed in (2, 0, 1):
        assert np.array_equal(kept[seed].copy(), random_words(seed))
        pieces = list(kept[seed].pieces())
        assert np.array_equal(np.concatenate(pieces), random_words(seed))
        assert not any(piece.flags.writeable for piece in pieces)


def test_a_copy_may_be_changed(store):
    kept = store.keep(random_words(1))
    kept.copy()[:] = 0
    assert np.array_equal(kept.copy(), random_words(1))


def test_the_place_of_what_nobody_needs_is_used_again():
    store = WordStore(N_WORDS, least_octets=0)
    kept = [store.keep(random_words(seed)) for seed in range(3)]
    size = os.fstat(store._descriptor).st_size
    del kept[1]
    kept.append(store.keep(random_words(7)))
    assert os.fstat(store._descriptor).st_size == size == 3 * 4 * N_WORDS
    for words, seed in zip(kept, (0, 2, 7), strict=True):
        assert np.array_equal(words.copy(), random_words(seed))


def test_the_file_has_no_name_and_goes_with_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = WordStore(N_WORDS, least_octets=0)
    kept = store.keep(random_words(1))
    assert list(tmp_path.iterdir()) == []
    descriptor = store._descriptor
    del store
    assert np.array_equal(kept.copy(), random_words(1))
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_full_disk_is_named_and_keeps_no_place(monkeypatch):
    store = WordStore(N_WORDS, least_octets=0)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match=r"No space left.*TMPDIR"):
            store.keep(random_words(1))
    assert np.array_equal(store.keep(random_words(2)).copy(), random_words(2))
    assert os.fstat(store._descriptor).st_size == 4 * N_WORDS


def test_a_file_that_was_cut_is_noticed():
    store = WordStore(N_WORDS, least_octets=0)
    kept = store.keep(random_words(1))
    os.ftruncate(store._descriptor, 4 * N_WORDS - 1)
    with pytest.raises(StoreError, match="cut the temporary file"):
        kept.copy()
