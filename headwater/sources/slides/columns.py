"""Tables of tiles: rows that name a slide and a region of it in columns, instead of an image file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headwater._words import cut
from headwater.errors import ManifestError
from headwater.sources.slides.base import MOST_SIDE

COLUMNS = ("slide", "x", "y", "width", "size")
_NUMBERS = COLUMNS[1:]
_MOST = {"x": 1 << 31, "y": 1 << 31, "width": 1 << 24, "size": MOST_SIDE}
_LEAST = {"x": 0, "y": 0, "width": 1, "size": 1}
IMAGE = "image"
RESAMPLING = "bicubic"
_SIZE = re.compile(r"#tile=\d+,\d+,\d+,(\d+)$")


def has_tiles(columns: Sequence[str]) -> bool:
    """Whether a table with these columns, none of which holds images, is one of tiles."""
    return {"slide", "x", "y"} <= set(columns)


def with_places(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return a table of tiles with a column ``image``, which names each tile as ``SLIDE#tile=X,Y,WIDTH,SIZE``.

    Raises
    ------
    ManifestError
        When a column is missing, or a cell is empty or out of range.
    """
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise ManifestError(
            f"{path}: a table of tiles needs the columns {', '.join(COLUMNS)}, but {' and '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} missing. Make it with headwater tiles, or name image files in a "
            "column image."
        )
    slides = table["slide"].cast(pl.String)
    _refuse(slides.is_null() | (slides.str.strip_chars() == ""), slides, path)
    numbers = [_whole(table[name], path) for name in _NUMBERS]
    region = pl.concat_str(*_NUMBERS, separator=",")
    return table.with_columns(slides, *numbers).with_columns(
        pl.concat_str("slide", pl.lit("#tile="), region).alias(IMAGE)
    )


def _whole(values: pl.Series, path: Path) -> pl.Series:
    """Return a column as whole numbers in range."""
    name = values.name
    numbers = values.cast(pl.Float64, strict=False)
    wrong = (
        numbers.is_null()
        | ~numbers.is_finite()
        | (numbers != numbers.round())
        | ~numbers.is_between(_LEAST[name], _MOST[name])
    )
    _refuse(wrong.fill_null(True), values, path, f" from {_LEAST[name]} to {_MOST[name]:,}")
    return numbers.cast(pl.Int64)


def _refuse(wrong: pl.Series, values: pl.Series, path: Path, range_: str = "") -> None:
    if not wrong.any():
        return
    row = int(wrong.arg_true()[0])
    wanted = "the path of a slide" if values.name == "slide" else f"a whole number{range_}"
    raise ManifestError(
        f"{path}: row {row + 1} has {cut(repr(values[row]), 40)} in column {values.name!r}, but needs {wanted} "
        f"({wrong.sum():,} such rows). Make the table again with headwater tiles."
    )


@dataclass(frozen=True)
class Geometry:
    """What tiles show of tissue: micrometres per pixel (None if the table does not say), and pixels on a side."""

    mpp: float | None
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as they stand in a spec."""
        return {"mpp": self.mpp, "size": self.size, "resampling": RESAMPLING}


def geometry_of(places: pl.Series, mpp: pl.Series | None, path: str | Path) -> Geometry | None:
    """Return the geometry of the tiles among images; None if none is a tile.

    Parameters
    ----------
    places
        Images as in a column ``image``.
    mpp
        Micrometres per pixel of the same rows, if the table has them.
    path
        The table, for messages.

    Raises
    ------
    ManifestError
        When tiles of several geometries, or tiles and other images, would be mixed.
    """
    sizes = places.str.extract(_SIZE.pattern, 1)
    tiles = sizes.is_not_null()
    if not tiles.any():
        return None
    if (places.is_not_null() & ~tiles).any():
        raise ManifestError(f"{path}: tiles of slides and other images are mixed. Embed them one after the other.")
    found = pl.DataFrame({"size": sizes, "mpp": pl.Series([None] * len(sizes), dtype=pl.Float64)})
    if mpp is not None:
        found = found.with_columns(mpp.cast(pl.Float64, strict=False).fill_nan(None).alias("mpp"))
    kinds = found.filter(tiles).unique(maintain_order=True)
    if len(kinds) > 1:
        two = [f"{size} pixels" + ("" if of is None else f" at {of:g} µm") for size, of in kinds.head(2).iter_rows()]
        raise ManifestError(
            f"{path}: tiles of {len(kinds)} geometries are mixed ({' and '.join(two)}), which one feature set must not "
            "hold. Make a table for each, and embed each under its own --name."
        )
    size, one = kinds.row(0)
    return Geometry(one, int(size))
