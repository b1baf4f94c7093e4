"""LC25000: 25,000 lung and colon tiles, made from 1,250 photographs by rotations and flips.

References
----------
Borkowski et al., Lung and colon cancer histopathological image dataset (LC25000), arXiv:1912.12142.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from headwater._words import counted
from headwater.errors import InputError, ManifestError
from headwater.sources._listing import Files
from headwater.sources.known._files import read_columns
from headwater.sources.known._found import Asked, Count, Known, by_value, misplaced, nothing, once

FILE = r"(?:^|/)(?P<id>(?P<code>colonca|colonn|lungaca|lungn|lungscc)(?P<number>\d{1,4}))\.(?i:jpeg|jpg|png)$"
LABELS = {
    "colonca": "colon_aca",
    "colonn": "colon_n",
    "lungaca": "lung_aca",
    "lungn": "lung_n",
    "lungscc": "lung_scc",
}
CLUSTERS = "final_clusters.csv"


def read(files: Files, asked: Asked) -> Known:
    """Read LC25000 by its file names; ``source`` is the photograph that a tile was made from, if clusters are given."""
    found, twice = once(files.matching(FILE))
    if found.is_empty():
        return nothing("lc25000")
    label = pl.col("code").replace_strict(LABELS).alias("label")
    table = found.select("id", "image", label, pl.col("code").str.extract("^(colon|lung)", 1).alias("organ"))
    twice += misplaced(table, found["full"], {one: one for one in LABELS.values()})
    counts = [Count("images", table.height, 25_000), *by_value(table, "label", dict.fromkeys(LABELS.values(), 5000))]
    if asked.groups_file is None:
        said = (
            "the tiles are about 20 rotations and flips of each of 1,250 photographs, so a random split tests on "
            "copies of training images. Give the clusters of LC25000-clean with --groups-file, or find a part "
            "of the copies: headwater audit STORE --groups-out source"
        )
        return Known("lc25000", table, counts, ("label",), (), [*twice, said])
    source_of = sources_in(asked.groups_file)
    table = table.join(source_of, on="id", how="left", maintain_order="left")
    said_of = [*twice, "photographs of one patient are not known: a split by source may still divide a patient"]
    if n := table["source"].null_count():
        said_of.append(f"{counted(n, 'image')} in no cluster: their source is empty")
    counts.append(Count("sources", table["source"].drop_nulls().n_unique(), 1250))
    return Known("lc25000", table, counts, ("label",), ("source",), said_of)


def sources_in(path: Path) -> pl.DataFrame:
    """Return the source photograph of each image: columns ``id`` and ``source``.

    A file has columns ``cluster_label`` and ``img_path``. In a folder, files called ``final_clusters.csv`` are read;
    if there are several for a class, those below ``resize_only``.

    Raises
    ------
    InputError
        When there is no such file.
    ManifestError
        When a table has other columns, or one image lies in two clusters.
    """
    if path.is_dir():
        below = Files.below(path)
        paths = below.paths.filter(below.names == CLUSTERS)
        chosen = paths.filter(paths.str.contains("resize_only")) if len(paths) > len(LABELS) else paths
        tables = [path / one for one in (chosen if len(chosen) else paths).to_list()]
        if not tables:
            raise InputError(
                f"--groups-file {path}: there is no {CLUSTERS} in this folder. Give the annotations folder."
            )
    elif path.is_file():
        tables = [path]
    else:
        raise InputError(f"--groups-file {path}: no such file or folder.")
    stem = pl.col("img_path").str.extract(r"([^/]*)\.[A-Za-z]+$", 1).str.replace("^colonaca", "colonca")
    parts = []
    for one in tables:
        cells = read_columns(one, ("cluster_label", "img_path"), "LC25000-clean")
        code = stem.str.extract(r"^([a-z]+)", 1)
        source = pl.format("{}-{}", code.replace_strict(LABELS, default=None), "cluster_label")
        parts.append(cells.select(stem.alias("id"), source.alias("source")).drop_nulls())
    pairs = pl.concat(parts).unique()
    twice = pairs.filter(pl.col("id").is_duplicated())["id"].sort()
    if len(twice):
        raise ManifestError(
            f"{path}: {twice[0]!r} lies in several clusters. Give the files of one clustering, such as UNI/resize_only."
        )
    return pairs
