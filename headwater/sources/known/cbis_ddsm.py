"""CBIS-DDSM: 3,103 scanned films of 1,566 women, with 3,568 masses and calcifications.

References
----------
Lee et al., A curated mammography data set for use in computer-aided detection and diagnosis research, Scientific Data
4, 2017; doi 10.1038/sdata.2017.177.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import polars as pl

from headwater._reading import read_regular
from headwater._words import counted
from headwater.errors import ImageError, ManifestError
from headwater.sources._listing import Files
from headwater.sources.images import size_of
from headwater.sources.known._files import find_columns, only_present, whole
from headwater.sources.known._found import Asked, Count, Known, nothing
from headwater.sources.known._mammograms import breast, laterality

TABLES = {
    "mass_case_description_train_set.csv": ("train", 1_318, 1_231),
    "mass_case_description_test_set.csv": ("test", 378, 361),
    "calc_case_description_train_set.csv": ("train", 1_546, 1_227),
    "calc_case_description_test_set.csv": ("test", 326, 284),
}
"""Each table with its split, its abnormalities and its films."""
COLUMNS = (
    *("patient_id", "left or right breast", "image view", "abnormality id", "abnormality type", "assessment"),
    *("pathology", "subtlety", "image file path", "cropped image file path", "ROI mask file path"),
)
MORE = ("mass shape", "mass margins", "calc type", "calc distribution")
FOLDER = r"(?:Mass|Calc)-(?:Training|Test)_P_\d{5}_(?:LEFT|RIGHT)_(?:CC|MLO)"
FILE = rf"/(?P<folder>{FOLDER})(?P<number>_\d+)?/(?:[^/]+/)*[^/]+\.(?i:dcm|png|jpg|jpeg|tif|tiff)$"
OF_SERIES = r"/(?P<series>[0-9]+(?:\.[0-9]+){5,})/[^/]+\.(?i:dcm|png|jpg|jpeg|tif|tiff)$"
PATHOLOGY = {"MALIGNANT": 1, "BENIGN": 0, "BENIGN_WITHOUT_CALLBACK": 0}


def read(files: Files, asked: Asked) -> Known:
    """Read CBIS-DDSM from its four tables: one row per film, or one row per abnormality with ``part="crop"``.

    ``patient`` is the woman, ``P_00001``; the PatientID of the DICOM files is another for each view. ``film`` is the
    view of a breast, which may occur in the set of masses and in that of calcifications. ``label`` of a film is
    malignant if anything on it is, in either set; ``pathology`` lists what this set says. ``in_both`` marks women
    who are in training and test, since masses and calcifications were divided separately.
    """
    known = not (files.matching(FILE).is_empty() and files.matching(OF_SERIES).is_empty())
    read_from = {name: find_columns(files, name, COLUMNS, "CBIS-DDSM", above=known) for name in TABLES}
    tables = {name: found for name, found in read_from.items() if found is not None}
    if not tables:
        if files.matching(FILE).is_empty():
            return nothing("cbis-ddsm")
        raise ManifestError(
            f"{files.root}: there is no {next(iter(TABLES))}. Download the four tables of cases into this folder: they "
            "hold the labels."
        )
    rows = pl.concat([_rows(path, cells, name) for name, (path, cells) in tables.items()], how="diagonal")
    said = [f"{name} is not there: its films are left out" for name in TABLES if name not in tables]
    counts = _counts(rows, tables)
    rows, zero = _without_zero(rows)
    said += zero + _traps(rows)
    rows = rows.with_columns(
        film_malignant=pl.col("malignant").max().over("film"),
        in_both=pl.col("split").n_unique().over("patient") > 1,
    )
    if asked.part == "crop":
        table, odd = _crops(rows, files)
    else:
        table, odd = _films(rows, files)
    outcomes = (
        *("label", "pathology", "type", "birads", "subtlety", "n_abnormalities"),
        *(name.replace(" ", "_") for name in MORE),
    )
    return Known("cbis-ddsm", table, counts, outcomes, ("patient", "breast"), [*odd, *said])


def _rows(path: Path, cells: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return one table: one row per abnormality."""
    density = next((c for c in ("breast_density", "breast density") if c in cells.columns), None)
    if density is None:
        raise ManifestError(f"{path}: there is no column breast_density or 'breast density'. Download it again.")
    more = [name for name in MORE if name in cells.columns]
    # a path cell may end in a newline, and hold one; the cells are stripped by now
    place = {short: pl.col(column).str.replace_all(r"\s+", "") for short, column in _PLACES.items()}
    table = cells.select(
        place["full"].str.extract(r"^([^/]+)/", 1).alias("folder"),
        pl.col("abnormality id").alias("number"),
        pl.col("patient_id").alias("patient"),
        laterality("left or right breast"),
        pl.col("image view").str.to_uppercase().alias("view"),
        pl.lit(TABLES[name][0]).alias("split"),
        pl.col("abnormality type").str.to_lowercase().alias("type"),
        whole(density).alias("density"),
        whole("assessment").alias("birads"),
        whole("subtlety"),
        pl.col("pathology").str.to_uppercase(),
        *(pl.col(one).alias(one.replace(" ", "_")) for one in more),
        *(place[short].alias(f"{short}_place") for short in place),
        *(place[short].str.extract(r"([^/]+)/[^/]+$", 1).alias(f"{short}_series") for short in place),
    )
    unknown = table.filter(~pl.col("pathology").is_in(list(PATHOLOGY)).fill_null(False))
    if unknown.height:
        raise ManifestError(
            f"{path}: pathology {unknown['pathology'][0]!r} of {unknown['folder'][0]} is none of "
            f"{', '.join(PATHOLOGY)}. Download it again."
        )
    return table.with_columns(
        pl.col("pathology").replace_strict(PATHOLOGY).alias("malignant"),
        pl.format("{}-{}-{}", "patient", "laterality", "view").alias("film"),
        breast("patient"),
    )


