"""From a plaintext update back to the picture, and what sums and ciphertexts show."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.attacks.a09_two_downloads import two_downloads, watch
from benchmarks.attacks.inversion import Victim, invert, rows
from benchmarks.attacks.pictures import best_images, draw_inversion, recovered
from hre_torch.app.data.load import load_data


@pytest.fixture(scope="module")
def digits():
    return load_data("digits").train


@pytest.mark.parametrize("seed", range(20))
def test_the_update_of_a_batch_of_one_gives_back_its_picture_exactly(digits, seed):
    victim = Victim.of(digits, seed)
    [index] = victim.draw(1, seed)
    shown = invert(victim.update(index).astype(np.int64), *victim.shape)
    assert (victim.pixels(shown) == victim.true_pixels(index)).all()


def test_an_update_without_any_change_gives_no_picture(digits):
    victim = Victim.of(digits, 0)
    nothing = np.zeros_like(victim.initial())
    assert not invert(nothing, *victim.shape).any()
    assert len(rows(nothing, *victim.shape)) == 0


def test_a_sum_of_single_pictures_still_shows_one_where_a_neuron_fired_for_it_alone(
    digits,
):
    victim = Victim.of(digits, 0)
    indices = victim.draw(3, 0)
    view = watch("gated", victim, indices, 0, "toy-insecure")
    wanted = victim.true_pixels(indices[0])
    shown = [victim.pixels(row) for row in rows(two_downloads(view), *victim.shape)]
    closest = min(np.abs(pixels - wanted).max() for pixels in shown)
    mixture = victim.pixels(invert(two_downloads(view), *victim.shape))
    assert closest <= 1 < np.abs(mixture - wanted).max()


def test_the_panels_show_the_picture_itself_then_noise_then_a_mixture(digits):
    true, stolen, noise, mixture = recovered(digits, seed=3).values()
    assert (stolen == true).all()
    assert abs(np.corrcoef(noise, true)[0, 1]) < 0.5
    assert 0.2 < np.corrcoef(mixture, true)[0, 1] < 0.999


def test_the_panels_are_drawn_into_a_png_file(tmp_path, digits):
    path = draw_inversion(tmp_path / "inversion.png", digits)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.data
def test_mnist_is_drawn_where_it_lies_on_disk(data_root):
    assert best_images().shape == (1, 28, 28)


@pytest.mark.data
def test_an_mnist_digit_is_recovered_exactly(data_root):
    victim = Victim.of(best_images(), 5)
    [index] = victim.draw(1, 5)
    shown = invert(victim.update(index).astype(np.int64), *victim.shape)
    assert (victim.pixels(shown) == victim.true_pixels(index)).all()
