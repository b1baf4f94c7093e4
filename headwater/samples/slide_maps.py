"""Numbers of tiles drawn over their slides: heat maps of attention, relevance and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._progress import silent
from headwater.embed.items import slides_seen
from headwater.errors import ImageError
from headwater.sources.slides import Region, Tile, open_slide, tile_at, tile_key
from headwater.sources.slides.digest import is_known
from headwater.store import KEY_COLUMNS, FileIndex, Store

LONGEST = 1600  # pixels of a map on its longer side
STRONGEST = 0.6  # opacity of the strongest tile
FOR, AGAINST = np.array([215.0, 48.0, 39.0]), np.array([69.0, 117.0, 180.0])  # colour-blind safe red and blue
CUT = 0.99
"""Quantile of the numbers' size that is drawn as the strongest, so that one outlier does not hide the others."""
_BETWEEN = 16  # pixels between slides that are drawn in one picture


def tiles_in(store: Store) -> dict[str, Tile] | None:
    """Return the tile of each sample of a store, by id; None if its images are no tiles."""
    roles = store.roles
    if roles.image is None:
        return None
    table = store.samples
    places = zip(table[roles.id].cast(str).to_list(), table[roles.image].to_list(), strict=True)
    found = {id: tile for id, place in places if place and (tile := tile_at(Path(roles.root) / str(place))) is not None}
    return found or None


def know_slide(store: Store, slide: Path) -> None:
    """Look up the digest of a slide in the store's index of files, so that it need not be read as a whole."""
    if not is_known(slide):
        slides_seen([str(slide)], 1, silent, FileIndex(store.path))


def require_same_slides(store: Store, ids: Sequence[str], tiles: Sequence[Tile]) -> None:
    """Raise `ImageError` unless the slides of tiles are those that were embedded: a store may name any file."""
    table, roles = store.samples, store.roles
    keys = dict(zip(table[roles.id].cast(str).to_list(), table[KEY_COLUMNS["image"]].to_list(), strict=True))
    for slide in dict.fromkeys(tile.slide for tile in tiles):
        seen, errors = slides_seen([str(slide)], 1, silent, FileIndex(store.path))
        if errors:
            raise next(iter(errors.values()))
        digest = seen[str(slide)].digest
        own = ((id, tile) for id, tile in zip(ids, tiles, strict=True) if tile.slide == slide)
        if any(tile_key(digest, tile.region).hex() != keys[id] for id, tile in own):
            raise ImageError(f"the slide has changed since it was embedded: {slide}")


def slide_map(tiles: Sequence[Tile], values: NDArray[np.floating]) -> Image.Image:
    """Draw numbers of tiles over their slides in grey: red above 0, blue below, the stronger the farther from 0.

    Where tiles overlap, the mean is drawn. Several slides stand side by side.

    Parameters
    ----------
    tiles
        Tiles of one or several slides.
    values : float array of shape (n_tiles,)

    Raises
    ------
    ImageError
        When a slide cannot be read.
    """
    size = np.abs(values)
    most = float(np.quantile(size, CUT)) or float(size.max()) or 1.0
    strength = (values / most).clip(-1, 1)
    by_slide: dict[Path, list[int]] = {}
    for number, tile in enumerate(tiles):
        by_slide.setdefault(tile.slide, []).append(number)
    drawn = [
        _one_map(slide, [tiles[i].region for i in rows], strength[np.array(rows)]) for slide, rows in by_slide.items()
    ]
    if len(drawn) == 1:
        return drawn[0]
    width = sum(one.width for one in drawn) + _BETWEEN * (len(drawn) - 1)
    whole = Image.new("RGB", (width, max(one.height for one in drawn)), "white")
    left = 0
    for one in drawn:
        whole.paste(one, (left, 0))
        left += one.width + _BETWEEN
    return whole


def _one_map(path: Path, regions: Sequence[Region], strength: NDArray[np.floating]) -> Image.Image:
    slide = open_slide(path)
    thumbnail = slide.thumbnail(min(LONGEST, max(slide.width, slide.height)))
    grey = np.asarray(thumbnail.convert("L"), np.float32)
    scale = thumbnail.width / slide.width, thumbnail.height / slide.height
    total, n = np.zeros(grey.shape, np.float32), np.zeros(grey.shape, np.float32)
    for region, value in zip(regions, strength.tolist(), strict=True):
        left, top = round(region.x * scale[0]), round(region.y * scale[1])
        right = max(left + 1, round((region.x + region.width) * scale[0]))
        bottom = max(top + 1, round((region.y + region.width) * scale[1]))
        total[top:bottom, left:right] += value
        n[top:bottom, left:right] += 1
    mean = total / np.maximum(n, 1)
    alpha = STRONGEST * np.abs(mean)[..., None]
    colour = np.where(mean[..., None] > 0, FOR, AGAINST)
    return Image.fromarray((grey[..., None] * (1 - alpha) + colour * alpha).round().astype(np.uint8))
