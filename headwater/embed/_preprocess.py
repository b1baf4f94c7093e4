"""Image preprocessing that comes with the weights, split into a part per image and a part per batch.

A torchvision pipeline ends in ``ToTensor`` and ``Normalize``. Worker threads apply the steps before these to each
image, which gives 8-bit pixels. The last two are arithmetic, done for a whole batch on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._extras import need
from headwater.embed.contents import Content
from headwater.embed.encoder import seen_by
from headwater.sources.steps import Steps

if TYPE_CHECKING:
    from torch import Tensor

    from headwater.embed._torch import Frozen


class ImagePipeline:
    """A torchvision ``Compose``: `prepare` an image in a worker, `batch` prepared images on the device."""

    def __init__(self, transform: Any) -> None:
        steps = list(transform.transforms)
        names = [type(step).__name__ for step in steps]
        self._mean = self._std = None
        self._steps = steps
        if len(steps) >= 2 and names[-2] in ("ToTensor", "MaybeToTensor") and names[-1] == "Normalize":
            self._steps = steps[:-2]
            torch = need("torch", "encoders")
            self._mean, self._std = (
                torch.as_tensor(v).float().flatten() * 255 for v in (steps[-1].mean, steps[-1].std)
            )

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Return uint8 pixels of shape ``(height, width, 3)``; if the pipeline is not split, float32 ``(3, h, w)``."""
        value: Any = image
        for step in self._steps:
            of_pixels = isinstance(value, np.ndarray)
            if of_pixels and (cropped := _cropped(step, value)) is not None:
                value = cropped
                continue
            value = Image.fromarray(value) if of_pixels else value
            size = _size_from(step, value) if isinstance(value, Image.Image) else None
            value = step(value) if size is None else resized(value, size, step.interpolation.value)
        return np.ascontiguousarray(value)

    def batch(self, prepared: Sequence[NDArray[Any]], frozen: Frozen) -> Tensor:
        """Return a batch of shape ``(n, 3, height, width)`` on the device and in the precision of ``frozen``."""
        torch = need("torch", "encoders")
        values = torch.from_numpy(np.stack(prepared))
        if frozen.device == "cuda":
            values = values.pin_memory().to("cuda", non_blocking=True)
        if self._mean is None or self._std is None:
            ready: Tensor = values.to(frozen.dtype)
            return ready
        scaled = values.float().sub_(self._mean.to(values.device)).div_(self._std.to(values.device))
        batch: Tensor = scaled.to(frozen.dtype).permute(0, 3, 1, 2)  # channels stay last in memory
        return batch


@dataclass(frozen=True)
class ImagePreparer:
    """Reads an image, applies steps, and prepares it: what another process needs of an encoder."""

    pipeline: ImagePipeline
    steps: Steps | None

    def __call__(self, content: Content) -> NDArray[Any]:
        """Read and prepare an image."""
        return self.pipeline.prepare(seen_by(content, self.steps))


def _size_from(step: Any, image: Image.Image) -> tuple[int, int] | None:
    """Return height and width after a step that `resized` can do; None for any other step."""
    if type(step).__name__ != "Resize" or getattr(step, "max_size", None) is not None or not step.antialias:
        return None
    if step.interpolation.value not in ("bilinear", "bicubic") or image.mode != "RGB":
        return None
    width, height = image.size
    if height > 2 * width:  # Pillow then resizes columns before rows, and clips other values in between
        return None
    size = [step.size] if isinstance(step.size, int) else list(step.size)
    if len(size) == 2:
        return size[0], size[1]
    other = int(size[0] * max(width, height) / min(width, height))  # size is that of the shorter side
    return (other, size[0]) if height > width else (size[0], other)


def resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize an RGB image with antialiasing, by torch, which takes from a half to a fifth of Pillow's time.

    Both compute with integers and round differently: about one value in a hundred differs by one level of 256, and one
    in a million by two. This is less than what half precision changes, and like it no part of the spec.

    Returns
    -------
    uint8 array of shape (height, width, 3)
    """
    torch = need("torch", "encoders")
    # unsqueezed, not indexed by None, so that strides are those of channels that lie last, and stay so
    pixels = torch.from_numpy(np.array(image)).unsqueeze(0).permute(0, 3, 1, 2)
    done = torch.nn.functional.interpolate(pixels, size, mode=interpolation, antialias=True)
    out: NDArray[np.uint8] = done[0].permute(1, 2, 0).numpy()
    return out


def _cropped(step: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the centre of pixels ``(height, width, 3)`` if the step takes it; None for any other step."""
    if type(step).__name__ != "CenterCrop":
        return None
    height, width = (step.size, step.size) if isinstance(step.size, int) else step.size
    if height > pixels.shape[0] or width > pixels.shape[1]:
        return None
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]
