"""Decide which columns of a table are numbers, and which stay text as written.

The type of a column in a text file is the first of these that applies:

========  =======================================================================================================
text      its name marks an identifier (`is_identifier`), or it holds ids, paths or texts
whole     every cell is a whole number without leading zeros or a plus sign, of at most 18 digits
decimal   every cell is a number such as ``12.50`` or ``.5``, of at most 17 significant digits, and no two cells
          write the same number differently, such as ``1.10`` and ``1.1``
boolean   every cell is ``true`` or ``false``
text      everything else: ``007``, ``12E1``, ``+5``, accession numbers of 20 digits, ``NA``
========  =======================================================================================================

Empty cells are ignored. In a file with typed columns, types that NumPy and Arrow both have are kept; for the others,
see `plain`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import polars as pl

from headwater.errors import ManifestError

_THINGS = "patient|patients|subject|participant|donor|person|case|exam|slide|accession|specimen|mrn|pid"
_PARTS = "study|series|sample|image|file|lesion|block|core|tile|record|visit|encounter|scan|report|instance"
_IDENTIFIER = re.compile(
    rf"(?:{_THINGS})(?:no|nr|num|number|code|key)?|(?:{_THINGS}|{_PARTS})(?:id|ids|uid|instanceuid)"
)
_LAST = {"id", "ids", "uid", "uuid", "guid", "mrn", "accession", "barcode"}
_LAST |= {"path", "paths", "file", "filename", "filepath"}
_DECIMAL = r"^-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)$"
_PROBED = 256  # cells that are checked first, which suffice for most text columns
_DIGITS, _DECIMAL_DIGITS = 18, 17  # most digits that int64 and float64 hold


def is_identifier(column: str) -> bool:
    """Return whether the name of a column marks an identifier; such a column is always text.

    Examples
    --------
    >>> [is_identifier(name) for name in ("Patient ID", "patient", "accession_number", "StudyInstanceUID", "slide")]
    [True, True, True, True, True]
    >>> [is_identifier(name) for name in ("age", "patient_age", "file size", "covid", "n_slides")]
    [False, False, False, False, False]
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W_a-zA-Z]+", column)
    lower = [word.lower() for word in words]
    return bool(lower) and (lower[-1] in _LAST or _IDENTIFIER.fullmatch("".join(lower)) is not None)


def typed(text: pl.Series) -> pl.Series:
    """Convert a text column to numbers or booleans if all its cells are such; else return it unchanged.

    Examples
    --------
    >>> typed(pl.Series(["61", None, "47"])).to_list(), typed(pl.Series(["12.50", "3"])).to_list()
    ([61, None, 47], [12.5, 3.0])
    >>> typed(pl.Series(["007", "1"])).to_list(), typed(pl.Series(["1.10", "1.1"])).to_list()
    (['007', '1'], ['1.10', '1.1'])
    """
    blank = text.str.strip_chars() == ""
    cells = text.set(blank, None) if blank.any() else text
    there = cells.drop_nulls()
    dtype = _dtype_of(there.head(_PROBED))
    if len(there) > _PROBED and dtype != pl.String:
        dtype = _dtype_of(there)
    if dtype == pl.Boolean:
        return cells == "true"
    return text if dtype == pl.String else cells.cast(dtype)


def _dtype_of(there: pl.Series) -> pl.DataType:
    """Return the type of a column from some of its cells; the other cells can only turn it into text."""
    if there.is_empty():
        return pl.String()
    written = there.cast(pl.Int64, strict=False).cast(pl.String)
    if (written == there).fill_null(False).all():
        digits = there.str.strip_prefix("-").str.len_bytes().max()
        return pl.Int64() if isinstance(digits, int) and digits <= _DIGITS else pl.String()
    if there.str.contains(_DECIMAL).all():
        digits = there.str.len_bytes().max()  # at least the number of digits, which takes longer to find
        if not (isinstance(digits, int) and digits <= _DECIMAL_DIGITS):
            digits = there.str.replace_all(r"^-?0*\.?0*|\.", "").str.len_bytes().max()
        fits = isinstance(digits, int) and digits <= _DECIMAL_DIGITS
        same = there.n_unique() == there.cast(pl.Float64).n_unique()
        return pl.Float64() if fits and same else pl.String()
    return pl.Boolean() if there.is_in(["true", "false"]).all() else pl.String()


def plain(column: pl.Series) -> pl.Series:
    """Return a column in types that NumPy and Arrow both have.

    Whole numbers beyond 64 bits, times of day, durations (ISO 8601) and categories become text. Decimals are read as in
    a text file. The elements of lists and structs are converted in the same way.

    Examples
    --------
    >>> plain(pl.Series([12345678901234567890], dtype=pl.Int128)).to_list()
    ['12345678901234567890']
    >>> plain(pl.Series([3, None], dtype=pl.UInt64)).to_list(), plain(pl.Series(["a"], dtype=pl.Categorical)).dtype
    ([3, None], String)
    """
    dtype = column.dtype
    if dtype in (pl.Int128, pl.UInt128, pl.UInt64):
        fits = column.cast(pl.Int64, strict=False)
        return fits if fits.null_count() == column.null_count() else column.cast(pl.String)
    if dtype.is_decimal():
        return typed(column.cast(pl.String))
    if dtype == pl.Duration:
        return column.dt.to_string("iso")
    if dtype == pl.Object:
        return pl.Series(column.name, [None if v is None else str(v) for v in column.to_list()], dtype=pl.String)
    wanted = _plain_dtype(dtype)
    return column if wanted == dtype else column.cast(wanted)


def _plain_dtype(dtype: pl.DataType) -> pl.DataType:
    """Return the type to which a type is converted, for any values."""
    if isinstance(dtype, pl.List):
        return pl.List(_plain_dtype(_instance(dtype.inner)))
    if isinstance(dtype, pl.Array):
        return pl.Array(_plain_dtype(_instance(dtype.inner)), dtype.size)
    if isinstance(dtype, pl.Struct):
        return pl.Struct([pl.Field(field.name, _plain_dtype(_instance(field.dtype))) for field in dtype.fields])
    if dtype == pl.Float16:
        return pl.Float32()
    odd = dtype in (pl.Int128, pl.UInt128, pl.Time, pl.Duration, pl.Categorical, pl.Enum, pl.Null)
    return pl.String() if odd or dtype.is_decimal() else dtype


def _instance(dtype: Any) -> pl.DataType:
    found: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return found


def with_plain_types(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table in types that NumPy and Arrow both have; see `plain`."""
    return pl.DataFrame([plain(column) for column in table.get_columns()]) if table.width else table


def with_text(table: pl.DataFrame, columns: Collection[str], path: object) -> pl.DataFrame:
    """Return a table with the named columns converted to text.

    Raises
    ------
    ManifestError
        When one of them holds lists or bytes, which cannot become text.
    """
    for column in columns:
        dtype = table.schema[column]
        if dtype.is_nested() or dtype in (pl.Binary, pl.Object):
            raise ManifestError(f"{path}: column {column!r} holds {dtype}, but must hold text.")
    return table.with_columns(_text(table[column]) for column in columns)


def _text(column: pl.Series) -> pl.Series:
    return (column.fill_nan(None) if column.dtype.is_float() else column).cast(pl.String)
