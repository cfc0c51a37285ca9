from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hre_torch.app.data.load import ImageSet
from hre_torch.app.data.partition import Batches, split_indices
from hre_torch.errors import DataError


def numbered(count, channels=1, size=8):
    """Images whose label is their number, so that a batch tells what it drew."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=stream)
    mean, std = [0.0] * channels, [1.0] * channels
    return ImageSet(pixels.byte(), torch.arange(count), mean=mean, std=std)


@st.composite
def splits(draw):
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=60))
    return {
        "labels": np.array(labels, dtype=np.int64),
        "participants": draw(st.integers(1, min(len(labels), 7))),
        "seed": draw(st.integers(0, 1000)),
        "dirichlet": draw(st.none() | st.floats(1e-3, 1e3)),
    }


@given(splits())
def test_every_image_goes_to_exactly_one_participant(split):
    parts = split_indices(**split)
    everything = np.sort(np.concatenate(parts))
    assert everything.tolist() == list(range(len(split["labels"])))


@given(splits())
def test_shares_differ_by_at_most_one_image(split):
    sizes = [len(part) for part in split_indices(**split)]
    assert len(sizes) == split["participants"]
    assert max(sizes) - min(sizes) <= 1


@given(splits())
def test_the_same_seed_gives_the_same_split(split):
    one, two = split_indices(**split), split_indices(**split)
    assert [part.tolist() for part in one] == [part.tolist() for part in two]


def class_shares(alpha):
    labels = np.repeat(np.arange(10), 600)
    parts = split_indices(labels, 6, seed=0, dirichlet=alpha)
    return np.array([np.bincount(labels[part], minlength=10) / 1000 for part in parts])


def test_a_large_alpha_gives_everybody_all_classes_evenly():
    assert np.abs(class_shares(1e5) - 0.1).mean() < 0.02


def test_a_small_alpha_gives_the_first_participant_almost_one_class():
    # 600 images of a class cannot fill a share of 1,000: two classes are the least.
    assert np.sort(class_shares(0.01)[0])[-2:].sum() > 0.95


def test_a_share_below_one_batch_is_refused():
    labels = np.zeros(99, dtype=np.int64)
    with pytest.raises(DataError, match="participants 24, less than one batch of 25"):
        split_indices(labels, 4, seed=0, batch_size=25)


@pytest.mark.parametrize("dirichlet", [None, 0.3])
def test_shares_are_in_proportion_to_the_sizes_asked_for(dirichlet):
    labels = np.repeat(np.arange(10), 10)
    split = {"seed": 0, "dirichlet": dirichlet, "sizes": [4, 2.5, 1]}
    parts = split_indices(labels, 3, **split)
    assert [len(part) for part in parts] == [53, 34, 13]
    assert np.sort(np.concatenate(parts)).tolist() == list(range(100))
    with pytest.raises(DataError, match=r"make data.sizes more even"):
        split_indices(labels, 3, batch_size=14, **split)


def test_an_epoch_draws_no_image_twice_and_only_own_ones():
    own = np.arange(3, 24, dtype=np.int64)
    batches = Batches(numbered(30), own, 5, seed=0)
    assert len(batches) == 4
    drawn = torch.cat([batches.batch(step)[1] for step in range(4)]).tolist()
    assert len(set(drawn)) == 20
    assert set(drawn) <= set(own.tolist())


def test_epochs_and_participants_have_different_orders():
    own = np.arange(100, dtype=np.int64)
    one, two = (Batches(numbered(100), own, 50, seed=0, participant=i) for i in (0, 1))
    orders = [one.batch(0), one.batch(2), two.batch(0)]
    assert len({tuple(labels.tolist()) for _, labels in orders}) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_depends_on_its_number_alone(channels):
    own = np.arange(40, dtype=np.int64)
    images = numbered(40, channels)
    whole = Batches(images, own, 8, seed=3, augment=True)
    expected = [whole.batch(step) for step in range(12)]
    resumed = Batches(images, own, 8, seed=3, augment=True)
    for step in (11, 4, 7):
        for tensor, other in zip(resumed.batch(step), expected[step], strict=True):
            assert torch.equal(tensor, other)


def test_a_share_smaller_than_a_batch_is_one_batch():
    batches = Batches(numbered(3), np.arange(3), 8, seed=0)
    assert len(batches) == 1
    assert sorted(batches.batch(5)[1].tolist()) == [0, 1, 2]


def shifts_of(image, mirror):
    """All that augmentation may make of one image, margin 1."""
    padded = torch.nn.functional.pad(image[None], [1] * 4, mode="reflect")[0]
    size = image.shape[-1]
    for down in range(3):
        for right in range(3):
            view = padded[:, down : down + size, right : right + size]
            yield view
            if mirror:
                yield view.flip(-1)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_shifts_and_mirrors_colour_images_only(channels):
    images = numbered(64, channels)
    batches = Batches(images, np.arange(64), 64, seed=0, augment=True)
    augmented, labels = batches.batch(0)
    plain, _ = images.batch(labels)
    for image, original in zip(augmented, plain, strict=True):
        allowed = shifts_of(original, mirror=channels == 3)
        assert any(torch.equal(image, view) for view in allowed)
    mirrored = [
        not any(torch.equal(image, view) for view in shifts_of(original, mirror=False))
        for image, original in zip(augmented, plain, strict=True)
    ]
    assert any(mirrored) == (channels == 3)
