"""MIAS and mini-MIAS: 322 digitised films of 161 women.

References
----------
Suckling et al., The Mammographic Image Analysis Society digital mammogram database, Excerpta Medica 1069, 1994.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from headwater._words import counted
from headwater.sources._listing import Files
from headwater.sources.known._files import read_words
from headwater.sources.known._found import Asked, Count, Known, by_value, nothing, once
from headwater.sources.known._mammograms import breast

FILE = r"(?i)(?:^|/)(?P<id>mdb(?P<number>\d{3}))(?:[a-z]{2})?\.(?:pgm|png|jpg|jpeg|tif|bmp)$"
TABLES = ("Info.txt", "README", "README.txt", "00README", "00README.txt")
ROW = re.compile(
    r"^[ \t]*(mdb\d{3})[a-z]*[ \t]+([FGD])[ \t]+(CALC|CIRC|SPIC|MISC|ARCH|ASYM|NORM)"
    r"(?:[ \t]+([BM])(?:[ \t]+(?:(\d{1,4})[ \t]+(\d{1,4})(?:[ \t]+(\d{1,4}))?|\*NOTE[ \t]*3\*))?)?[ \t]*$",
    re.MULTILINE,
)
DENSITY = {"F": "fatty", "G": "fatty-glandular", "D": "dense-glandular"}
BY_DENSITY = {"fatty": 106, "fatty-glandular": 104, "dense-glandular": 112}
SEVERITY = {"B": "benign", "M": "malignant"}
MOST = 1 << 20
"""Most bytes of the table of findings, which has 330 lines."""
HEIGHT = 1024
"""Rows of an image of mini-MIAS, from whose bottom the table counts."""


def read(files: Files, asked: Asked) -> Known:
    """Read MIAS: films by their names, findings from ``Info.txt`` or the README.

    ``label`` is normal, benign or malignant, the worst of a film's lesions. ``lesions`` is JSON text: a list of the
    class, severity, ``x``, ``y`` and ``radius`` of each, in pixels of the 1024 x 1024 film, ``y`` from the top. Two
    consecutive films are of one woman: the odd number is the right breast, the even one the left.
    """
    found, said = once(files.matching(FILE).with_columns(pl.col("id").str.to_lowercase()))
    if found.is_empty():
        return nothing("mias")
    number = pl.col("number").cast(pl.Int64)
    patient = ((number + 1) // 2).cast(pl.String).str.zfill(3)
    table = found.select(
        "id",
        "image",
        patient.alias("patient"),
        patient.alias("exam"),
        pl.when(number % 2 == 0).then(pl.lit("L")).otherwise(pl.lit("R")).alias("laterality"),
        pl.lit("MLO").alias("view"),
    )
    table = table.select("id", "image", "patient", "exam", breast("patient"), "laterality", "view")
    counts = [Count("films", table.height, 322), Count("women", table["patient"].n_unique(), 161)]
    films = _films(files)
    if films is None:
        none = f"no {' or '.join(TABLES[:2])} with the findings is there: without it there are no labels"
        return Known("mias", table, counts, (), ("patient",), [*said, none])
    path, rows = films
    lesions = _lesions(rows)
    table = table.join(lesions, on="id", how="left", maintain_order="left")
    counts += by_value(table, "density", BY_DENSITY)
    several = table.filter(pl.col("n_lesions") > 1)["id"].to_list()
    if several:
        said.append(
            f"{counted(len(several), 'film')} with several lesions ({', '.join(several)}): one row each, worst first"
        )
    unplaced = sum(1 for row in rows if row[2] != "NORM" and not row[4] and row[0] in set(table["id"]))
    if unplaced:
        said.append(f"{counted(unplaced, 'lesion')} without a place in {path.name} (spread through the breast)")
    if n := table["label"].null_count():
        said.append(f"{counted(n, 'film')} not in {path.name}: no label")
    outcomes = ("label", "abnormality", "severity", "n_lesions", "lesions")
    return Known("mias", table, counts, outcomes, ("patient", "breast"), said)


Row = tuple[str, str, str, str, str, str, str]


def _films(files: Files) -> tuple[Path, list[Row]] | None:
    """Return the rows of the table of findings, and its file; None if there is none."""
    for name in TABLES:
        for path in files.called(name):
            rows = ROW.findall(read_words(path, MOST))
            if rows:
                return path, rows
    return None


def _lesions(rows: list[Row]) -> pl.DataFrame:
    """Return one row per film from one row per lesion."""
    films: dict[str, dict[str, Any]] = {}
    for id, density, kind, severity, x, y, radius in rows:
        film = films.setdefault(id, {"id": id, "density": DENSITY[density], "found": []})
        if kind == "NORM":
            continue
        one: dict[str, Any] = {"class": kind, "severity": SEVERITY.get(severity)}
        if x:
            one |= {"x": int(x), "y": HEIGHT - int(y), "radius": int(radius) if radius else None}
        if one not in film["found"]:
            film["found"].append(one)
    out = []
    for film in films.values():
        lesions = sorted(film["found"], key=lambda one: one["severity"] != "malignant")
        severities = [one["severity"] for one in lesions if one["severity"]]
        worst = max(severities, default=None)  # malignant comes after benign
        out.append(
            {
                "id": film["id"],
                "label": (worst or "unknown") if lesions else "normal",
                "density": film["density"],
                "abnormality": "; ".join(sorted({one["class"] for one in lesions})) or "NORM",
                "severity": worst,
                "n_lesions": len(lesions),
                "lesions": json.dumps(lesions),
            }
        )
    text = ("id", "label", "density", "abnormality", "severity")
    return pl.DataFrame(out, schema={**dict.fromkeys(text, pl.String), "n_lesions": pl.Int64, "lesions": pl.String})
