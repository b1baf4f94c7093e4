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
            size = None if not isinstance(value, Image.Image) else _size_from(step, value)
            value = step(value) if size is None else shrunk(value, size, step.interpolation.value)
        return np.asarray(value)

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


LARGE = 512 * 512  # pixels, from which torch is faster than Pillow


def _size_from(step: Any, image: Image.Image) -> tuple[int, int] | None:
    """Return height and width after a step that `shrunk` can do; None if it cannot, or if Pillow is as fast."""
    if type(step).__name__ != "Resize" or getattr(step, "max_size", None) is not None or not step.antialias:
        return None
    if step.interpolation.value not in ("bilinear", "bicubic") or image.mode != "RGB":
        return None
    width, height = image.size
    size = [step.size] if isinstance(step.size, int) else list(step.size)
    if len(size) == 1:  # of the shorter side
        short, long = min(width, height), max(width, height)
        other = int(size[0] * long / short)
        size = [other, size[0]] if height > width else [size[0], other]
    return (size[0], size[1]) if width * height >= max(LARGE, size[0] * size[1]) else None


def shrunk(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resize an RGB image to a height and width with antialiasing, by torch, several times faster than Pillow.

    Both compute with integers and round differently: a few pixels in a thousand differ by one level of 256. This is
    less than what half precision changes, and like it no part of the spec.
    """
    torch = need("torch", "encoders")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    done = torch.nn.functional.interpolate(pixels, size, mode=interpolation, antialias=True)
    return Image.fromarray(done[0].permute(1, 2, 0).numpy())
