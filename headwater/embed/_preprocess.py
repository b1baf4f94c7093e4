"""Image preprocessing that comes with the weights, split into a part per image and a part per batch.

A torchvision pipeline ends in ``ToTensor`` and ``Normalize``. Worker threads apply the steps before these to each
image, which gives 8-bit pixels. The last two are arithmetic, done for a whole batch on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._extras import need

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
            value = step(value)
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
