"""tiles: cut whole-slide images into tiles on tissue, as a table of regions; no tile file is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from headwater._checks import one_of, require_number, require_whole
from headwater._progress import Progress, counting, progress_to
from headwater._shown import Shown
from headwater._words import aligned, counted, cut
from headwater._writable import require_writable
from headwater.api._table_files import table_file, write_table
from headwater.errors import HeadwaterError, ImageError, InputError, ManifestError, MissingExtra
from headwater.sources import read_table, require_utf8_names
from headwater.sources.manifest import MANIFEST_SUFFIXES
from headwater.sources.slides import Grid, open_slide, slides_in, tile_table
from headwater.sources.slides.base import MOST_SIDE, MPP_RANGE

Slides = str | Path | Sequence[str | Path]
SHOWN = 20  # most slides that are printed
WIDEST = 60  # printed characters of a slide's path
OWN = ("id", "slide", "x", "y", "level", "width", "size", "mpp", "tissue")
"""Columns of the table, in their order; those of a table of slides come after them."""
NAMES = ("slide", "slide_path", "image", "image_path", "path", "file", "filename", "file_path")
"""Columns of a table of slides that may hold their paths, the best first."""


@dataclass(frozen=True, eq=False, repr=False)
class TilesTable(Shown):
    """Tiles of slides.

    Attributes
    ----------
    table
        A row for each tile: ``id``, ``slide`` (its path, seen from the table), ``x`` and ``y`` (upper left corner in
        level-0 pixels), ``level`` (of the pyramid, that is read), ``width`` (side in level-0 pixels), ``size`` (side in
        pixels that it is resized to), ``mpp`` (micrometres per pixel of these), ``tissue`` (share of tissue, null
        without a mask); and the columns of a table of slides.
    path
        The file that it was written to.
    slides
        For each slide that was read: its path, size, micrometres per pixel, number of tiles and of places in the grid.
    skipped
        Why slides were left out, by path.
    thumbnails
        For each slide, the picture with the tiles drawn on it; empty if none were asked for.
    """

    table: pl.DataFrame
    path: Path
    slides: Sequence[Mapping[str, Any]]
    skipped: Mapping[str, str]
    thumbnails: Mapping[str, Path] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the result in a few lines."""
        rows = [["slide", "tiles", "of", "width", "height", "µm/pixel"]]
        for one in self.slides[:SHOWN]:
            numbers = [f"{one[name]:,}" for name in ("n_tiles", "n_places", "width", "height")]
            rows.append([cut(one["slide"], WIDEST), *numbers, f"{one['mpp']:.4g}"])
        out = aligned(rows)
        if len(self.slides) > SHOWN:
            out.append(f"… and {len(self.slides) - SHOWN:,} more slides")
        empty = [one["slide"] for one in self.slides if not one["n_tiles"]]
        if empty:
            more = f" and {len(empty) - 3:,} more" if len(empty) > 3 else ""
            out.append(
                f"{counted(len(empty), 'slide')} without a tile: {', '.join(empty[:3])}{more}. Look at --thumbnails, "
                "or lower --min-tissue"
            )
        if self.skipped:
            out.append(f"{counted(len(self.skipped), 'slide')} left out:")
            out += [f"  {why}" for why in list(self.skipped.values())[:SHOWN]]
            if len(self.skipped) > SHOWN:
                out.append(f"  … and {len(self.skipped) - SHOWN:,} more")
        if self.thumbnails:
            out.append(f"thumbnails with the tiles in {next(iter(self.thumbnails.values())).parent}")
        total = f"{counted(len(self.table), 'tile')} of {counted(len(self.slides), 'slide')}"
        return [*out, f"{total}, in {self.path}: headwater embed {self.path} STORE --encoder SPEC"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "table": str(self.path),
            "n_tiles": len(self.table),
            "slides": [dict(one) for one in self.slides],
            "skipped": dict(self.skipped),
            "thumbnails": {slide: str(path) for slide, path in self.thumbnails.items()},
        }


