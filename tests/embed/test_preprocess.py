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
