"""The fast path of preprocessing is the library's own transform, rearranged."""

import numpy as np
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from headwater.embed._preprocess import ImagePipeline
from headwater.embed._torch import Frozen

TIMM = [
    {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    {"input_size": (3, 48, 64), "crop_pct": 0.95, "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_mode": "squash", "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_mode": "border", "interpolation": "bicubic"},
]
OPEN_CLIP = [
    {"size": 64},
    {"size": (48, 64)},
    {"size": 64, "resize_mode": "squash", "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    {"size": 64, "resize_mode": "longest"},
]
TRANSFORMS = [("timm", settings) for settings in TIMM] + [("open_clip", settings) for settings in OPEN_CLIP]


@pytest.fixture(scope="module")
def frozen():
    return Frozen(torch.nn.Identity(), "cpu", "fp32")


def transform_of(library, settings):
    if library == "timm":
        return timm.data.create_transform(**settings, is_training=False)
    return image_transform_v2(PreprocessCfg(**settings), is_train=False)


@pytest.mark.parametrize(("library", "settings"), TRANSFORMS)
def test_it_equals_the_whole_transform(library, settings, image_files, frozen):
    """Up to the rounding of pixels when they are resized, and bytes travel from the workers, not floats."""
    transform = transform_of(library, settings)
    images = [Image.open(file).convert("RGB") for file in image_files]
    pipeline = ImagePipeline(transform)
    prepared = [pipeline.prepare(image) for image in images]
    assert {array.dtype for array in prepared} == {np.dtype(np.uint8)}
    expected = torch.stack([transform(image) for image in images])
    std = torch.as_tensor(transform.transforms[-1].std).view(1, 3, 1, 1)
    levels = (255 * std * (pipeline.batch(prepared, frozen) - expected)).abs()
    assert levels.max() < 2.01
    assert (levels > 0.01).float().mean() < 0.02
    assert (levels > 1.01).float().mean() < 1e-3


def test_another_transform_is_run_whole(image_files, frozen):
    """A pipeline that does not end in a normalisation is left as it is."""
    from torchvision import transforms

    transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor(), transforms.RandomErasing(0)])
    images = [Image.open(file).convert("RGB") for file in image_files]
    pipeline = ImagePipeline(transform)
    expected = torch.stack([transform(image) for image in images])
    actual = pipeline.batch([pipeline.prepare(image) for image in images], frozen)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2.01 / 255)  # the rounding of its resizing


def test_a_batch_is_in_the_models_type_and_channels_last(image_files):
    frozen = Frozen(torch.nn.Identity(), "cpu", "bf16")
    pipeline = ImagePipeline(transform_of(*TRANSFORMS[0]))
    batch = pipeline.batch([pipeline.prepare(Image.open(image_files[0]))] * 2, frozen)
    assert batch.dtype == torch.bfloat16
    assert batch.is_contiguous(memory_format=torch.channels_last)


SHAPES = [(900, 700), (500, 900), (224, 224), (1000, 120), (40, 60)]


def picture_of(width, height, noise=False):
    rng = np.random.default_rng(0)
    fine = (height, width, 3) if noise else (height // 8, width // 8, 3)
    return Image.fromarray(rng.integers(0, 256, fine, np.uint8)).resize((width, height))


@pytest.mark.parametrize("noise", [False, True], ids=["smooth", "noise"])
@pytest.mark.parametrize("size", [64, (64, 64), (100, 60), [96], 248], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_are_resized_as_by_pillow(noise, size, interpolation, shape):
    """An image that torch resizes has Pillow's size, and few of its values differ, by one level or rarely two."""
    from torchvision import transforms

    image = picture_of(*shape, noise)
    step = transforms.Resize(size, transforms.InterpolationMode(interpolation), antialias=True)
    expected = np.asarray(step(image)).astype(int)
    found = ImagePipeline(transforms.Compose([step])).prepare(image)
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    levels = np.abs(found - expected)
    assert levels.max() <= 2
    assert (levels > 0).mean() < 0.1
    assert (levels > 1).mean() < 1e-3


@pytest.mark.parametrize(("shape", "size", "crop"), [((90, 70), 64, 48), ((71, 90), 64, (33, 48)), ((70, 90), 40, 64)])
def test_the_centre_is_that_of_the_library(shape, size, crop):
    """Odd margins are divided as by torchvision, and an image that is smaller than the crop is padded by it."""
    from torchvision import transforms

    steps = [transforms.Resize(size), transforms.CenterCrop(crop)]
    image = picture_of(*shape)
    expected = np.asarray(transforms.Compose(steps)(image)).astype(int)
    found = ImagePipeline(transforms.Compose(steps)).prepare(image)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2


def test_what_torch_does_not_resize_as_well_is_left_to_pillow(monkeypatch):
    """Other interpolations, other modes, limits to the longer side, and tall images are Pillow's to the last bit."""
    from torchvision import transforms

    monkeypatch.setattr("headwater.embed._preprocess.resized", None)
    nearest = transforms.InterpolationMode.NEAREST
    image = picture_of(300, 200)
    for given, step in (
        (image, transforms.Resize(64, nearest)),
        (image, transforms.Resize(64, max_size=80)),
        (image.convert("L"), transforms.Resize(64)),
        (picture_of(100, 201), transforms.Resize(64)),
    ):
        assert np.array_equal(ImagePipeline(transforms.Compose([step])).prepare(given), np.asarray(step(given)))


def test_the_size_that_images_are_resized_to():
    """Known from the pipeline's resizing: a side, two sides, or nothing where images keep their size."""
    from torchvision import transforms

    for size, wanted in ((256, (256, 256)), ((1520, 912), (1520, 912)), (None, None)):
        steps = [] if size is None else [transforms.Resize(size)]
        pipeline = ImagePipeline(transforms.Compose([*steps, transforms.CenterCrop(224), transforms.ToTensor()]))
        assert pipeline.resizes_to == wanted