def tiles(
    slides: Slides,
    out: str | Path,
    *,
    mpp: float = 0.5,
    size: int = 224,
    overlap: int = 0,
    mask: Literal["otsu", "none"] = "otsu",
    min_tissue: float = 0.5,
    mpp_of_slide: float | None = None,
    upsample: bool = False,
    thumbnails: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | bool | None = None,
) -> TilesTable:
    """Cut slides into square tiles on tissue, and write a table of them that `headwater.embed` reads.

    Only a thumbnail of each slide is read. Tissue is found on it by Otsu's threshold of the saturation, without black
    borders and marks of pens.

    Parameters
    ----------
    slides
        Slides, folders of slides, or a table (CSV, Parquet, …) with a column ``slide`` of their paths, whose other
        columns, such as labels and patients, every tile gets.
    out
        The table to write, ``.parquet`` or ``.csv``.
    mpp
        Micrometres per pixel of the tiles: 0.5 is a magnification of about 20, 0.25 of 40.
    size
        Pixels on a side of a tile.
    overlap
        Pixels that neighbouring tiles share.
    mask
        ``otsu`` for tiles on tissue, ``none`` for all tiles.
    min_tissue
        Least share of tissue in a tile, 0 to 1.
    mpp_of_slide
        Micrometres per pixel of the slides at full resolution, instead of what the files say.
    upsample
        Accept slides that are coarser than ``mpp``; their pixels are enlarged.
    thumbnails
        A folder for a picture of each slide with the tiles drawn on it.
    workers
        Slides read at once. Default: one per core.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.

    Returns
    -------
    TilesTable

    Raises
    ------
    InputError, ImageError, ManifestError, MissingExtra
        Each with one line that says what, where and what to do. Of several slides, those that cannot be cut are left
        out and named, unless none can.

    Examples
    --------
    >>> import headwater as hw  # doctest: +SKIP
    >>> hw.tiles("slides/", "tiles.parquet", mpp=0.5, size=224)  # doctest: +SKIP
    """
    target = table_file(out)
    folder = None if thumbnails is None else require_writable(thumbnails, "--thumbnails")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"--thumbnails {folder} is a file. Give a folder.")
    grid = _grid(mpp, size, overlap, mask, min_tissue, upsample)
    if mpp_of_slide is not None:
        _require_mpp("--mpp-of-slide", mpp_of_slide)
    files, columns = _slides_of(slides)
    say = progress_to(progress)
    made: list[pl.DataFrame] = []
    about: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    drawn: dict[str, Path] = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def one_slide(number: int) -> tuple[pl.DataFrame, dict[str, Any], Path | None] | HeadwaterError:
        path = files[number]
        try:
            slide = open_slide(path)
            tiled = tile_table(slide, grid, mpp_of_slide)
        except MissingExtra:
            raise
        except HeadwaterError as error:
            return error
        place = _seen_from(path, target.absolute().parent)
        facts = {"slide": place, **slide.about, "mpp": mpp_of_slide or slide.mpp, "n_tiles": len(tiled.table)}
        picture = None
        if folder is not None:
            picture = folder / f"{number + 1:0{len(str(len(files)))}d}-{_plain(path.stem)}.png"
            tiled.picture.save(picture)
        return tiled.table, {**facts, "n_places": tiled.n_places}, picture

    with (
        ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        counting(say, "cut slides", len(files), unit="slides") as update,
    ):
        for number, done in enumerate(pool.map(one_slide, range(len(files)))):
            path = files[number]
            if isinstance(done, HeadwaterError):
                if len(files) == 1:
                    raise done
                skipped[str(path)] = str(done)
            else:
                table, facts, picture = done
                about.append(facts)
                made.append(_with_names(table, facts["slide"], columns, number))
                if picture is not None:
                    drawn[str(path)] = picture
            update(number + 1, len(skipped))
    if not made:
        raise ImageError(
            f"none of {counted(len(files), 'slide')} can be cut into tiles, such as: {next(iter(skipped.values()))}"
        )
    whole = pl.concat(made)
    if whole.is_empty():
        raise InputError(
            f"no tile of {counted(len(made), 'slide')} has {min_tissue:.0%} of tissue. Lower --min-tissue, or pass "
            "--mask none."
        )
    write_table(whole, target)
    return TilesTable(whole, target, about, skipped, drawn)


