"""Tiled TIFF files that OpenSlide refuses, such as those with sub-images (OME-TIFF) or newer compressions."""

from __future__ import annotations

import os
import re
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._extras import need
from headwater._reading import open_regular
from headwater.errors import ImageError
from headwater.sources.slides.base import MOST_SIDE, Level, Slide, plausible_mpp, reason_of

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 64
"""Images of a file that are looked at, of which the levels of the pyramid are some."""

_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # micrometres in an inch and in a centimetre, by TIFF's number of the unit
_OME = re.compile(r'PhysicalSize([XY])="([0-9.eE+-]{1,32})"(?:[^>]{0,200}?PhysicalSize\1Unit="([^"]{1,8})")?')
_KEPT = 64  # decoded tiles that a slide keeps
_JPEG = 7
_COMPRESSIONS = (1, 5, _JPEG, 8, 32946, 32773, 50000)  # none, LZW, JPEG, deflate (twice), PackBits, Zstandard


class TiffSlide(Slide):
    """A tiled TIFF of 8-bit RGB or grey pixels, with or without a pyramid."""

    backend: ClassVar[str] = "tifffile"

    def __init__(self, path: Path, file: Any) -> None:
        self._lock = threading.Lock()
        self._pages = _pyramid(file, path)
        first = self._pages[0]
        levels = tuple(
            Level(page.imagewidth, page.imagelength, max(1.0, first.imagewidth / page.imagewidth))
            for page in self._pages
        )
        icc = first.tags.get(34675)
        super().__init__(path, levels, _mpp(first), None if icc is None else int(icc.count))
        for page in self._pages:
            _ = page.jpegtables, page.decode  # what is read of the file once, before it is closed
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._read_at = partial(os.pread, descriptor)
        weakref.finalize(self, os.close, descriptor)
        self._tiles: dict[tuple[int, int], NDArray[np.uint8] | None] = {}

    def _read(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        page, downsample = self._pages[level], self.levels[level].downsample
        left, top = round(x / downsample), round(y / downsample)
        out = np.full((height, width, 3), 255, np.uint8)
        right, bottom = min(left + width, page.imagewidth), min(top + height, page.imagelength)
        across = -(-page.imagewidth // page.tilewidth)
        for row in range(top // page.tilelength, -(-bottom // page.tilelength)):
            for column in range(left // page.tilewidth, -(-right // page.tilewidth)):
                tile = self._tile(level, row * across + column)
                if tile is None:
                    continue
                x0, y0 = column * page.tilewidth, row * page.tilelength
                a, b = max(left, x0), min(right, x0 + tile.shape[1])
                c, d = max(top, y0), min(bottom, y0 + tile.shape[0])
                if a < b and c < d:
                    out[c - top : d - top, a - left : b - left] = tile[c - y0 : d - y0, a - x0 : b - x0]
        return Image.fromarray(out)

    def _tile(self, level: int, index: int) -> NDArray[np.uint8] | None:
        """Return the decoded pixels of a tile, of shape ``(height, width, 3 or 1)``; None for one that is left out."""
        key = (level, index)
        with self._lock:
            if key in self._tiles:
                tile = self._tiles[key] = self._tiles.pop(key)  # the last used is dropped last
                return tile
        page = self._pages[level]
        tile = None
        if page.databytecounts[index]:
            n_bytes = page.databytecounts[index]
            data = self._read_at(n_bytes, page.dataoffsets[index])
            if len(data) < n_bytes:
                raise ImageError(f"truncated slide: {self.path}")
            if page.compression == _JPEG:
                _require_size(data, page, self.path)
            found, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
            if found is not None:
                tile = np.asarray(found, np.uint8).reshape(found.shape[-3:])
        with self._lock:
            self._tiles[key] = tile
            while len(self._tiles) > _KEPT:
                del self._tiles[next(iter(self._tiles))]
        return tile


def opened(path: Path) -> TiffSlide | None:
    """Open a tiled TIFF file; return None if it is no TIFF.

    Raises
    ------
    ImageError
        When it is damaged, or not laid out as a slide.
    """
    with open_regular(path) as head:
        if head.read(4) not in MAGIC:
            return None
        if not _is_whole(head):
            raise ImageError(f"damaged or truncated TIFF file ({os.fstat(head.fileno()).st_size:,} bytes): {path}")
    try:
        file = need("tifffile", "slides").TiffFile(path, is_ome=False)  # without it, files that it names are opened
    except ImportError:
        raise
    except Exception as error:  # on a damaged file, it raises nearly anything
        raise ImageError(f"damaged TIFF file ({reason_of(error)}): {path}") from error
    try:
        with file:
            return TiffSlide(path, file)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"damaged TIFF file ({reason_of(error)}): {path}") from error


def _is_whole(file: BinaryIO) -> bool:
    """Whether all directories of a TIFF file lie in it: of a truncated one, the first may be read all the same."""
    file.seek(0)
    head, size = file.read(16), os.fstat(file.fileno()).st_size
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = int.from_bytes(head[2:4], order) == 43
    n_count, n_entry, n_offset, start = (8, 20, 8, 8) if big else (2, 12, 4, 4)
    place = int.from_bytes(head[start : start + n_offset], order)
    seen: set[int] = set()
    while place and len(seen) < MOST_PAGES:
        if place in seen or place + n_count > size:
            return False
        seen.add(place)
        file.seek(place)
        n_entries = int.from_bytes(file.read(n_count), order)
        end = place + n_count + n_entries * n_entry
        if end + n_offset > size:
            return False
        file.seek(end)
        place = int.from_bytes(file.read(n_offset), order)
    return True


def _pyramid(file: Any, path: Path) -> list[Any]:
    """Return the first image, and smaller ones of the same shape, the largest first."""
    first = file.pages[0]
    _require_tiles(first, path)
    below = list(first.pages)[:MOST_PAGES] if first.pages is not None else []
    beside = [file.pages[i] for i in range(1, min(len(file.pages), MOST_PAGES))]
    found = [first]
    for page in sorted((page.aspage() for page in (*below, *beside)), key=lambda page: -page.imagewidth):
        if not _is_level(page, found[-1], first):
            continue
        found.append(page)
    return found


def _is_level(page: Any, above: Any, first: Any) -> bool:
    """Whether an image is the same as the first at a lower resolution: smaller, tiled, and of the same shape."""
    if not page.is_tiled or page.imagewidth >= above.imagewidth or page.imagewidth == 0:
        return False
    scale = first.imagewidth / page.imagewidth
    same = abs(first.imagelength / scale - page.imagelength) <= 2
    return same and _why_not(page) is None


def _require_tiles(page: Any, path: Path) -> None:
    if (why := _why_not(page)) is not None:
        raise ImageError(f"this TIFF file cannot be read as a slide ({why}): {path}")


def _why_not(page: Any) -> str | None:
    if not page.is_tiled:
        return "it is not tiled; convert it into a tiled pyramid, such as with vips tiffsave"
    if page.bitspersample != 8 or page.samplesperpixel not in (1, 3) or page.sampleformat != 1:
        return f"{page.samplesperpixel} samples of {page.bitspersample} bits; 8-bit RGB or grey is read"
    if page.samplesperpixel > 1 and page.planarconfig != 1:
        return "its colours are in separate planes"
    if int(page.compression) not in _COMPRESSIONS:
        return f"compression {int(page.compression)} is not read"
    if int(page.photometric) not in (1, 2, 6):
        return f"photometric interpretation {int(page.photometric)} is not read"
    if not (0 < page.tilewidth <= MOST_SIDE and 0 < page.tilelength <= MOST_SIDE):
        return f"tiles of {page.tilewidth} x {page.tilelength} pixels"
    n_tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    if page.imagedepth != 1 or min(len(page.dataoffsets), len(page.databytecounts)) < n_tiles:
        return "tiles are missing"
    if max(page.databytecounts, default=0) > 4 * MOST_SIDE * MOST_SIDE:
        return "a tile has absurdly many bytes"
    return None


def _require_size(data: bytes, page: Any, path: Path) -> None:
    """Raise if a JPEG tile declares more pixels than a tile has: memory for them is taken before they are decoded."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[place + i : place + i + 2], "big") for i in (5, 7))
            if width > page.tilewidth or height > page.tilelength:
                break
            return
        place += 2 + length
    raise ImageError(f"damaged slide: a tile is no JPEG of its size: {path}")


def _mpp(page: Any) -> float | None:
    """Return the micrometres per pixel that OME-XML or the tags of resolution give; None if neither does."""
    sizes: dict[str, str] = {}
    for axis, value, unit in _OME.findall((page.description or "")[:1_000_000]):
        if unit in ("", "µm", "um", "μm"):
            sizes.setdefault(axis, value)
    if (mpp := plausible_mpp(sizes.get("X"), sizes.get("Y"))) is not None:
        return mpp
    unit, x, y = (page.tags.get(code) for code in (296, 282, 283))
    if unit is None or x is None or y is None or int(unit.value) not in _PER_UNIT:
        return None
    per = [value[0] / value[1] if value[1] else 0 for value in (x.value, y.value)]
    if not all(per):
        return None
    mpp = plausible_mpp(*(_PER_UNIT[int(unit.value)] / one for one in per))
    return mpp if mpp is not None and mpp < 30 else None  # 72 or 96 dots per inch say nothing of the tissue
