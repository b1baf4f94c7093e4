"""Strict reading of CSV files: the rows that polars reads are compared with the records in the file.

polars reads malformed CSV without an error, and may join or drop rows. So this module counts records and fields itself,
from quotation marks, separators and line ends. If a quotation mark is in an unusual place, Python's csv reader must
find the same cells. Otherwise the file is refused, and the error names the line.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import polars as pl
from numpy.typing import NDArray

CHUNK = 16 << 20  # bytes that are scanned together
QUOTE, NEWLINE, RETURN = b'"\n\r'
_BOM = b"\xef\xbb\xbf"
_WIDEST = 1 << 127  # whole numbers that polars reads are smaller
_NONE = np.zeros(0, np.int64)


class Malformed(ValueError):
    """A text table that cannot be read reliably; the message names the line and says what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason, self.advice = reason, advice


@dataclass(frozen=True, eq=False)
class Scan:
    """The records counted in a CSV file.

    Attributes
    ----------
    starts
        Byte offset of each record, including the header but not empty lines.
    rows : int64 array
        For each record but the header, its row number in polars, which counts empty lines as rows.
    n_rows
        Number of rows that polars must find.
    fields
        Number of fields of each record.
    odd
        Byte offset of the first quoted field or quotation mark that makes the count unreliable; None if there is none.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    n_rows: int
    fields: NDArray[np.int64]
    odd: int | None


def with_newlines(data: bytes) -> bytes:
    """Replace carriage returns by newlines in a file whose lines all end in a carriage return alone.

    Raises
    ------
    Malformed
        When only some lines end in a carriage return alone.
    """
    if b"\r" not in data:
        return data
    if b"\n" not in data:
        return data.replace(b"\r", b"\n")
    bare = _bare_return(data)
    if bare is None:
        return data
    raise Malformed(
        f"line {_line(data, bare)} ends in a carriage return alone, others in a newline",
        "Save it with one kind of line end.",
    )


def _bare_return(data: bytes) -> int | None:
    """Return the offset of the first carriage return outside quotation marks that no newline follows."""
    inside = 0
    for start in range(0, len(data), CHUNK):
        part = np.frombuffer(data, np.uint8, min(CHUNK, len(data) - start), start)
        quotes = np.flatnonzero(part == QUOTE)
        returns = np.flatnonzero(part == RETURN)
        outside = (inside + np.searchsorted(quotes, returns)) % 2 == 0
        after = part[np.minimum(returns + 1, len(part) - 1)]
        for place in returns[outside & (after != NEWLINE)].tolist():
            if data[start + place + 1 : start + place + 2] != b"\n":  # the newline may be in the next part
                return int(start + place)
        inside += len(quotes)
    return None


def read_text(data: bytes, separator: str) -> pl.DataFrame:
    """Read a CSV file with all cells as text; an empty cell is null, a quoted empty cell an empty text.

    Raises
    ------
    Malformed
        When records or fields cannot be read reliably.
    polars.exceptions.PolarsError
        When the file is empty, or not in UTF-8.
    """
    n_columns = len(pl.read_csv(data, separator=separator, n_rows=0, infer_schema=False).columns)
    scan = scan_records(data, separator)
    if scan.odd is None:
        _require_fields(data, scan, n_columns)
    try:
        table = pl.read_csv(data, separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError:
        if scan.odd is not None:
            _confirm(None, n_columns, data, separator, scan.odd)
        raise
    if scan.odd is not None:
        kept = _confirm(table, n_columns, data, separator, scan.odd)
        return table if all(kept) else table.filter(pl.Series(kept))
    if table.height != scan.n_rows:
        raise Malformed(f"only {table.height:,} of {scan.n_rows:,} rows could be read", "Export it again.")
    if len(scan.rows) == table.height:
        return table
    return table[scan.rows] if n_columns > 1 else table[: int(scan.rows.max(initial=-1)) + 1]


def scan_records(data: bytes, separator: str) -> Scan:
    """Count the records of a CSV file and their fields; stop at a quotation mark in an unusual place."""
    start = len(_BOM) if data.startswith(_BOM) else 0
    starts, fields, blank, size = [], [], [], CHUNK
    while start < len(data):
        stop = min(start + size, len(data))
        part = np.frombuffer(data, np.uint8, stop - start, start)
        quotes = np.flatnonzero(part == QUOTE)
        ends = np.flatnonzero(part == NEWLINE)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0] if len(quotes) else ends
        if stop == len(data) and (not len(ends) or ends[-1] != len(part) - 1):
            ends = np.append(ends, len(part))  # the last line ends with the file
        if not len(ends):
            size *= 2  # a field is larger than a chunk
            continue
        length = int(ends[-1]) + 1
        quotes = quotes[quotes < length]
        odd = _first_odd(part, quotes, separator, last=stop == len(data))
        if odd is not None:
            return Scan(_NONE, _NONE, 0, _NONE, start + odd)
        begins = np.concatenate([[0], ends[:-1] + 1])
        separators = np.flatnonzero(part[:length] == ord(separator))
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0] if len(quotes) else separators
        fields.append(_separators_of(separators, begins, ends) + 1)
        last = np.minimum(begins, len(part) - 1)
        blank.append((begins == ends) | ((ends == begins + 1) & (part[last] == RETURN)))
        starts.append(begins + start)
        start, size = start + length, CHUNK
    if not starts:
        return Scan(_NONE, _NONE, 0, _NONE, None)
    empty = np.concatenate(blank)
    header = int(empty.argmin())  # empty lines before it are skipped
    kept = np.flatnonzero(~empty)
    n_rows = len(empty) - header - 1
    return Scan(np.concatenate(starts)[kept], kept[1:] - header - 1, n_rows, np.concatenate(fields)[kept], None)


def _separators_of(
    separators: NDArray[np.int64], begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the number of separators in each record, int64; all are ascending places, and records are adjacent."""
    each, rest = divmod(len(separators), len(begins))
    even = each > 0 and not rest
    if even and (separators[::each] >= begins).all() and (separators[each - 1 :: each] < ends).all():
        return np.full(len(begins), each)  # equally many in all, which is much faster to see than to count
    return np.diff(np.searchsorted(separators, np.append(begins, ends[-1] + 1)))


