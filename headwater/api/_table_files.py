"""Tables that a verb writes for its user, as CSV or Parquet."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

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


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table to a path from `table_file`; in a CSV file lists are text with semicolons."""
    data = io.BytesIO()  # the error from polars for a full disk looks like any other
    if path.suffix == ".csv":
        data.write(csv_bytes(table))
    else:
        table.write_parquet(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())
