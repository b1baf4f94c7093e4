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
    """For RGB images, to 1e-6, and bytes travel from the workers, not floats."""
    transform = transform_of(library, settings)
    images = [Image.open(file).convert("RGB") for file in image_files]
    pipeline = ImagePipeline(transform)
    prepared = [pipeline.prepare(image) for image in images]
    assert {array.dtype for array in prepared} == {np.dtype(np.uint8)}
    expected = torch.stack([transform(image) for image in images])
    torch.testing.assert_close(pipeline.batch(prepared, frozen), expected, rtol=0, atol=1e-6)


def test_another_transform_is_run_whole(image_files, frozen):
    """A pipeline that does not end in a normalisation is left as it is."""
    from torchvision import transforms

    transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor(), transforms.RandomErasing(0)])
    images = [Image.open(file).convert("RGB") for file in image_files]
    pipeline = ImagePipeline(transform)
    expected = torch.stack([transform(image) for image in images])
    actual = pipeline.batch([pipeline.prepare(image) for image in images], frozen)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_a_batch_is_in_the_models_type_and_channels_last(image_files):
    frozen = Frozen(torch.nn.Identity(), "cpu", "bf16")
    pipeline = ImagePipeline(transform_of(*TRANSFORMS[0]))
    batch = pipeline.batch([pipeline.prepare(Image.open(image_files[0]))] * 2, frozen)
    assert batch.dtype == torch.bfloat16
    assert batch.is_contiguous(memory_format=torch.channels_last)


LARGE = [(900, 700), (700, 900), (1024, 1024), (3000, 520)]


@pytest.mark.parametrize("size", [64, (64, 64), (100, 60), [96]], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_images_are_resized_as_by_pillow(size, interpolation, shape):
    """An image that torch resizes has Pillow's size, and differs from it by one level, in less than a value in 50."""
    from torchvision import transforms

    width, height = shape
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)).resize((width, height))
    step = transforms.Resize(size, transforms.InterpolationMode(interpolation), antialias=True)
    expected = np.asarray(step(image)).astype(int)
    found = ImagePipeline(transforms.Compose([step])).prepare(image)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.02


def test_what_torch_does_not_resize_as_well_is_left_to_pillow(monkeypatch):
    """Small images, enlargements, other interpolations and other modes are Pillow's to the last bit."""
    from torchvision import transforms

    monkeypatch.setattr("headwater.embed._preprocess.shrunk", None)
    rng = np.random.default_rng(0)
    small, large = (Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for side in (200, 600))
    nearest = transforms.InterpolationMode.NEAREST
    for image, step in (
        (small, transforms.Resize(64)),
        (large, transforms.Resize(700)),
        (large, transforms.Resize(64, nearest)),
        (large, transforms.Resize(64, max_size=80)),
        (large.convert("L"), transforms.Resize(64)),
    ):
        assert np.array_equal(ImagePipeline(transforms.Compose([step])).prepare(image), np.asarray(step(image)))
