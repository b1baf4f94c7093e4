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

from headwater._backend import is_out_of_memory
from headwater._extras import need
from headwater.embed.contents import Content
from headwater.embed.encoder import Unreadable, seen_by
from headwater.errors import MissingExtra
from headwater.sources.images import is_plain_jpeg
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
        if any(item.ndim == 1 for item in prepared):
            values = self._decoded(prepared, frozen.device)
        else:
            values = torch.from_numpy(np.stack(prepared))
            if frozen.device == "cuda":
                values = values.pin_memory().to("cuda", non_blocking=True)
        if self._mean is None or self._std is None:
            ready: Tensor = values.to(frozen.dtype)
            return ready
        scaled = values.float().sub_(self._mean.to(values.device)).div_(self._std.to(values.device))
        batch: Tensor = scaled.to(frozen.dtype).permute(0, 3, 1, 2)  # channels stay last in memory
        return batch

    @property
    def resizes_to(self) -> tuple[int, int] | None:
        """Least height and width of images after the first resizing; None if nothing resizes them."""
        size = next((step.size for step in self._steps if type(step).__name__ == "Resize"), None)
        if size is None:
            return None
        sides = [size] if isinstance(size, int) else list(size)
        return int(sides[0]), int(sides[-1])

    @property
    def of_torch(self) -> bool:
        """Whether torch can do all of it: one resizing that `_new_size` knows, then crops."""
        steps = [step for step in self._steps if getattr(step, "__name__", "") != "_convert_to_rgb"]
        crops = all(type(step).__name__ == "CenterCrop" for step in steps[1:])
        return self._mean is not None and bool(steps) and _knows(steps[0]) and crops

    def _decoded(self, prepared: Sequence[NDArray[Any]], device: str) -> Tensor:
        """Decode the JPEG files of a batch on a device, resize and crop them, and put prepared pixels between them.

        Returns
        -------
        uint8 tensor of shape (n, height, width, 3)

        Raises
        ------
        Unreadable
            With the reason for each file that is damaged.
        """
        torch = need("torch", "encoders")
        images, reasons = [], {}
        files = [i for i, item in enumerate(prepared) if item.ndim == 1]
        decoded = dict(zip(files, _decode([prepared[i] for i in files], device), strict=True))
        for i, item in enumerate(prepared):
            value = decoded.get(i)
            if isinstance(value, str):
                reasons[i] = value
                continue
            if value is None:
                images.append(torch.from_numpy(np.array(item)).to(device))
                continue
            for step in self._steps:
                if hasattr(step, "antialias"):
                    value = _resized(value, _new_size(step, value.shape[2], value.shape[1]), step.interpolation.value)
                elif type(step).__name__ == "CenterCrop":
                    value = step(value)
            images.append(value.permute(1, 2, 0))
        if reasons:
            raise Unreadable(reasons)
        stacked: Tensor = torch.stack(images)
        return stacked


def _decode(files: Sequence[NDArray[np.uint8]], device: str) -> list[Tensor | str]:
    """Decode JPEG files as RGB ``(3, height, width)`` on a device; a reason in place of a damaged one."""
    torch, decode = need("torch", "encoders"), jpeg_decoder()
    data = [torch.from_numpy(np.array(file)) for file in files]
    try:
        return list(decode(data, mode="RGB", device=device))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        found: list[Tensor | str] = []  # one of them is damaged; which one is not said
        for one in data:
            try:
                found += decode([one], mode="RGB", device=device)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                found.append(f"damaged JPEG file ({str(error).splitlines()[0].rpartition(', ')[2].rstrip('.')})")
        return found


def jpeg_decoder() -> Any:
    """Return TorchCodec's decoder of JPEG files.

    Raises
    ------
    MissingExtra
        When it is not installed, or was built for another torch.
    """
    try:
        return need("torchcodec.decoders", "gpu").decode_jpeg
    except (RuntimeError, OSError) as error:
        raise MissingExtra(
            f"torchcodec cannot be loaded ({str(error).splitlines()[0]}). Install the version for your torch."
        ) from error


@dataclass(frozen=True)
class ImagePreparer:
    """Reads an image, applies steps, and prepares it: what another process needs of an encoder."""

    pipeline: ImagePipeline
    steps: Steps | None

    def __call__(self, content: Content) -> NDArray[Any]:
        """Read and prepare an image; return the bytes of a JPEG file that torch is to decode."""
        if self.steps is not None and self.steps.jpeg_by_torch:
            data = content.file()
            if is_plain_jpeg(data):
                return np.frombuffer(data, np.uint8)
        return self.pipeline.prepare(seen_by(content, self.steps))


def _knows(step: Any) -> bool:
    """Whether a step is one of resizing that torch does as Pillow does."""
    return (
        type(step).__name__ == "Resize"
        and getattr(step, "max_size", None) is None
        and bool(step.antialias)
        and step.interpolation.value in ("bilinear", "bicubic")
    )


def _size_from(step: Any, image: Image.Image) -> tuple[int, int] | None:
    """Return height and width after a step that `resized` does as well as Pillow; None for any other step."""
    if not _knows(step) or image.mode != "RGB":
        return None
    width, height = image.size
    if height > 2 * width:  # Pillow then resizes columns before rows, and clips other values in between
        return None
    return _new_size(step, width, height)


def _new_size(step: Any, width: int, height: int) -> tuple[int, int]:
    """Return height and width after a step of resizing."""
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
    done = _resized(torch.from_numpy(np.array(image)).permute(2, 0, 1), size, interpolation)
    out: NDArray[np.uint8] = done.permute(1, 2, 0).numpy()
    return out


def _resized(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize uint8 pixels ``(3, height, width)``; on a GPU in float32, which has no such operation on integers."""
    torch = need("torch", "encoders")
    # permuted after it is unsqueezed, so that channels that lie last in memory are seen to, and stay so
    batch = pixels.permute(1, 2, 0).unsqueeze(0).permute(0, 3, 1, 2)
    values = batch if pixels.device.type == "cpu" else batch.float()
    done = torch.nn.functional.interpolate(values, size, mode=interpolation, antialias=True)[0]
    out: Tensor = done if done.dtype == torch.uint8 else done.round_().clamp_(0, 255).to(torch.uint8)
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
