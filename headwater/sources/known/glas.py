"""GlaS (Warwick-QU): 165 colorectal images of 16 patients, with the outlines of glands.

References
----------
Sirinukunwattana et al., Gland segmentation in colon histology images: the GlaS challenge contest, Medical Image
Analysis 35, 2017; doi 10.1016/j.media.2016.08.008.
"""

from __future__ import annotations

import polars as pl

from headwater._words import counted
from headwater.sources._listing import Files
from headwater.sources.known._files import find_columns
from headwater.sources.known._found import Asked, Count, Known, nothing, once

FILE = r"(?:^|/)(?P<id>(?P<part>train|testA|testB)_\d{1,3})\.(?i:bmp|png|jpg|jpeg|tif)$"
MASK = r"(?:^|/)(?P<id>(?:train|testA|testB)_\d{1,3})_anno\.(?i:bmp|png|tif)$"
TABLE = "Grade.csv"
GRADE, GRADE_2015 = "grade (GlaS)", "grade (Sirinukunwattana et al. 2015)"
PUBLISHED = {
    ("train", "benign"): 37,
    ("train", "malignant"): 48,
    ("testA", "benign"): 33,
    ("testA", "malignant"): 27,
    ("testB", "benign"): 4,
    ("testB", "malignant"): 16,
}


def read(files: Files, asked: Asked) -> Known:
    """Read GlaS: images by their names, labels and patients from ``Grade.csv``.

    ``split`` is ``train`` or ``test``, ``part`` names the two test sets; ``mask`` is the file with the glands.
    """
    found, said = once(files.matching(FILE))
    if found.is_empty():
        return nothing("glas")
    side = pl.when(pl.col("part") == "train").then(pl.lit("train")).otherwise(pl.lit("test"))
    table = found.select("id", "image", "part", side.alias("split"))
    masks = files.matching(MASK).select("id", pl.col("image").alias("mask"))
    if masks.height:
        table = table.join(masks.unique("id"), on="id", how="left", maintain_order="left")
    n = table.height
    graded = find_columns(files, TABLE, ("name", "patient ID", GRADE, GRADE_2015), "GlaS")
    if graded is None:
        none = f"{TABLE} is not there: without it there are no labels and no patients. It lies in the archive"
        return Known("glas", table, [Count("images", n, 165)], (), (), [*said, none])
    _, cells = graded
    grades = cells.select(
        pl.col("name").alias("id"),
        pl.col(GRADE).str.to_lowercase().alias("label"),
        pl.col(GRADE_2015).str.to_lowercase().str.replace("differentated", "differentiated").alias("grade"),
        pl.col("patient ID").alias("patient"),
    ).unique()
    table = table.join(grades, on="id", how="left", maintain_order="left")
    if without := table["label"].null_count():
        said.append(f"{counted(without, 'image')} not in {TABLE}: no label, no patient")
    said += _across(table)
    counts = [Count("images", n, 165)]
    for (part, label), published in PUBLISHED.items():
        here = table.filter((pl.col("part") == part) & (pl.col("label") == label)).height
        counts.append(Count(f"{part} {label}", here, published))
    counts.append(Count("patients", table["patient"].drop_nulls().n_unique(), 16))
    return Known("glas", table, counts, ("label", "grade"), ("patient",), said)


def _across(table: pl.DataFrame) -> list[str]:
    """Warn of patients on both sides of the published split, and of those with both labels."""
    of_patient = table.drop_nulls("patient").group_by("patient")
    each = of_patient.agg(pl.col("split").n_unique(), pl.col("label").drop_nulls().n_unique())
    both, mixed = each.filter(pl.col("split") > 1).height, each.filter(pl.col("label") > 1).height
    out = []
    if both:
        out.append(
            f"{both:,} of {counted(each.height, 'patient')} are in both training and test of the published split: it "
            "is not a split by patient. Use --groups patient with folds"
        )
    if mixed:
        out.append(f"{counted(mixed, 'patient')} have images of both labels")
    return out
