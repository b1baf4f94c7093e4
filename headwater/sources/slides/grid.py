"""Tables of tiles: a grid over a slide, of which tiles with enough tissue are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from headwater.errors import ImageError, InputError
from headwater.sources.slides.base import Slide
from headwater.sources.slides.tissue import share_of_tissue, tissue_mask

COARSER = 1.05
"""How much coarser than wanted a slide may be before its tiles count as up-sampled."""
MOST_TILES = 4_000_000
"""Most tiles of one slide."""
TILE_PIXELS = 16  # pixels of the thumbnail that a tile spans, so that its share of tissue is known to some percent
THUMBNAIL = (512, 2048)  # least and most pixels on the longer side of the thumbnail


@dataclass(frozen=True)
class Grid:
    """How slides are cut into tiles.

    Attributes
    ----------
    mpp
        Micrometres per pixel of a tile.
    size
        Pixels on a side of a tile.
    overlap
        Pixels that neighbouring tiles share.
    mask
        ``otsu`` for tiles on tissue, or ``none`` for all tiles.
    min_tissue
        Least share of tissue in a tile, 0 to 1.
    upsample
        Whether slides that are coarser than ``mpp`` are accepted.
    """

    mpp: float = 0.5
    size: int = 224
    overlap: int = 0
    mask: str = "otsu"
    min_tissue: float = 0.5
    upsample: bool = False


@dataclass(frozen=True, eq=False)
class Tiled:
    """The tiles of a slide.

    Attributes
    ----------
    table
        Columns ``x``, ``y``, ``level``, ``width``, ``size``, ``mpp`` and ``tissue``, a row for each tile.
    n_places
        Tiles of the whole grid.
    picture
        The thumbnail with the tiles drawn on it.
    """

    table: pl.DataFrame
    n_places: int
    picture: Image.Image


def tile_table(slide: Slide, grid: Grid, mpp: float | None = None) -> Tiled:
    """Cut a slide into tiles, without reading more of it than a thumbnail.

    Tiles lie side by side from the upper left corner, each wholly inside the slide: what is left over at the right and
    at the bottom, less than a tile, belongs to none.

    Parameters
    ----------
    slide
        An open slide.
    grid
        How it is cut.
    mpp
        Micrometres per level-0 pixel. Default: what the file says.

    Raises
    ------
    InputError
        When the slide has no resolution, or is coarser than wanted.
    ImageError
        When it cannot be read, or is smaller than a tile.
    """
    own = slide.mpp if mpp is None else mpp
    if own is None:
        raise InputError(f"{slide.path}: the file does not say its micrometres per pixel. Pass --mpp-of-slide X.")
    width = round(grid.size * grid.mpp / own)
    if own > grid.mpp * COARSER and not grid.upsample:
        raise InputError(
            f"{slide.path}: the slide has {own:g} micrometres per pixel, which is coarser than {grid.mpp:g}. Pass "
            f"--mpp {own:g}, or --upsample to enlarge its pixels."
        )
    if width < 1 or width > min(slide.width, slide.height):
        raise ImageError(
            f"{slide.path}: a tile is {width:,} pixels wide, but the slide has only {slide.width:,} x {slide.height:,}"
        )
    step = max(1, round((grid.size - grid.overlap) * grid.mpp / own))
    xs, ys = (np.arange(0, side - width + 1, step) for side in (slide.width, slide.height))
    if len(xs) * len(ys) > MOST_TILES:
        raise InputError(f"{slide.path}: {len(xs) * len(ys):,} tiles; at most {MOST_TILES:,} are made. Raise --mpp.")
    x, y = (places.ravel() for places in np.meshgrid(xs, ys))
    thumbnail, scale = _thumbnail(slide, width)
    share = np.ones(len(x), np.float32)
    if grid.mask != "none":
        share = share_of_tissue(tissue_mask(thumbnail), x * scale, y * scale, width * scale)
    kept = np.flatnonzero(share >= grid.min_tissue) if grid.mask != "none" else np.arange(len(x))
    x, y, share = x[kept], y[kept], share[kept]
    table = pl.DataFrame(
        {
            "x": pl.Series(x, dtype=pl.Int64),
            "y": pl.Series(y, dtype=pl.Int64),
            "level": pl.Series(np.full(len(x), slide.level_for(width / grid.size)), dtype=pl.Int64),
            "width": pl.Series(np.full(len(x), width), dtype=pl.Int64),
            "size": pl.Series(np.full(len(x), grid.size), dtype=pl.Int64),
            "mpp": pl.Series(np.full(len(x), grid.mpp), dtype=pl.Float64),
            "tissue": pl.Series(share if grid.mask != "none" else [None] * len(x), dtype=pl.Float32),
        }
    )
    return Tiled(table, len(xs) * len(ys), with_squares(thumbnail, x * scale, y * scale, width * scale))


def _thumbnail(slide: Slide, width: int) -> tuple[Image.Image, float]:
    """Return a thumbnail on which a tile is large enough, and its pixels per level-0 pixel."""
    longest = max(slide.width, slide.height)
    wanted = min(max(round(longest / width * TILE_PIXELS), THUMBNAIL[0]), THUMBNAIL[1], longest)
    thumbnail = slide.thumbnail(wanted)
    return thumbnail, max(thumbnail.size) / longest


def with_squares(
    picture: Image.Image,
    left: NDArray[np.floating[Any]],
    top: NDArray[np.floating[Any]],
    side: float,
) -> Image.Image:
    """Return a picture with the outlines of squares."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    for x, y in zip(left, top, strict=True):
        pen.rectangle((x, y, max(x, x + side - 1), max(y, y + side - 1)), outline=(20, 110, 60))
    return drawn
