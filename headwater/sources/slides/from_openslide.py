"""Slides that OpenSlide reads: Aperio, Hamamatsu, MIRAX, Leica, Philips, Zeiss, DICOM, and tiled TIFF, among others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from headwater._extras import need
from headwater.errors import ImageError
from headwater.sources.slides.base import Level, Slide, plausible_mpp, reason_of

CACHE_BYTES = 128 << 20
"""Decoded tiles that the slides of a process keep together."""


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads. Its handle is shared by threads, which share decoded tiles that way."""

    backend: ClassVar[str] = "openslide"

    def __init__(self, path: Path, handle: Any) -> None:
        self._handle = handle
        properties = handle.properties
        levels = tuple(
            Level(width, height, float(downsample))
            for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
        )
        mpp = plausible_mpp(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"))
        self.is_plain_tiff = properties.get("openslide.vendor") == "generic-tiff"
        icc = properties.get("openslide.icc-size", "")
        super().__init__(path, levels, mpp, int(icc) if icc.isascii() and icc.isdigit() and len(icc) < 18 else None)

    def _read(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        image: Image.Image = self._handle.read_region((x, y), level, (width, height))
        values = np.asarray(image)
        if int(np.bitwise_and.reduce(values.view("<u4"), axis=None)) >> 24 == 255:  # nothing is transparent
            return Image.frombytes("RGB", image.size, values, "raw", "RGBX", 0, 1)  # twice as fast as convert
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white


def opened(path: Path) -> OpenSlideSlide | None:
    """Open a slide with OpenSlide; return None if it does not know the format.

    Raises
    ------
    ImageError
        When it knows the format, but cannot read the file.
    MissingExtra
        When OpenSlide is not installed.
    """
    openslide = _library()
    try:
        found = openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        found = None
    if found is None:
        return None
    try:
        handle = openslide.OpenSlide(str(path))
        handle.set_cache(_cache())
        return OpenSlideSlide(path, handle)
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except openslide.OpenSlideError as error:
        if found == "dicom":  # it is strict about DICOM; the frames may be readable all the same
            return None
        why = reason_of(error).replace(f"{path}: ", "").removeprefix(f"Reading {path}")
        raise ImageError(f"damaged or incomplete slide ({why.strip(': ')}): {path}") from error


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        return need("openslide", "slides")
    except (OSError, AttributeError) as error:  # the library itself is missing, or too old
        raise ImageError(f"OpenSlide cannot be loaded ({reason_of(error)}). Run: pip install openslide-bin") from error


@lru_cache(maxsize=1)
def _cache() -> Any:
    return _library().OpenSlideCache(CACHE_BYTES)