_PLACES = {"full": "image file path", "crop": "cropped image file path", "mask": "ROI mask file path"}


def _counts(rows: pl.DataFrame, paths: Collection[str]) -> list[Count]:
    whole = len(paths) == len(TABLES)
    each = rows.group_by("film").agg(pl.col("split", "type", "malignant").n_unique())
    women = rows.group_by("patient").agg(pl.col("split").n_unique())
    counts = [
        Count("abnormalities", rows.height, sum(TABLES[name][1] for name in paths)),
        Count("films", rows["folder"].n_unique(), sum(TABLES[name][2] for name in paths)),
    ]
    for what, found, published in (
        ("women", women.height, 1_566),
        ("distinct views", each.height, 3_032),
        ("women in both training and test", women.filter(pl.col("split") > 1).height, 31),
        ("views in both training and test", each.filter(pl.col("split") > 1).height, 29),
        ("views with masses and calcifications", each.filter(pl.col("type") > 1).height, 71),
        ("views with malignant and benign findings", each.filter(pl.col("malignant") > 1).height, 33),
    ):
        counts.append(Count(what, found, published if whole else None))
    return counts


def _without_zero(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Make a density of 0, which is none of the four grades, missing."""
    zero = rows.filter(~pl.col("density").is_between(1, 4)).height
    kept = pl.when(pl.col("density").is_between(1, 4)).then("density").alias("density")
    said = [f"{counted(zero, 'row')} with density 0, which is no grade: left empty"] if zero else []
    return rows.with_columns(kept), said


def _traps(rows: pl.DataFrame) -> list[str]:
    women = rows.group_by("patient").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1).height
    films = rows.group_by("film").agg(pl.col("split", "malignant").n_unique())
    same, mixed = films.filter(pl.col("split") > 1).height, films.filter(pl.col("malignant") > 1).height
    said = []
    if women:
        said.append(
            f"{women:,} women are in both training and test of the published split, with "
            f"{counted(same, 'identical view')}: masses and calcifications were divided separately. Use --groups "
            'patient with folds, or leave these women out with --where "in_both = false"'
        )
    if mixed:
        said.append(f"{counted(mixed, 'view')} with both a malignant and a benign finding: the film is malignant")
    return [*said, "the DICOM PatientID differs between views of one woman: use the column patient"]


def _films(rows: pl.DataFrame, files: Files) -> tuple[pl.DataFrame, list[str]]:
    """Return one row per film."""
    joined = [name for name in (one.replace(" ", "_") for one in MORE) if name in rows.columns]
    table = rows.group_by("folder", maintain_order=True).agg(
        pl.col("patient", "breast", "laterality", "view", "film", "split", "type", "in_both").first(),
        _label("film_malignant").first(),
        pl.col("density").drop_nulls().first(),
        pl.col("pathology").unique().sort(descending=True).str.join("; "),
        pl.col("birads", "subtlety").max(),
        *(pl.col(name).drop_nulls().unique().sort().str.join("; ").replace("", None) for name in joined),
        pl.len().cast(pl.Int64).alias("n_abnormalities"),
        pl.col("full_series").first().alias("series"),
        pl.col("full_place").first().alias("place"),
    )
    whole = files.matching(FILE).filter(pl.col("number").is_null())
    by_folder = whole.unique("folder", keep="first", maintain_order=True).select("folder", "image")
    of_series = files.matching(OF_SERIES).unique("series", keep="first", maintain_order=True)
    table = table.join(by_folder, on="folder", how="left", maintain_order="left")
    table = table.join(of_series.select("series", mirror="image"), on="series", how="left", maintain_order="left")
    table = table.with_columns(pl.coalesce("image", "mirror").alias("image")).drop("mirror", "series")
    table, said = only_present(table.rename({"folder": "id"}), files, "films")
    first = ["id", "image", "patient", "breast", "laterality", "view", "film", "label", "split"]
    return table.select(*first, pl.exclude(first)), said


def _crops(rows: pl.DataFrame, files: Files) -> tuple[pl.DataFrame, list[str]]:
    """Return one row per abnormality: ``image`` is the crop around it, ``mask`` the outline in the whole film.

    The tables name the two files wrongly in part. Where the folders of the archive do not say which is which, the
    larger image is the mask, which has the size of the whole film.
    """
    table = rows.with_columns(_label("malignant"), pl.format("{}_{}", "folder", "number").alias("id"))
    in_folder = files.matching(FILE).filter(pl.col("number").is_not_null())
    in_folder = in_folder.select((pl.col("folder") + pl.col("number")).alias("id"), "image")
    of_series = files.matching(OF_SERIES).select("series", "image")
    by_series = pl.concat(
        table.select("id", pl.col(f"{part}_series").alias("series")).join(of_series, on="series", how="inner")
        for part in ("crop", "mask")
    ).select("id", "image")
    pairs = pl.concat([in_folder, by_series]).unique().sort("id", "image")
    found: dict[str, tuple[str, str]] = {}
    unclear = 0
    for id, images in pairs.group_by("id", maintain_order=True).agg("image").iter_rows():
        told = _told_apart(files.root, images)
        if told is None:
            unclear += 1
        else:
            found[id] = told
    of_id = pl.DataFrame(
        [(id, crop, mask) for id, (crop, mask) in found.items()],
        schema=dict.fromkeys(("id", "image", "mask"), pl.String),
        orient="row",
    )
    table = table.join(of_id, on="id", how="left", maintain_order="left").rename({"crop_place": "place"})
    table, said = only_present(table, files, "crops")
    if unclear:
        said.append(f"the crop and the mask cannot be told apart in {unclear:,} abnormalities")
    drop = ["folder", "malignant", "film_malignant", "number", "full_place", "mask_place"]
    table = table.drop(*drop, "full_series", "crop_series", "mask_series")
    first = ["id", "image", "mask", "patient", "breast", "laterality", "view", "film", "label", "split"]
    return table.select(*first, pl.exclude(first)), said


def _label(malignant: str) -> pl.Expr:
    return pl.when(pl.col(malignant) == 1).then(pl.lit("malignant")).otherwise(pl.lit("benign")).alias("label")


def _told_apart(root: Path, images: list[str]) -> tuple[str, str] | None:
    """Return the crop and the mask among the files of one abnormality; None if that cannot be told."""
    crops = [one for one in images if "cropped" in one.lower()]
    masks = [one for one in images if "mask" in one.lower() and one not in crops]
    if len(crops) == 1 and len(masks) == 1:
        return crops[0], masks[0]
    if len(images) != 2:
        return None
    sizes = [_extent(root / one) for one in images]
    if sizes[0] == sizes[1]:
        return None
    return (images[0], images[1]) if sizes[0] < sizes[1] else (images[1], images[0])


def _extent(path: Path) -> int:
    """Return the pixels of an image, or the bytes of a file that is no image."""
    if path.suffix.lower() == ".dcm":
        return path.stat().st_size
    try:
        width, height = size_of(read_regular(path))
    except (ImageError, OSError):
        return path.stat().st_size
    return width * height