def _grid(mpp: float, size: int, overlap: int, mask: str, min_tissue: float, upsample: bool) -> Grid:
    _require_mpp("--mpp", mpp)
    require_whole("--size", size, 1)
    if size > MOST_SIDE:
        raise InputError(f"--size must be at most {MOST_SIDE:,}, but is {size:,}.")
    require_whole("--overlap", overlap, 0)
    if overlap >= size:
        raise InputError(f"--overlap must be less than --size {size}, but is {overlap}.")
    one_of("--mask", mask, ("otsu", "none"))
    require_number("--min-tissue", min_tissue)
    if min_tissue > 1:
        raise InputError(f"--min-tissue is a share of 1, such as 0.5, but is {min_tissue:g}.")
    return Grid(float(mpp), int(size), int(overlap), mask, float(min_tissue), bool(upsample))


def _require_mpp(option: str, value: float) -> None:
    require_number(option, value, above=0)
    if not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
        raise InputError(
            f"{option} is in micrometres per pixel, {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}, but is {value:g}."
        )


def _slides_of(slides: Slides) -> tuple[list[Path], pl.DataFrame | None]:
    """Return distinct slides, and a row of other columns for each where a table names them."""
    given = [Path(slides)] if isinstance(slides, str | Path) else [Path(one) for one in slides]
    if not given:
        raise InputError("no slides: name files or folders.")
    tables = [path for path in given if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file()]
    if tables and len(given) > 1:
        raise InputError(f"{tables[0]} is a table of slides: pass it alone.")
    if tables:
        return _named_in(tables[0])
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            below = slides_in(path)
            if not below:
                raise InputError(f"{path}: there are no slides in this folder.")
            found += below
        else:
            found.append(path)
    distinct = list({str(path.absolute()): path for path in found}.values())
    require_utf8_names([str(path) for path in distinct], given[0])
    return distinct, None


def _named_in(path: Path) -> tuple[list[Path], pl.DataFrame]:
    table = read_table(path)
    column = next((name for name in NAMES if name in table.columns), None)
    if column is None:
        raise ManifestError(
            f"{path}: no column of slides. Call it slide; the columns are {', '.join(table.columns[:40])}."
        )
    named = table[column].cast(pl.String)
    if named.is_null().any() or (named.str.strip_chars() == "").any():
        raise ManifestError(f"{path}: a row has no path in column {column!r}. Fill it in, or leave the row out.")
    if named.n_unique() < len(named):
        twice = named.filter(named.is_duplicated())[0]
        raise ManifestError(f"{path}: {twice!r} is named in several rows. Name each slide once.")
    others = table.drop(column)
    if "id" in others.columns:
        others = others.drop("id") if "slide_id" in others.columns else others.rename({"id": "slide_id"})
    if clash := [name for name in others.columns if name in OWN]:
        raise ManifestError(f"{path}: headwater writes a column {clash[0]!r} for each tile. Rename this one.")
    return [path.parent / name for name in named.to_list()], others


def _with_names(table: pl.DataFrame, place: str, columns: pl.DataFrame | None, number: int) -> pl.DataFrame:
    """Add to tiles the path of their slide, ids, and the columns of the slide's row."""
    named = table.with_columns(pl.lit(place).alias("slide")).with_columns(
        pl.concat_str(pl.lit(f"{place}@"), "x", pl.lit(","), "y").alias("id")
    )
    named = named.select(OWN)
    if columns is None:
        return named
    row = columns[np.full(len(named), number, np.int64)]
    return named.hstack(row)


def _seen_from(slide: Path, folder: Path) -> str:
    """Return a slide's path relative to the folder of the table, so that both can be moved together."""
    place = Path(os.path.relpath(slide.absolute(), folder)).as_posix()
    return f"./{place}" if place[:1] in "=+-@" else place  # a spreadsheet would take it for a formula


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80] or "slide"
