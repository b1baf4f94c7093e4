"""Random changes of images."""

import numpy as np
import pytest
from PIL import Image

from headwater.errors import InputError
from headwater.finetune.augment import FAMILIES, Augmentation, parse_augmentation

pytest.importorskip("torchvision")


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (8, 6, 3), np.uint8)).resize((60, 80), Image.Resampling.BICUBIC)
    return pixels


def drawn(family, image, n=12):
    return [np.asarray(Augmentation((family,))(image, np.random.default_rng([1, i]))) for i in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_changes_images_by_what_is_drawn_alone(image, family):
    """The same draw gives the same pixels, other draws give others, and the image that came is left as it was."""
    before = np.asarray(image).copy()
    first, again = drawn(family, image), drawn(family, image)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    kinds = {one.tobytes() for one in first}
    assert len(kinds) > 2
    assert all(one.dtype == np.uint8 and one.shape[2] == 3 for one in first)
    np.testing.assert_array_equal(np.asarray(image), before)


@pytest.mark.parametrize("family", ["flip", "rotate"])
def test_flips_and_turns_lose_no_pixel(image, family):
    """Flips and quarter turns only move pixels."""
    there = np.sort(np.asarray(image).reshape(-1, 3), 0)
    for one in drawn(family, image):
        np.testing.assert_array_equal(np.sort(one.reshape(-1, 3), 0), there)


@pytest.mark.parametrize("family", ["colour", "stain"])
def test_colours_change_and_shapes_stay(image, family):
    """Colour families keep the size, and change a pixel by little."""
    for one in drawn(family, image):
        assert one.shape == np.asarray(image).shape
        assert np.abs(one.astype(int) - np.asarray(image)).mean() < 60


def test_erasing_takes_a_rectangle(image):
    """What is erased is one grey rectangle of 2 to 20 percent of the area; some images are left alone."""
    shares = [(one != np.asarray(image)).any(2).mean() for one in drawn("erase", image, 40)]
    assert min(shares) == 0
    assert 0.01 < max(shares) <= 0.21


def test_one_pixel_is_an_image_too():
    """Every family takes an image of any size."""
    for size in ((1, 1), (2, 1), (1, 300)):
        for family in FAMILIES:
            Augmentation((family,))(Image.new("RGB", size, (200, 100, 150)), np.random.default_rng(0))


def test_families_are_named():
    """Families come in their own order; a name that there is not is an error that lists them."""
    assert parse_augmentation(["erase", "colour"]).families == ("colour", "erase")
    assert parse_augmentation([]) is None
    with pytest.raises(InputError, match=r"Did you mean 'colour'\?.*geometry"):
        parse_augmentation(["color"])
