"""A whole-slide image: levels of a pyramid, of which regions are read."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

from headwater._words import cut
from headwater.errors import ImageError

MOST_SIDE = 8192
"""Most pixels on a side that are read at once, and that a region is resized to."""

LONGEST_SIDE = 1 << 24
"""Most pixels on a side of a slide; a file that declares more is damaged, or made to do harm."""

MPP_RANGE = (0.01, 100.0)
"""Plausible micrometres per pixel of the full resolution; other values in a file count as none."""

SAME_MPP = 1.1
"""Largest ratio of the two sides of a pixel, from which a slide counts as without a resolution."""

_STRIP = 2048  # pixels on a side that a thumbnail is read in, where no level is small enough


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: width and height in pixels, and the level-0 pixels that one of its pixels spans."""

    width: int
    height: int
    downsample: float


class Slide(ABC):
    """A whole-slide image, opened without reading its pixels; several threads may read from it.

    Coordinates are level-0 pixels, those of the highest resolution, from the upper left corner.

    Parameters
    ----------
    path
        The file.
    levels
        Its resolutions, the highest first.
    mpp
        Width of a level-0 pixel in micrometres; None if the file does not say.
    profile
        Size in bytes of the colour profile in the file, which is recorded but not applied; None without one.
    """

    backend: ClassVar[str]

    def __init__(self, path: Path, levels: tuple[Level, ...], mpp: float | None, profile: int | None = None) -> None:
        if not levels or any(not (0 < side <= LONGEST_SIDE) for side in (levels[0].width, levels[0].height)):
            shape = f"{levels[0].width} x {levels[0].height}" if levels else "no"
            raise ImageError(f"damaged slide: it declares {shape} pixels: {path}")
        self.path, self.levels, self.mpp, self.profile = path, levels, mpp, profile

    @property
    def width(self) -> int:
        """Width in level-0 pixels."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Height in level-0 pixels."""
        return self.levels[0].height

    def level_for(self, downsample: float) -> int:
        """Return the coarsest level that is at least as fine as a downsampling; 0 if none is."""
        fine = [i for i, level in enumerate(self.levels) if level.downsample <= downsample * 1.01]
        return max(fine, key=lambda i: self.levels[i].downsample, default=0)

    def region(self, x: int, y: int, width: int, size: int) -> Image.Image:
        """Read a square region, resized to a square image.

        It is read from the coarsest level that is fine enough, and resized bicubically, with antialiasing, where that
        level is finer than asked. Transparent pixels become white.

        Parameters
        ----------
        x, y
            Upper left corner in level-0 pixels.
        width
            Side of the region in level-0 pixels.
        size
            Side of the image in pixels, at most `MOST_SIDE`.

        Returns
        -------
        Image.Image
            Of mode ``"RGB"`` and size ``(size, size)``.

        Raises
        ------
        ImageError
            When the region is not inside the slide, is too large, or cannot be read.

        Examples
        --------
        >>> slide = open_slide("case.svs")  # doctest: +SKIP
        >>> slide.region(1024, 2048, width=448, size=224).size  # doctest: +SKIP
        (224, 224)
        """
        where = f"region {x},{y} of {width} x {width}"
        if min(x, y) < 0 or width < 1 or x + width > self.width or y + width > self.height:
            raise ImageError(f"{where} is not inside the slide of {self.width} x {self.height}: {self.path}")
        if not 0 < size <= MOST_SIDE:
            raise ImageError(f"a tile of {size} pixels: must be 1 to {MOST_SIDE:,}: {self.path}")
        number = self.level_for(width / size)
        n = max(1, round(width / self.levels[number].downsample))
        if n > MOST_SIDE:
            raise ImageError(
                f"{where} must be read as {n:,} x {n:,} pixels, since the slide has no coarser level, but at most "
                f"{MOST_SIDE:,} are read at once: {self.path}"
            )
        image = self._checked(x, y, number, n, n)
        return image if n == size else image.resize((size, size), Image.Resampling.BICUBIC)

    def thumbnail(self, longest: int) -> Image.Image:
        """Return the whole slide, at most ``longest`` pixels on its longer side, in mode RGB.

        It takes as long as its pixels need if the slide has a level of about that size, else as long as the coarsest
        level needs, which is read in parts.
        """
        scale = max(1.0, max(self.width, self.height) / longest)
        size = max(1, round(self.width / scale)), max(1, round(self.height / scale))
        number = self.level_for(scale)
        level = self.levels[number]
        whole = Image.new("RGB", size, "white")
        shrink = level.width / size[0], level.height / size[1]
        step = max(1, math.floor(_STRIP / max(shrink)))  # pixels of the thumbnail that are read at once
        for top in range(0, size[1], step):
            for left in range(0, size[0], step):
                w, h = min(step, size[0] - left), min(step, size[1] - top)
                first = math.floor(left * shrink[0]), math.floor(top * shrink[1])
                last = (
                    min(level.width, math.ceil((left + w) * shrink[0])),
                    min(level.height, math.ceil((top + h) * shrink[1])),
                )
                x, y = (round(first[0] * level.downsample), round(first[1] * level.downsample))
                part = self._checked(x, y, number, max(1, last[0] - first[0]), max(1, last[1] - first[1]))
                whole.paste(part.resize((w, h), Image.Resampling.BOX), (left, top))
        return whole

    @cached_property
    def about(self) -> dict[str, object]:
        """Plain JSON values that describe the slide."""
        return {
            "path": str(self.path),
            "backend": self.backend,
            "width": self.width,
            "height": self.height,
            "mpp": self.mpp,
            "levels": [round(level.downsample, 4) for level in self.levels],
            "profile_bytes": self.profile,
        }

    def _checked(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        try:
            return self._read(x, y, level, width, height)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # on a damaged file, decoders raise nearly anything
            raise ImageError(f"the slide cannot be read at {x},{y} ({reason_of(error)}): {self.path}") from error

    @abstractmethod
    def _read(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        """Read pixels of a level, in mode RGB; ``x`` and ``y`` are level-0 pixels, the size is in those of the level.

        Pixels outside the slide are white.
        """


def plausible_mpp(x: object, y: object) -> float | None:
    """Return the mean of the two sides of a pixel, in micrometres; None if they are missing, absurd or differ.

    Examples
    --------
    >>> plausible_mpp("0.25", "0.2502"), plausible_mpp("nan", 1), plausible_mpp(0.25, 0.5), plausible_mpp(None, 1)
    (0.2501, None, None, None)
    """
    try:
        sides = [float(x), float(y)]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(MPP_RANGE[0] <= side <= MPP_RANGE[1] for side in sides) or max(sides) > SAME_MPP * min(sides):
        return None
    return round(sum(sides) / 2, 9)


def reason_of(error: BaseException) -> str:
    """Return an error of a library in a few words on one line."""
    return cut(str(error) or type(error).__name__, 200)
