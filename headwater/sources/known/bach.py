"""BACH (ICIAR 2018): 400 breast histology images of four classes, and 100 test images without labels.

References
----------
Aresta et al., BACH: grand challenge on breast cancer histology images, Medical Image Analysis 56, 2019;
doi 10.1016/j.media.2019.05.010.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from headwater._words import counted
from headwater.errors import ManifestError
from headwater.sources._listing import Files
from headwater.sources.known._files import read_words
from headwater.sources.known._found import Asked, Count, Known, by_value, misplaced, nothing, once
from headwater.sources.known._groups import read_groups

LABELS = {"n": "Normal", "b": "Benign", "is": "InSitu", "iv": "Invasive"}
FILE = r"/(?:Normal|Benign|InSitu|Invasive)/(?P<id>(?P<code>n|b|is|iv)\d{3})\.(?i:tiff?)$"
TEST = r"(?i:test)[^/]*/(?:[^/]+/)*(?P<id>test\d{1,3})\.(?i:tiff?)$"
NAME = r"^(?:.*/)?((?:n|b|is|iv)\d{3})(?:\.(?i:tiff?))?$"
MOST = 1 << 20
"""Most bytes of the list of labels, which has 400 lines."""
TRUTH = "microscopy_ground_truth.csv"
VALIDATION = ((41, 59), (60, 90), (139, 169), (240, 258), (260, 273), (345, 368))
"""Half-open ranges of eva's validation images among the 400 sorted by class and name, counted from 0."""


def read(files: Files, asked: Asked) -> Known:
    """Read BACH by its file names; ``patient`` comes from the table of patients, which names 145 of the 400 images.

    ``split`` is ``train`` for the labelled archive and ``test`` for the unlabelled one. With all 400 images,
    ``eva_split`` holds the training and validation images of kaiko's eva.
    """
    labelled, said = once(files.matching(FILE))
    test, twice = once(files.matching(TEST))
    if labelled.is_empty() and test.is_empty():
        return nothing("bach")
    train = labelled.select("id", "image", pl.col("code").replace_strict(LABELS).alias("label"), split=pl.lit("train"))
    said += misplaced(train, labelled["full"], {one: one for one in LABELS.values()})
    unlabelled = test.select("id", "image", label=pl.lit(None, pl.String), split=pl.lit("test"))
    table = pl.concat([train.sort("label", "id"), unlabelled])
    said += twice + _disagreeing(table, files)
    if train.height == 400:
        values = ["val" if _in_validation(n) else "train" for n in range(400)]
        table = table.with_columns(eva_split=pl.Series([*values, *[None] * (table.height - 400)], dtype=pl.String))
    patients = {} if asked.groups_file is None else patients_in(asked.groups_file)
    patient = pl.col("id").replace_strict(patients, default=None, return_dtype=pl.String)
    table = table.with_columns(patient.alias("patient"))
    groups: tuple[str, ...] = ()
    if patients:
        n = int(table.filter(pl.col("split") == "train")["patient"].null_count())
        groups = ("patient",)
        unknown = (
            f"{counted(n, 'training image')} of no known patient: they are of other patients than the named ones, but "
            "may be of one patient among each other. Their patient stays empty; --groups patient needs --where "
            '"patient IS NOT NULL"'
        )
        said += [unknown] if n else []
    else:
        table = table.drop("patient")
        said.append(
            "the archive names no patients: give the challenge's table of them (145 of 400 images) with --groups-file; "
            "without it, no split is known to keep patients whole"
        )
    counts = [
        Count("training images", train.height, 400),
        *by_value(train, "label", dict.fromkeys(LABELS.values(), 100)),
        *([Count("test images", test.height, 100)] if test.height else []),
    ]
    if patients:
        known = table["patient"].drop_nulls()
        counts += [Count("images with a patient", len(known), 145), Count("patients", known.n_unique(), 29)]
    return Known("bach", table, counts, ("label",), groups, said)


def _in_validation(n: int) -> bool:
    return any(first <= n < end for first, end in VALIDATION)


def patients_in(path: Path) -> dict[str, str]:
    """Return the patient of each image that a table names.

    The column of images is the one with names such as ``b032.tif``; that of patients is named so, or is the only other.

    Raises
    ------
    ManifestError
        When there are no such columns, or one image has two patients.
    """
    table = read_groups(path)
    n_of = {name: int(table[name].str.strip_chars().str.contains(NAME).sum()) for name in table.columns}
    image = max(n_of, key=lambda name: n_of[name])
    others = [name for name in table.columns if name != image and table[name].null_count() < table.height]
    named = [name for name in others if "patient" in name.lower()] or others
    if not n_of[image] or len(named) != 1:
        raise ManifestError(
            f"{path}: there must be one column of images such as b032.tif, and one called patient. Columns: "
            f"{', '.join(table.columns)}."
        )
    names = table.select(
        pl.col(image).str.strip_chars().str.extract(NAME, 1).alias("id"), pl.col(named[0]).str.strip_chars().alias("p")
    )
    pairs = names.filter(pl.col("id").is_not_null() & pl.col("p").is_not_null() & (pl.col("p") != "")).unique()
    twice = pairs.filter(pl.col("id").is_duplicated())["id"].sort()
    if len(twice):
        raise ManifestError(f"{path}: image {twice[0]!r} has several patients. Correct the table.")
    return dict(pairs.iter_rows())


def _disagreeing(table: pl.DataFrame, files: Files) -> list[str]:
    """Warn if the list of labels that comes with the images says something else than their names."""
    found = files.called(TRUTH)
    if not found:
        return []
    rows = re.findall(r"(?m)^[ \t]*(\w{4,5})\.tif[ \t]*,[ \t]*(\w{4,10})[ \t]*$", read_words(found[0], MOST))
    label_of = dict(zip(*table.select("id", "label").to_dict(as_series=False).values(), strict=True))
    differ = [name for name, label in rows if label_of.get(name, label) != label]
    if not differ:
        return []
    return [f"{TRUTH} gives another label than the name of {counted(len(differ), 'image')}, such as {differ[0]}"]
