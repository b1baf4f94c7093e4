"""Quilt-1M: pairs of pathology images and captions, most from teaching videos.

References
----------
Ikezogwo et al., Quilt-1M: one million image-text pairs for histopathology, NeurIPS 2023; arXiv:2306.11207.
"""

from __future__ import annotations

import polars as pl

from headwater._words import counted
from headwater.errors import ManifestError
from headwater.sources._listing import Files
from headwater.sources.known._files import find_columns, only_present, whole
from headwater.sources.known._found import Asked, Count, Known, nothing, once

TABLE = "quilt_1M_lookup.csv"
COLUMNS = ("caption", "image_path", "subset")
KEPT = ("subset", "split", "pathology", "roi_text", "noisy_text", "corrected_text", "med_umls_ids", "magnification")
FILE = r"(?:^|/)(?P<file>[^/]+\.(?i:jpg|jpeg|png))$"
WORD = r"""'[^']*'|"[^"]*\""""
LIST = rf"^\[\s*(?:(?:{WORD})\s*,?\s*)*\]$"
OF_VIDEO = r"^(.+?)_image_"


def read(files: Files, asked: Asked) -> Known:
    """Read Quilt-1M from its table: one row per pair, so an image with several captions has several rows.

    ``pathology`` has labels separated by semicolons, also where the table has a list such as ``['Breast', 'Bone']``.
    ``video`` is the part of an image's name before ``_image_``. Images of the other subsets have no video: each is a
    group of its own, named by its file.
    """
    there = files.matching(FILE)
    known = not there.filter(pl.col("file").str.contains(OF_VIDEO)).is_empty()
    found = find_columns(files, TABLE, COLUMNS, "Quilt-1M", above=known)
    if found is None:
        if not known:
            return nothing("quilt")
        raise ManifestError(f"{files.root}: {TABLE} is not there. Put it beside the images: it holds the captions.")
    _, cells = found
    file = pl.col("image_path").str.extract(r"([^/]+)$", 1)
    video = file.str.extract(OF_VIDEO, 1)
    kept = [_labels(name) if name == "pathology" else pl.col(name) for name in KEPT if name in cells.columns]
    numbers = [whole(name) for name in ("height", "width") if name in cells]
    table = cells.with_row_index("row").select(
        (pl.col("row") + 1).cast(pl.String).alias("id"),
        pl.col("caption").alias("text"),
        pl.coalesce(video, file).alias("video"),
        *kept,
        *numbers,
        video.is_not_null().alias("of_video"),
        file.alias("file"),
        file.alias("place"),
    )
    counts = [Count("pairs", table.height), Count("distinct images", table["file"].n_unique())]
    images, said = once(there.select("file", "image"), "file")
    unlisted = images.join(table, on="file", how="anti")["file"].sort()
    if len(unlisted):
        said.append(f"{counted(len(unlisted), 'image')} without a row in {TABLE}, such as {unlisted[0]}: left out")
    table = table.join(images, on="file", how="left", maintain_order="left")
    table, missing = only_present(table, files)
    n_rows, n_images = table.height, table["file"].n_unique()
    if n_rows > n_images:
        said.append(
            f"{n_rows:,} rows are pairs of {n_images:,} images: a random split of rows has images on both sides. Use "
            "--groups video"
        )
    if alone := table.filter(~pl.col("of_video"))["file"].n_unique():
        said.append(f"{counted(alone, 'image')} of no video: each is a group of its own, though sources may be shared")
    if "split" in table.columns:
        across = table.group_by("video").agg(pl.col("split").drop_nulls().n_unique()).filter(pl.col("split") > 1).height
        if across:
            said.append(f"{counted(across, 'video')} in several parts of the published split")
    table = table.select("id", "image", "text", "video", pl.exclude("id", "image", "text", "video", "of_video", "file"))
    return Known("quilt", table, counts, (), ("video",), [*missing, *said])


def _labels(column: str) -> pl.Expr:
    """Return lists that are written as Python does as labels separated by semicolons; others stay as they are."""
    words = pl.col(column).str.extract_all(WORD).list.eval(pl.element().str.slice(1, pl.element().str.len_chars() - 2))
    joined = words.list.join("; ")
    listed = pl.when(joined == "").then(None).otherwise(joined)
    return pl.when(pl.col(column).str.contains(LIST)).then(listed).otherwise(column).alias(column)
