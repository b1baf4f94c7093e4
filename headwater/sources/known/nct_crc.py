"""NCT-CRC-HE-100K and CRC-VAL-HE-7K: colorectal tissue tiles of nine classes.

References
----------
Kather et al., 100,000 histological images of human colorectal cancer and healthy tissue, 2018;
doi 10.5281/zenodo.1214456. Ignatov & Malivenko, NCT-CRC-HE: not all histopathological datasets are equally useful,
arXiv:2409.11546.
"""

from __future__ import annotations

import polars as pl

from headwater.sources._listing import Files
from headwater.sources.known._found import Asked, Count, Known, misplaced, nothing, once

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
TRAIN, PLAIN, TEST = "NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM", "CRC-VAL-HE-7K"
_N_TRAIN = (10407, 10566, 11512, 11557, 8896, 13536, 8763, 10446, 14317)
_N_TEST = (1338, 847, 339, 634, 1035, 592, 741, 421, 1233)
PUBLISHED = {TRAIN: _N_TRAIN, PLAIN: _N_TRAIN, TEST: _N_TEST}
_CODES = "|".join(CLASSES)
FILE = rf"/(?:{_CODES})/(?P<name>(?P<label>{_CODES})-(?P<tcga>TCGA-)?[A-Za-z0-9]+)\.(?i:tif|tiff|png)$"
SET = rf"^.*/({PLAIN}|{TRAIN}|{TEST})/"  # the innermost one


def read(files: Files, asked: Asked) -> Known:
    """Read the tiles by their file names: ``set`` is the archive, ``split`` is ``test`` for CRC-VAL-HE-7K."""
    found = files.matching(FILE)
    if found.is_empty():
        return nothing("nct-crc")
    of_name = pl.when(pl.col("tcga").is_not_null()).then(pl.lit(TEST)).otherwise(pl.lit(TRAIN))
    table = found.with_columns(pl.col("full").str.extract(SET, 1).fill_null(of_name).alias("set"))
    name = pl.when(pl.col("name").is_unique()).then("name").otherwise(pl.format("{}/{}", "set", "name"))
    split = pl.when(pl.col("set") == TEST).then(pl.lit("test")).otherwise(pl.lit("train"))
    wrong = misplaced(table, table["full"], {one: one for one in CLASSES})
    table, said = once(table.select(name.alias("id"), "image", "label", "set", split.alias("split")))
    said += wrong
    there = [one for one in PUBLISHED if one in set(table["set"].unique())]
    counts = []
    for one in there:
        n_of = dict(table.filter(pl.col("set") == one)["label"].value_counts().iter_rows())
        counts.append(Count(one, sum(n_of.values()), sum(PUBLISHED[one])))
        counts += [Count(f"{one} {c}", n_of.get(c, 0), n) for c, n in zip(CLASSES, PUBLISHED[one], strict=True)]
    said += [
        "no patients or slides are named: any split inside the 100,000 images divides patients. Train on it whole, and "
        "test on CRC-VAL-HE-7K with --split split",
        "colours and JPEG artefacts differ between classes: report builtin:texture beside the encoder",
    ]
    if TRAIN in there and PLAIN in there:
        said.append(f'{TRAIN} and {PLAIN} hold the same tiles: choose one with --where "\\"set\\" <> \'{PLAIN}\'"')
    if TEST not in there:
        said.append(f"{TEST} is not there: without it there is no honest test set")
    return Known("nct-crc", table, counts, ("label",), (), said)
