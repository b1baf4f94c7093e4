"""A folder of images that is no known data set: one subfolder per class, or no subfolders."""

from __future__ import annotations

import posixpath
from shlex import quote

import polars as pl

from headwater.sources._folder import dicom_without_suffix, read_folder
from headwater.sources._listing import Files
from headwater.sources.known._found import Asked, Count, Known


def read(files: Files, asked: Asked) -> Known:
    """Read a folder of images: ``id``, ``image`` and, with one subfolder per class, ``label``."""
    table = read_folder(files.root)
    said = _dicom_without_suffix(files)
    if "split" in table.columns:
        parts = ", ".join(sorted(table["split"].unique()))
        said.append(f"the subfolders are parts of a split ({parts}): they are the column split, not labels")
    if "label" not in table.columns:
        of = " of a class" if "split" in table.columns else ""
        said.append(f"the images lie in no subfolder{of}, so they have no label")
    else:
        said += _one_label(table, files)
    return Known(
        "folder",
        table,
        [Count("images", table.height)],
        outcomes=("label",),
        warnings=[*said, "no column keeps patients whole: read them from the names with --columns-from"],
    )


def _dicom_without_suffix(files: Files) -> list[str]:
    """Warn of DICOM files that are no images by their names; one of them is looked into."""
    first = dicom_without_suffix(files)
    return [f"files without a suffix are left out; {first!r} is DICOM: headwater manifest dicom"] if first else []


def _one_label(table: pl.DataFrame, files: Files) -> list[str]:
    """Warn if all images have one label, since the folder lies above that of the classes, or is one class."""
    labels = table["label"].drop_nulls().unique().to_list()
    if len(labels) != 1:
        return []
    said = f"all labels are {labels[0]!r}, the name of the only subfolder"
    common = posixpath.commonpath([posixpath.dirname(path) for path in table["image"].to_list()])
    if "split" not in table.columns and any(posixpath.dirname(path) != common for path in table["image"].to_list()):
        return [f"{said}. If the classes lie inside it, give that folder: {quote(str(files.root / common))}"]
    return [said]
