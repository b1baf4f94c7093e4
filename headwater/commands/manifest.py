"""The commands on tables: manifest, which writes one, and samples, which puts one into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import show

Kind = Literal[
    "breakhis",
    "bach",
    "quilt",
    "mias",
    "vindr-mammo",
    "rsna-mammo",
    "cbis-ddsm",
    "glas",
    "lc25000",
    "nct-crc",
    "dicom",
    "folder",
]


def manifest(
    kind: Annotated[Kind, o.typer.Argument(metavar="KIND", help="The data set, or folder for any folder of images.")],
    folder: Annotated[Path, o.typer.Argument(metavar="DIR", help="Where it was unpacked; a partial download will do.")],
    out: Annotated[
        Path, option("--out", "-o", panel=o.OUTPUT, metavar="FILE", help="The manifest to write, .csv or .parquet.")
    ],
    columns_from: Annotated[
        str | None,
        option(
            panel=o.DATA,
            metavar="REGEX",
            help="Named groups of this expression, searched in image paths, become columns: (?P<patient>[^_/]+)_.",
        ),
    ] = None,
    groups_file: Annotated[
        Path | None,
        option(
            panel=o.DATA,
            metavar="FILE",
            help="Which images belong together: the patients of bach (.xlsx, .csv), the clusters of lc25000 (.csv).",
        ),
    ] = None,
    part: Annotated[
        Literal["full", "crop"],
        option(panel=o.DATA, help="cbis-ddsm: full mammograms, or the crop around each abnormality."),
    ] = "full",
    salt: Annotated[
        Path | None,
        option(
            panel=o.DATA,
            metavar="FILE",
            help="dicom: the secret that patients are hashed with, made if missing. Default: ~/.config/headwater/salt.",
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Write a known data set as a manifest.

    Its columns hold labels, the published split, and what must stay together, such as the patient. Counts are compared
    with the published ones, and each known trap of the set is named.

    Data sets: breakhis, bach, quilt, mias, vindr-mammo, rsna-mammo, cbis-ddsm, glas, lc25000, nct-crc; dicom, for
    any folder of DICOM files; or folder, for any folder of images.

    Example:
      headwater manifest breakhis BreaKHis_v1 -o breakhis.parquet
      headwater manifest dicom scans -o scans.parquet
      headwater manifest folder scans -o scans.csv --columns-from '(?P<patient>[^_/]+)_(?P<side>[LR])'
    """
    from headwater import api

    made = api.manifest(kind, folder, out=out, columns_from=columns_from, groups_file=groups_file, part=part, salt=salt)
    show(made.lines(), made.to_dict(), json)


def samples(
    store: o.Store,
    manifest: o.Manifest,
    image: o.ImageColumn = None,
    text: o.TextColumn = None,
    id: o.IdColumn = None,
    workers: o.Workers = None,
    rehash: Annotated[bool, option("--rehash", panel=o.DATA, help="Read files again that look unchanged.")] = False,
    json: o.Json = False,
) -> None:
    """Replace the samples table of a store.

    The features stay as they are, and no encoder runs: for new labels, new groups, or fewer rows. Samples without
    features are named.

    Example:
      headwater samples scans.hw scans-with-grades.csv
    """
    from headwater import api

    done = api.samples(store, manifest, image=image, text=text, id=id, workers=workers, rehash=rehash, progress=True)
    show(done.lines(), done.to_dict(), json)
