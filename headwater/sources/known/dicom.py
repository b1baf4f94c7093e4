"""A folder of DICOM files as a table, from their headers."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from headwater.sources._listing import Files
from headwater.sources.dicom.table import SHOWN, DicomTable, read_dicom_files, read_or_make_salt, require_images
from headwater.sources.known._found import Asked, Count, Known, nothing


def read(files: Files, asked: Asked) -> Known:
    """Read ``id``, ``image``, ``patient``, ``exam``, and all else of `headwater.sources.dicom.table.COLUMNS`."""
    salt = read_or_make_salt(asked.salt or default_salt())
    found = read_dicom_files(files, salt=salt)
    if found.table.is_empty() and not found.skipped:
        return nothing("dicom")
    require_images(files.root, found)
    table = found.table.select(pl.col("image").alias("id"), pl.all())
    groups = [name for name in ("patient", "exam") if table[name].null_count() < table.height]
    return Known("dicom", table, _counts(found), groups=groups, warnings=[*_left_out(found), *found.warnings])


def default_salt() -> Path:
    """Return the place of the user's own salt, which is beside no data: ``~/.config/headwater/salt``."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "headwater" / "salt"


def _counts(found: DicomTable) -> list[Count]:
    numbers = {name: found.table[name].drop_nulls().n_unique() for name in ("patient", "exam")}
    return [
        Count("images", found.table.height),
        *(Count(f"{name}s", n) for name, n in numbers.items()),
        *([Count("files that are not DICOM", found.n_other)] if found.n_other else []),
    ]


def _left_out(found: DicomTable) -> list[str]:
    lines = found.reasons()
    more = sum(n for _, n in lines[SHOWN:])
    said = [line for line, _ in lines[:SHOWN]]
    return [*said, f"{more:,} more files left out, for other reasons"] if more else said
