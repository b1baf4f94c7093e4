"""Tables that a verb writes for its user, as CSV or Parquet."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from headwater._about import KEY, About, about_file
from headwater._tables import csv_bytes
from headwater._writable import require_writable
from headwater.errors import InputError


def table_file(out: str | Path) -> Path:
    """Return the path of a table to write.

    Raises
    ------
    InputError
        When it does not end in ``.csv`` or ``.parquet``, is a folder, or cannot be written.
    """
    path = require_writable(out)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {path}: give a file that ends in .csv or .parquet.")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder. Give a file.")
    return path


def manifest_file(out: str | Path) -> Path:
    """Return the path of a manifest to write, where there is none, or one that was written here.

    Raises
    ------
    InputError
        As for `table_file`, and when another file is there: it may be a table of the data set itself.
    """
    path = table_file(out)
    if path.exists() and not _is_made(path):
        raise InputError(f"--out {path}: this file is no manifest that headwater wrote. Give another name.")
    return path


def _is_made(path: Path) -> bool:
    """Whether a file is a manifest that was written here."""
    if path.suffix == ".csv":
        return about_file(path).is_file()
    try:
        return KEY in pl.read_parquet_metadata(path)
    except (pl.exceptions.PolarsError, OSError):
        return False


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table to a path from `table_file`; in a CSV file lists are text with semicolons."""
    data = io.BytesIO()  # the error from polars for a full disk looks like any other
    if path.suffix == ".csv":
        data.write(csv_bytes(table))
    else:
        table.write_parquet(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


def write_manifest(table: pl.DataFrame, about: About, path: Path) -> None:
    """Write a table, and what is known of it: in a Parquet file itself, or in a file beside a CSV file."""
    if path.suffix == ".csv":
        path.parent.mkdir(parents=True, exist_ok=True)
        about_file(path).write_text(about.to_json(), encoding="utf-8")  # first: no table without its outcomes
        write_table(table, path)
        return
    data = io.BytesIO()
    table.write_parquet(data, metadata={KEY: about.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


def placed(images: pl.Series, root: Path, base: Path | None) -> pl.Series:
    """Return paths of images as they are written in a manifest in another folder.

    Parameters
    ----------
    images
        Paths relative to ``root``, or absolute ones, which stay; null where there is none.
    root
        The folder that they are relative to.
    base
        The folder of the manifest: paths are relative to it if ``root`` is this folder or below it, and else absolute.
    """
    start = root.as_posix()
    if base is not None and (root == base or base in root.parents):
        start = root.relative_to(base).as_posix()
    prefix = "" if start == "." else f"{start.rstrip('/')}/"
    path = pl.col(images.name)
    there = pl.when(path.str.starts_with("/")).then(path).otherwise(pl.lit(prefix) + path)
    # a spreadsheet takes a cell that begins so for a formula
    safe = pl.when(there.str.contains(r"^[=+\-@]")).then(pl.lit("./") + there).otherwise(there)
    return images.to_frame().select(safe.alias(images.name))[images.name]
