"""BreakHis: breast histology at four magnifications, 7,909 images of 82 slides.

References
----------
Spanhol et al., A dataset for breast cancer histopathological image classification, IEEE TBME 63(7), 2016;
doi 10.1109/TBME.2015.2496264.
"""

from __future__ import annotations

import re

import polars as pl

from headwater.sources._listing import Files
from headwater.sources.known._files import read_words
from headwater.sources.known._found import Asked, Count, Known, by_value, misplaced, nothing, once

FILE = (
    r"(?:^|/)(?P<id>SOB_(?P<label>[BM])_(?P<subtype>A|F|PT|TA|DC|LC|MC|PC)-(?P<year>\d\d)-(?P<number>\d+)"
    r"(?P<block>[A-Z]*)-(?P<magnification>40|100|200|400)-(?P<field>\d{3}))\.(?i:png)$"
)
SUBTYPES = {
    "A": "adenosis",
    "F": "fibroadenoma",
    "PT": "phyllodes tumor",
    "TA": "tubular adenoma",
    "DC": "ductal carcinoma",
    "LC": "lobular carcinoma",
    "MC": "mucinous carcinoma",
    "PC": "papillary carcinoma",
}
PUBLISHED = {"benign": 2480, "malignant": 5429}
BY_MAGNIFICATION = {"40": 1995, "100": 2081, "200": 2013, "400": 1820}
BY_SUBTYPE = dict(zip(SUBTYPES.values(), (444, 1014, 453, 569, 3451, 626, 792, 560), strict=True))
MOST = 4 << 20
"""Most bytes of a file of a published split, which has 7,909 lines."""
FOLDS = re.compile(r"(?:^|/)dsfold([1-9])\.txt$")


def read(files: Files, asked: Asked) -> Known:
    """Read BreakHis by its file names.

    ``slide`` is the published unit, such as ``14-22549AB``; ``patient`` is its number without the letters of the
    blocks, ``14-22549``. The five published random splits become ``repeat1`` to ``repeat5`` if their files are there.
    """
    found, said = once(files.matching(FILE))
    if found.is_empty():
        return nothing("breakhis")
    table = found.select(
        "id",
        "image",
        pl.col("label").replace_strict({"B": "benign", "M": "malignant"}),
        pl.col("subtype").replace_strict(SUBTYPES),
        pl.col("magnification").cast(pl.Int64),
        pl.format("{}-{}", "year", "number").alias("patient"),
        pl.format("{}-{}{}", "year", "number", "block").alias("slide"),
    )
    said += misplaced(table, found["full"], {one: one for one in PUBLISHED})
    table, of_folds = _with_repeats(table, files)
    said += of_folds
    both = table.group_by("slide").agg(pl.col("subtype").unique().sort()).filter(pl.col("subtype").list.len() > 1)
    for slide, subtypes in both.sort("slide").iter_rows():
        number = slide.partition("-")[2]
        said.append(
            f"slide {number} is filed under two subtypes ({' and '.join(subtypes)}), very likely with the same images: "
            f"leave it out of a study of subtypes with --where \"slide <> '{slide}'\""
        )
    several = table.group_by("patient").agg(pl.col("slide").n_unique()).filter(pl.col("slide") > 1).height
    if several:
        said.append(
            f"{several:,} numbers occur with several block letters (such as 22549AB and 22549G): pass --groups "
            "patient; published splits by slide put blocks of one number on both sides"
        )
    counts = [
        Count("images", table.height, 7909),
        *by_value(table, "label", PUBLISHED),
        *by_value(table.with_columns(pl.col("magnification").cast(pl.String)), "magnification", BY_MAGNIFICATION, "X"),
        *by_value(table, "subtype", BY_SUBTYPE),
        Count("slides", table["slide"].n_unique(), 81),
        Count("patients (slide numbers without block letters)", table["patient"].n_unique(), 70),
    ]
    return Known("breakhis", table, counts, ("label", "subtype"), ("patient", "slide"), said)


def _with_repeats(table: pl.DataFrame, files: Files) -> tuple[pl.DataFrame, list[str]]:
    """Add the published random splits: lines such as ``SOB_B_A-14-22549AB-40-001.png|40|1|train``."""
    said = []
    for path in files.paths.filter(files.paths.str.contains(FOLDS.pattern)).to_list():
        number = FOLDS.search(path)
        assert number is not None
        lines = read_words(files.root / path, MOST).split("\n")
        cells = [[cell.strip() for cell in line.split("|")] for line in lines]
        sides = {
            row[0].rpartition(".")[0]: side
            for row in cells
            if (side := next((c.lower() for c in row[1:] if c.lower() in ("train", "test")), None))
        }
        name = f"repeat{number[1]}"
        if not sides:
            said.append(f"{path} has no lines such as NAME.png|40|1|train: {name} is left out")
            continue
        of_row = pl.col("id").replace_strict(sides, default=None, return_dtype=pl.String)
        table = table.with_columns(of_row.alias(name))
    if "repeat1" in table.columns:
        said.append("repeat1 to repeat5 are five random splits, not five folds: their test sets overlap")
    return table, said
