from __future__ import annotations

import re
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets

from hre_torch.app.data.load import default_root, load_data
from hre_torch.errors import DataError


@pytest.fixture
def no_network(monkeypatch):
    """Let every download of torchvision fail as it does without a network."""

    def unreachable(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", unreachable)
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", unreachable)


@pytest.fixture
def pictures(tmp_path):
    """An image folder of two classes, 6 x 4 pixels each."""
    shade = 0
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                shade += 10
                image = Image.new("RGB", (6, 4), (shade, 0, 255))
                image.save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def test_digits_come_without_a_download():
    data = load_data("digits", root="/nowhere")
    assert (len(data.train), len(data.test), data.train.shape) == (1437, 360, (1, 8, 8))
    assert data.classes == tuple("0123456789")


def test_the_test_digits_do_not_depend_on_the_seed():
    one, two = (load_data("digits", train_size=100, seed=seed) for seed in (0, 1))
    assert torch.equal(one.test.pixels, two.test.pixels)
    assert not torch.equal(one.train.pixels, two.train.pixels)


def test_images_are_normalised():
    images, _ = load_data("digits").train.batch(torch.arange(1437))
    assert images.dtype == torch.float32
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01


def test_drawing_by_batch_by_item_and_in_order_gives_the_same_images():
    images = load_data("digits").test
    batch, labels = images.batch(torch.arange(len(images)))
    loaded = list(DataLoader(images, batch_size=100))
    ordered = list(images.batches(70))
    for parts in (loaded, ordered):
        assert torch.equal(torch.cat([part[0] for part in parts]), batch)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_train_size_keeps_that_many_different_images():
    kept = load_data("digits", train_size=50).train
    assert len(kept) == 50
    assert len({tuple(p.flatten().tolist()) for p in kept.pixels}) == 50


@pytest.mark.parametrize("size", [0, 1438])
def test_a_train_size_that_cannot_be_met_is_refused(size):
    with pytest.raises(DataError, match=f"is {size}, but digits has 1437"):
        load_data("digits", train_size=size)


def test_an_unknown_data_set_is_refused_with_its_nearest_spelling():
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        load_data("minst")


def test_the_environment_names_the_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HRE_TORCH_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("HRE_TORCH_DATA")
    assert default_root().parts[-2:] == (".cache", "hre_torch")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "files"),
    [
        (
            "mnist",
            [
                "MNIST/raw/train-images-idx3-ubyte",
                "MNIST/raw/train-labels-idx1-ubyte",
                "MNIST/raw/t10k-images-idx3-ubyte",
                "MNIST/raw/t10k-labels-idx1-ubyte",
            ],
        ),
        (
            "cifar10",
            [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)]
            + ["cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"],
        ),
    ],
)
def test_without_a_network_the_error_says_which_files_go_where(tmp_path, name, files):
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        load_data(name, tmp_path)
    for file in files:
        assert str(tmp_path / file) in str(caught.value)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\x08\x03\0\0", b"x" * 999])
def test_mnist_files_that_are_cut_off_or_something_else_are_called_damaged(
    tmp_path, content
):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match="is damaged") as caught:
        load_data("mnist", tmp_path)
    assert str(folder / "t10k-labels-idx1-ubyte") in str(caught.value)


def test_cifar10_arrays_become_channels_first(monkeypatch, tmp_path):
    class Stored:
        def __init__(self, root, train, download):
            self.data = np.zeros((3, 32, 32, 3), dtype=np.uint8)
            self.data[:, 1, 2, 0] = [1, 2, 3]
            self.targets = [7, 8, 9]
            self.classes = list("abcdefghij")

        def __len__(self):
            return 3

    monkeypatch.setattr(datasets, "CIFAR10", Stored)
    data = load_data("cifar10", tmp_path)
    assert data.train.shape == (3, 32, 32)
    assert data.train.pixels[:, 0, 1, 2].tolist() == [1, 2, 3]
    assert data.train.labels.tolist() == [7, 8, 9]


def test_an_image_folder_is_read_in_full(pictures):
    data = load_data("imagefolder", pictures)
    assert data.classes == ("cat", "dog")
    assert data.train.shape == (3, 4, 6)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert data.train.pixels[:, 0, 0, 0].tolist() == list(range(10, 110, 10))
    assert (data.test.pixels[:, 2] == 255).all()


def test_an_image_folder_can_be_read_in_part(pictures):
    assert len(load_data("imagefolder", pictures, train_size=3).train) == 3


def test_a_missing_image_folder_says_how_it_must_look(tmp_path):
    expected = re.escape(f"{tmp_path}/train/CLASS/IMAGE")
    with pytest.raises(DataError, match=expected):
        load_data("imagefolder", tmp_path)


def test_an_image_of_another_size_is_named(pictures):
    odd = pictures / "train" / "dog" / "odd.png"
    Image.new("RGB", (7, 4)).save(odd)
    with pytest.raises(DataError, match=re.escape(f"{odd} is 4 x 7")):
        load_data("imagefolder", pictures)


def test_a_damaged_image_is_named(pictures):
    bad = pictures / "train" / "dog" / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=re.escape(f"{bad} is not a readable image")):
        load_data("imagefolder", pictures)


def test_a_class_without_test_images_is_named(pictures):
    (pictures / "train" / "eel").mkdir()
    Image.new("RGB", (6, 4)).save(pictures / "train" / "eel" / "0.png")
    with pytest.raises(DataError, match="in one only: eel"):
        load_data("imagefolder", pictures)


@pytest.mark.data
def test_real_mnist_is_found_without_a_download(data_root, no_network):
    data = load_data("mnist", data_root)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    images, _ = data.train.batch(torch.arange(5_000))
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02
