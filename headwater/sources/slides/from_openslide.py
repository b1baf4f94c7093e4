"""Slides that OpenSlide reads: Aperio, Hamamatsu, MIRAX, Leica, Philips, Zeiss, DICOM, and tiled TIFF, among others."""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._extras import need
from headwater.errors import ImageError
from headwater.sources.slides.base import Level, Slide, plausible_mpp, reason_of

MOST_KEPT = 1 << 20
"""Most pixels for which a thread keeps memory."""

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
        if (opaque := self._read_opaque(x, y, level, width, height)) is not None:
            return opaque
        image: Image.Image = self._handle.read_region((x, y), level, (width, height))
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white

    def _read_opaque(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image | None:
        """Read a region as `read_region` of OpenSlide does, with three copies less; None if parts are transparent.

        It goes through the function of the library that `read_region` wraps, into memory that a thread uses again. This
        takes a tenth less time for a tile. A version of the package without that function is used as its documentation
        says.
        """
        read = getattr(_library().lowlevel, "_read_region", None)
        own = getattr(self._handle, "_osr", None)
        if read is None or own is None or sys.byteorder != "little":
            return None
        memory = _memory.of(width * height)
        read(own, memory.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32)), x, y, level, width, height)
        if int(np.bitwise_and.reduce(memory)) >> 24 != 255:
            return None
        return Image.frombytes("RGB", (width, height), memory, "raw", "BGRX", 0, 1)


class _Memory(threading.local):
    """Memory of a thread for the pixels of one region."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint32)

    def of(self, n: int) -> NDArray[np.uint32]:
        """Return room for n pixels; a little of it is kept."""
        if n > MOST_KEPT:
            return np.empty(n, np.uint32)
        if len(self._kept) < n:
            self._kept = np.empty(n, np.uint32)
        return self._kept[:n]


_memory = _Memory()


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
