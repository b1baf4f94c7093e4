"""Tables among the files of a data set, and the images that they name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from headwater._reading import read_regular
from headwater._words import cut
from headwater.errors import ManifestError
from headwater.sources._listing import Files
from headwater.sources.manifest import read_text_table


def read_columns(path: Path, columns: Iterable[str], what: str) -> pl.DataFrame:
    """Read a table with all cells as stripped text; names of columns are stripped too.

    Raises
    ------
    ManifestError
        When it lacks one of the columns, or cannot be read.
    """
    try:
        table = read_text_table(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error}).") from error
    names = [name.strip() for name in table.columns]
    if len(set(names)) < len(names):
        raise ManifestError(f"{path}: several columns have the same name. Get the file as {what} publishes it.")
    table.columns = names
    lacking = [name for name in columns if name not in names]
    if lacking:
        there = cut(", ".join(names), 200)
        raise ManifestError(
            f"{path}: there is no column {lacking[0]!r}, so this is not the table of {what}. Get the file as it was "
            f"published. Columns: {there}."
        )
    return table.with_columns(pl.all().str.strip_chars()).with_columns(
        pl.when(pl.all() == "").then(None).otherwise(pl.all()).name.keep()
    )


def find_columns(
    files: Files, name: str, columns: Iterable[str], what: str, *, above: bool = True
) -> tuple[Path, pl.DataFrame] | None:
    """Return the file with this name that has the columns, and its table; None if there is no file of this name.

    Other sets have tables of the same name, such as ``train.csv``: the nearest one that has the columns is taken.

    Raises
    ------
    ManifestError
        When no file of this name can be read as such a table; the message is about the nearest.
    """
    first: ManifestError | None = None
    for path in files.called(name, above=above):
        try:
            return path, read_columns(path, columns, what)
        except ManifestError as error:
            first = first or error
    if first is not None:
        raise first
    return None


def whole(column: str) -> pl.Expr:
    """Return text as whole numbers, written as ``7`` or ``7.0``; null for anything else."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False).alias(column)


def read_words(path: Path, most: int) -> str:
    r"""Return the text of a small file, with ``\n`` at the end of each line, whatever its encoding.

    Raises
    ------
    ManifestError
        When it cannot be read, or has more than ``most`` bytes.
    """
    try:
        text = read_regular(path, most=most).decode("latin-1")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def only_present(table: pl.DataFrame, files: Files, what: str = "images") -> tuple[pl.DataFrame, list[str]]:
    """Leave out rows whose image is not there, unless none is: then keep all rows, and say so.

    Raises `ManifestError` if a row names no place, or one outside of the archive.

    ``image`` is null in rows whose file was not found; ``place`` holds where the set would have it.
    """
    outside = pl.col("place").str.contains(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)").fill_null(True)
    odd = table.filter(outside)
    if odd.height:
        place = odd["place"][0]
        why = "a row names no file" if place is None else f"a row names a file outside of the archive: {place!r:.80}"
        raise ManifestError(f"{files.root}: {why}. Get the table as it was published.")
    n_missing = table["image"].null_count()
    if n_missing == table.height:
        filled = table.with_columns(image=pl.col("place")).drop("place")
        return filled, [f"none of the {what} is there: the rows name the places that the archive gives them"]
    kept = table.filter(pl.col("image").is_not_null()).drop("place")
    if not n_missing:
        return kept, []
    example = table.filter(pl.col("image").is_null())["place"][0]
    return kept, [f"{n_missing:,} of {table.height:,} {what} are not there, such as {example}: their rows are left out"]