def _first_odd(part: NDArray[np.uint8], quotes: NDArray[np.int64], separator: str, *, last: bool) -> int | None:
    """Return the offset of the first quoted field, or quotation mark, that is not valid CSV."""
    if not len(quotes):
        return None
    around = [ord(separator), NEWLINE, RETURN, QUOTE]
    opening, closing = quotes[::2], quotes[1::2]
    before = part[np.maximum(opening - 1, 0)]
    wrong = np.flatnonzero(~(np.isin(before, around) | (opening == 0)))
    after = part[np.minimum(closing + 1, len(part) - 1)]
    torn = np.flatnonzero(~(np.isin(after, around) | (closing == len(part) - 1)))
    found = [int(opening[wrong[0]])] if len(wrong) else []
    found += [int(opening[torn[0]])] if len(torn) else []
    if not found and last and len(quotes) % 2:
        found.append(int(quotes[-1]))
    return min(found) if found else None


def _require_fields(data: bytes, scan: Scan, n_columns: int) -> None:
    wrong = np.flatnonzero(scan.fields != n_columns)
    if len(wrong):
        record = int(wrong[0])
        raise _uneven(_line(data, int(scan.starts[record])), int(scan.fields[record]), n_columns)


def _uneven(line: int, n: int, n_columns: int) -> Malformed:
    had = f"line {line} has {n:,} field{'s' if n != 1 else ''}, the header {n_columns:,}"
    return Malformed(had, 'Put texts with a separator or a line end in quotation marks ("…").')


def _odd_quote(data: bytes, place: int) -> Malformed:
    """Say what is wrong with the quotation marks of the field at this offset."""
    line = _line(data, place)
    end = data.find(b"\n", place)
    if b'\\"' in data[place : end if end >= 0 else len(data)]:
        return Malformed(f"line {line}: quotation marks are escaped by backslashes", 'Write them twice ("") instead.')
    return Malformed(
        f"line {line}: there is a quotation mark inside a field without quotation marks, or a quoted field never ends",
        'Put the field in quotation marks, and write those inside it twice ("").',
    )


def _confirm(table: pl.DataFrame | None, n_columns: int, data: bytes, separator: str, odd: int) -> list[bool]:
    """Check that Python's csv reader finds the same cells as polars; return which rows are not empty lines."""
    try:
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError:
        raise Malformed(f"line {not_utf8(data)} is not in UTF-8", "Save it as UTF-8.") from None
    kept = []
    with _long_fields():
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            next(row for row in reader if row)
            for mine, theirs in zip_longest(() if table is None else table.iter_rows(), reader):
                if theirs and len(theirs) != n_columns:
                    raise _uneven(reader.line_num, len(theirs), n_columns)
                same = mine is not None and [cell or "" for cell in mine] == (theirs or [""] * n_columns)
                if theirs is None or (table is not None and not same):
                    raise _odd_quote(data, odd)
                kept.append(theirs != [] or n_columns == 1)
        except (csv.Error, StopIteration):
            raise _odd_quote(data, odd) from None
    if table is None:
        raise _odd_quote(data, odd)
    return kept


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the limit on field length in Python's csv reader, since a report may be longer."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _line(data: bytes, place: int) -> int:
    """Return the line number of an offset, from 1."""
    return data.count(b"\n", 0, place) + 1


def not_utf8(data: bytes) -> int | None:
    """Return the number of the first line that is not in UTF-8; None if all are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return _line(data, error.start)
    return None


def wrong_json_line(data: bytes) -> str | None:
    """Say which line of a JSON-lines file is not a valid object, and why; None if all are."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"line {number}: {error.msg if isinstance(error, json.JSONDecodeError) else error}"
        if not isinstance(value, dict):
            return f"line {number}: it is not an object in braces"
        if long := [key for key, part in value.items() if isinstance(part, int) and abs(part) >= _WIDEST]:
            return f"line {number}: the number in {long[0]!r} has too many digits: put it in quotation marks"
    return None


def has_decimals(data: bytes, column: str) -> bool:
    """Whether a column of a JSON-lines file may hold a number with a decimal point or an exponent."""
    key = re.escape(json.dumps(column, ensure_ascii=False).encode())
    return re.search(key + rb"\s*:\s*-?[0-9]+[.eE]", data) is not None


def numbers_as_written(data: bytes, column: str) -> pl.Series:
    """Return a column of a JSON-lines file as text, with numbers exactly as written, so 1.10 differs from 1.1."""
    lines = (json.loads(line, parse_float=str, parse_int=str) for line in data.split(b"\n") if line.strip())
    found = (line.get(column) for line in lines)
    words = [value if value is None or isinstance(value, str) else json.dumps(value) for value in found]
    return pl.Series(column, words, dtype=pl.String)
