"""VinDr-Mammo: 5,000 exams of four views, with BI-RADS, density and boxes of findings.

References
----------
Nguyen et al., VinDr-Mammo: a large-scale benchmark dataset for computer-aided diagnosis in full-field digital
mammography, Scientific Data 10, 2023; doi 10.1038/s41597-023-02100-7.
"""

from __future__ import annotations

import json

import polars as pl

from headwater._words import counted
from headwater.errors import ManifestError
from headwater.sources._listing import Files
from headwater.sources.known._files import find_columns, only_present, whole
from headwater.sources.known._found import Asked, Count, Known, by_value, nothing, once
from headwater.sources.known._mammograms import breast, laterality

FILE = r"/(?P<exam>[0-9a-f]{32})[/_](?P<id>[0-9a-f]{32})\.(?i:dicom|dcm|png|jpg|jpeg|tif|tiff)$"
TABLE, FINDINGS = "breast-level_annotations.csv", "finding_annotations.csv"
COLUMNS = (
    *("study_id", "series_id", "image_id", "laterality", "view_position", "height", "width"),
    *("breast_birads", "breast_density", "split"),
)
OF_FINDING = ("image_id", "finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax")
BIRADS = dict(zip("12345", (13_406, 4_676, 930, 762, 226), strict=True))
DENSITY = dict(zip("ABCD", (100, 1_908, 15_292, 2_700), strict=True))
CATEGORIES = {
    "No Finding": 18_232,
    "Mass": 1_226,
    "Suspicious Calcification": 543,
    "Focal Asymmetry": 269,
    "Architectural Distortion": 119,
    "Asymmetry": 97,
    "Skin Thickening": 57,
    "Suspicious Lymph Node": 57,
    "Nipple Retraction": 37,
    "Global Asymmetry": 26,
    "Skin Retraction": 18,
}
_WORD = r"""'[^']*'|"[^"]*\""""
_LIST = rf"^\[\s*(?:(?:{_WORD})\s*(?:,\s*(?:{_WORD})\s*)*)?\]$"


def read(files: Files, asked: Asked) -> Known:
    """Read VinDr-Mammo from its tables: one row per image.

    ``birads`` (1 to 5) and ``density`` (A to D) are of the breast, by radiologists. ``finding_categories`` lists the
    categories of an image's findings, separated by semicolons, and ``finding_boxes`` their boxes as JSON text, in
    pixels. ``exam`` is the study; patients are not given.
    """
    there, twice = once(files.matching(FILE))
    annotated = find_columns(files, TABLE, COLUMNS, "VinDr-Mammo", above=not there.is_empty())
    if annotated is None:
        if there.is_empty():
            return nothing("vindr-mammo")
        raise ManifestError(f"{files.root}: {TABLE} is not there. Download it into this folder: it holds the labels.")
    path, cells = annotated
    cells = cells.unique(maintain_order=True)
    side = pl.col("split").str.to_lowercase().replace({"training": "train"})
    table = cells.select(
        pl.col("image_id").alias("id"),
        pl.col("study_id").alias("exam"),
        laterality("laterality"),
        pl.col("view_position").alias("view"),
        pl.col("breast_birads").str.extract(r"([0-6])\s*$", 1).cast(pl.Int64).alias("birads"),
        pl.col("breast_density").str.extract(r"\b([A-D])\s*$", 1).alias("density"),
        whole("height"),
        whole("width"),
        pl.col("series_id").alias("series"),
        side.alias("split"),
        pl.format("images/{}/{}.dicom", "study_id", "image_id").alias("place"),
    )
    counts = [
        Count("images", table.height, 20_000),
        Count("exams", table["exam"].n_unique(), 5_000),
        *by_value(table, "split", {"train": 16_000, "test": 4_000}, " images"),
        *by_value(table.with_columns(pl.col("birads").cast(pl.String)), "birads", BIRADS, " by BI-RADS"),
        *by_value(table, "density", DENSITY, " by density"),
    ]
    table = table.join(there.select("id", "image"), on="id", how="left", maintain_order="left")
    table, said = only_present(table, files)
    said += twice
    found = find_columns(files, FINDINGS, OF_FINDING, "VinDr-Mammo", above=files.root not in path.parents)
    if found is None:
        said.append(f"{FINDINGS} is not there: no findings are listed")
    else:
        findings, cells = found
        each, of_image = _findings(cells, findings)
        counts += by_value(each, "category", CATEGORIES)
        table = table.join(of_image, on="id", how="left", maintain_order="left")
    differ = table.group_by("exam").agg(pl.col("density").drop_nulls().n_unique()).filter(pl.col("density") > 1).height
    if differ:
        said.append(f"in {counted(differ, 'exam')} left and right differ in density: it is a label of the breast")
    said += [
        "patients are not given: whether two exams are of one woman is not known. Use --groups exam",
        "birads is the radiologists' opinion: there is no pathology. Benign findings (BI-RADS 2) have no boxes",
    ]
    first = ["id", "image", "exam", "breast", "laterality", "view", "birads", "density"]
    table = table.with_columns(breast("exam"))
    table = table.select(*first, pl.exclude(first))
    outcomes = ("birads", "finding_categories", "finding_birads", "n_boxes", "finding_boxes")
    return Known("vindr-mammo", table, counts, outcomes, ("exam", "breast"), said)


def _finite(column: str) -> pl.Expr:
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number).alias(column)


def _findings(cells: pl.DataFrame, path: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return one row per category of a finding, and one row per image with its findings."""
    lists = cells["finding_categories"].fill_null("[]")
    odd = cells.filter(~lists.str.contains(_LIST))
    if odd.height:
        raise ManifestError(
            f"{path}: the finding_categories of image {odd['image_id'][0]!r} are no list such as ['Mass']: "
            f"{odd['finding_categories'][0]!r:.60}. Get the file as it was published."
        )
    words = lists.str.extract_all(_WORD).list.eval(pl.element().str.slice(1, pl.element().str.len_chars() - 2))
    rows = cells.select(
        pl.col("image_id").alias("id"),
        words.alias("categories"),
        pl.col("finding_birads").str.extract(r"([0-6])\s*$", 1).cast(pl.Int64).alias("birads"),
        *(_finite(name) for name in ("xmin", "ymin", "xmax", "ymax")),
    )
    each = rows.select("id", "categories").explode("categories").drop_nulls().rename({"categories": "category"})
    boxed = rows.drop_nulls("xmin")
    boxes: dict[str, list[dict[str, object]]] = {}
    for id, categories, birads, *box in boxed.iter_rows():
        boxes.setdefault(id, []).append({"categories": categories, "birads": birads, "box": box})
    of_image = (
        each.group_by("id", maintain_order=True)
        .agg(pl.col("category").unique().sort())
        .select("id", pl.col("category").list.join("; ").alias("finding_categories"))
    )
    worst = rows.group_by("id").agg(pl.col("birads").max().alias("finding_birads"))
    as_json = pl.DataFrame(
        {
            "id": list(boxes),
            "n_boxes": list(map(len, boxes.values())),
            "finding_boxes": list(map(json.dumps, boxes.values())),
        },
        schema={"id": pl.String, "n_boxes": pl.Int64, "finding_boxes": pl.String},
    )
    joined = of_image.join(worst, on="id", how="left").join(as_json, on="id", how="left")
    return each, joined.with_columns(pl.col("n_boxes").fill_null(0))
