"""Tables of groups that somebody else made: CSV, or Excel where openpyxl is installed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import polars as pl

from headwater._reading import read_regular
from headwater.errors import InputError, ManifestError, MissingExtra
from headwater.sources.manifest import read_text_table

MOST = 64 << 20
"""Most bytes of a workbook, unpacked."""
MOST_ROWS = 1_000_000
"""Most rows of a workbook."""
SUFFIXES = (".csv", ".tsv", ".xlsx")


def read_groups(path: Path) -> pl.DataFrame:
    """Read a table with all cells as text.

    Raises
    ------
    InputError
        When there is no such file, or it is of another kind.
    ManifestError
        When it cannot be read.
    MissingExtra
        When it is a workbook, and openpyxl is not installed.
    """
    option = f"--groups-file {path}"
    if not path.is_file():
        raise InputError(f"{option}: no such file.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{option}: give a file that ends in {', '.join(SUFFIXES)}.")
    try:
        return _read_workbook(read_regular(path, most=MOST), path) if suffix == ".xlsx" else read_text_table(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _read_workbook(data: bytes, path: Path) -> pl.DataFrame:
    """Read the first sheet of a workbook; formulas, links and macros are not evaluated."""
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"openpyxl, which reads {path.name}, is not installed. Run: pip install 'headwater[tables]', or save the "
            "table as CSV."
        ) from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(one.file_size for one in members) > MOST:
                raise ValueError(f"it unpacks to more than {MOST:,} bytes")
            for one in members:
                with archive.open(one) as part:
                    if len(text := part.read(MOST + 1)) > MOST:
                        raise ValueError(f"it unpacks to more than {MOST:,} bytes")
                if one.filename.endswith((".xml", ".rels")) and (b"<!DOCTYPE" in text or b"<!ENTITY" in text):
                    raise ValueError("it declares entities")
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        rows = [
            [None if cell is None else _written(cell) for cell in row]
            for row in sheet.iter_rows(max_row=MOST_ROWS, max_col=100, values_only=True)
        ]
        book.close()
    except (zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ManifestError(f"{path}: cannot be read as a workbook ({why}). Save the table as CSV.") from error
    rows = [row for row in rows if any(cell is not None for cell in row)]
    if not rows:
        raise ManifestError(f"{path}: the first sheet is empty.")
    width = max(map(len, rows))
    names = [cell or f"column {n}" for n, cell in enumerate([*rows[0], *[None] * (width - len(rows[0]))], 1)]
    names = [name if names.index(name) == n else f"{name} {n + 1}" for n, name in enumerate(names)]
    columns = {name: [row[n] if n < len(row) else None for row in rows[1:]] for n, name in enumerate(names)}
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def _written(cell: object) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
