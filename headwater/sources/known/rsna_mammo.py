"""RSNA Screening Mammography Breast Cancer Detection (Kaggle, 2023): 54,706 images of 11,913 patients, two sites.

References
----------
Carr et al., RSNA screening mammography breast cancer detection, Kaggle, 2022.
"""

from __future__ import annotations

import polars as pl

from headwater._words import counted
from headwater.errors import ManifestError
from headwater.sources._listing import Files
from headwater.sources.known._files import find_columns, only_present, whole
from headwater.sources.known._found import Asked, Count, Known, by_value, nothing, once
from headwater.sources.known._mammograms import breast, laterality

FILE = r"(?:^|/)(?P<patient>\d{1,6})[/_](?P<id>\d{3,12})\.(?i:dcm|png|jpg|jpeg|tif|tiff)$"
OF_BOTH = ("site_id", "patient_id", "image_id", "laterality", "view", "age", "implant", "machine_id")
OF_TRAIN = ("cancer", "biopsy", "invasive", "BIRADS", "density", "difficult_negative_case")
VIEWS = {"MLO": 27_903, "CC": 26_765, "AT": 19, "LM": 10, "ML": 8, "LMO": 1}
RESPLIT = 49_232
"""Rows of the train.csv of MLE-bench, which divides the published one again."""
_FLAGS = {"true": True, "false": False, "1": True, "0": False}
_WHOLE = {"site": "site_id", "machine": "machine_id", "implant": "implant", "label": "cancer"}
_WHOLE |= {"biopsy": "biopsy", "invasive": "invasive", "birads": "BIRADS"}


def read(files: Files, asked: Asked) -> Known:
    """Read the set from ``train.csv``, and ``test.csv`` if it is there.

    ``label`` is 1 for a breast with cancer. ``biopsy``, ``invasive``, ``birads`` and ``difficult_negative_case`` became
    known with or after it: they are outcomes. ``density`` is missing at one of the two sites.
    """
    there, twice = once(files.matching(FILE))
    above, what = not there.is_empty(), "RSNA Screening Mammography"
    train = find_columns(files, "train.csv", (*OF_BOTH, *OF_TRAIN), what, above=above)
    other = []
    try:
        test = find_columns(files, "test.csv", OF_BOTH, what, above=above)
    except ManifestError:
        if train is None:
            raise
        test, other = None, ["test.csv is of another set: it is left out"]
    if train is None and test is None:
        if there.is_empty():
            return nothing("rsna-mammo")
        raise ManifestError(f"{files.root}: train.csv is not there. Download it into this folder: it holds the labels.")
    parts = []
    if train is not None:
        parts.append(_rows(train[1], (*OF_BOTH, *OF_TRAIN), "train"))
    if test is not None:
        parts.append(_rows(test[1], OF_BOTH, "test"))
    table = pl.concat(parts, how="diagonal").unique(maintain_order=True)
    labelled = table.filter(pl.col("split") == "train")
    table = table.with_columns(pl.when(pl.col("label").is_in([0, 1])).then("label").alias("label") if train else [])
    counts = [] if train is None else _counts(labelled)
    said = [] if train is None else _traps(labelled)
    table = table.join(there.select("id", "image"), on="id", how="left", maintain_order="left")
    table, missing = only_present(table, files)
    first = ["id", "image", "patient", "breast", "laterality", "view", "label", "split"]
    first = [name for name in first if name in table.columns]
    table = table.select(*first, pl.exclude(first))
    outcomes = ("label", "biopsy", "invasive", "birads", "difficult_negative_case")
    return Known("rsna-mammo", table, counts, outcomes, ("patient", "breast"), [*missing, *twice, *other, *said])


def _rows(cells: pl.DataFrame, columns: tuple[str, ...], split: str) -> pl.DataFrame:
    """Return one of the two tables."""
    numbers = [whole(name).alias(new) for new, name in _WHOLE.items() if name in columns]
    flags = [
        pl.col("difficult_negative_case").str.to_lowercase().replace_strict(_FLAGS, default=None)
        for name in columns
        if name == "difficult_negative_case"
    ]
    density = [pl.col("density").str.to_uppercase() for name in columns if name == "density"]
    table = cells.select(
        pl.col("image_id").alias("id"),
        pl.col("patient_id").alias("patient"),
        laterality("laterality"),
        pl.col("view").str.to_uppercase(),
        *numbers,
        *density,
        *flags,
        pl.col("age").cast(pl.Float64, strict=False),
        pl.lit(split).alias("split"),
        pl.format(f"{split}_images/{{}}/{{}}.dcm", "patient_id", "image_id").alias("place"),
    )
    return table.with_columns(breast("patient"))


def _counts(table: pl.DataFrame) -> list[Count]:
    cancer = table.filter(pl.col("label") == 1)
    return [
        Count("images", table.height, 54_706),
        Count("patients", table["patient"].n_unique(), 11_913),
        Count("breasts", table["breast"].n_unique(), 23_826),
        Count("images with cancer", cancer.height, 1_158),
        Count("breasts with cancer", cancer["breast"].n_unique(), 492),
        Count("patients with cancer", cancer["patient"].n_unique(), 486),
        *by_value(table, "view", VIEWS, " views"),
    ]


def _traps(table: pl.DataFrame) -> list[str]:
    said = []
    if table.height == RESPLIT:
        said.append(
            f"train.csv has {RESPLIT:,} rows: this is the set as MLE-bench divides it, not as it was published (54,706)"
        )
    if odd := int((~table["label"].is_in([0, 1]).fill_null(False)).sum()):
        said.append(f"{counted(odd, 'row')} of train.csv whose cancer is neither 0 nor 1: no label")
    for (site,), rows in sorted(table.group_by("site"), key=lambda one: str(one[0])):
        if rows["density"].null_count() == rows.height and rows.height:
            said.append(
                f"site {site} ({counted(rows.height, 'image')}) has no density: it tells the site. Compare within a "
                "site, and do not use it as an input across sites"
            )
    nested = table.group_by("machine").agg(pl.col("site").n_unique()).filter(pl.col("site") > 1)
    if nested.is_empty() and table["site"].n_unique() > 1:
        said.append("each machine belongs to one site: machine tells the site too")
    capped = table.filter(pl.col("age") == 89).height
    if capped:
        said.append(
            f"ages are capped at 89 ({counted(capped, 'image')} at the cap), {table['age'].null_count():,} missing"
        )
    if table["birads"].drop_nulls().len():
        said.append(
            "birads, biopsy, invasive and difficult_negative_case are outcomes, never inputs; birads is 0, 1 or 2"
        )
    return said
