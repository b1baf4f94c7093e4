"""Text tables, record by record: what polars makes of a file is compared with what stands in it.

polars reads a file that is not quite CSV without a word, and may join or drop rows of it. Here the records and fields
are counted by themselves, by the quotation marks, separators and line ends of the file; where a quotation mark stands
in an odd place, Python's own reader has to find the same cells. A file in doubt is refused, with the line.
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

CHUNK = 16 << 20  # bytes that are looked at together
QUOTE, NEWLINE, RETURN = b'"\n\r'
_BOM = b"\xef\xbb\xbf"
_WIDEST = 1 << 127  # whole numbers that polars reads are smaller
_NONE = np.zeros(0, np.int64)


class Malformed(ValueError):
    """A text table that cannot be read for certain; says which line, and what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason, self.advice = reason, advice


@dataclass(frozen=True, eq=False)
class Scan:
    """What was counted in a CSV file.

    Attributes
    ----------
    starts
        Where each record begins that is not an empty line, the header's included.
    rows : int64 array
        For each of them but the header its row as polars counts them, which takes an empty line for a row.
    n_rows
        How many rows polars is to find.
    fields
        How many fields each of them has.
    odd
        Where a quoted field begins or a quotation mark stands that makes the count doubtful; None where none does.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    n_rows: int
    fields: NDArray[np.int64]
    odd: int | None


def with_newlines(data: bytes) -> bytes:
    """Return a file whose lines end in carriage returns alone, as old Macs wrote them, with newlines.

    Raises
    ------
    Malformed
        When some lines end in a carriage return alone, and others do not.
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
        "Save it with one kind of line ends.",
    )


def _bare_return(data: bytes) -> int | None:
    """Return where the first carriage return stands that no newline follows, outside of quotation marks."""
    inside = 0
    for start in range(0, len(data), CHUNK):
        part = np.frombuffer(data, np.uint8, min(CHUNK, len(data) - start), start)
        quotes = np.flatnonzero(part == QUOTE)
        returns = np.flatnonzero(part == RETURN)
        outside = (inside + np.searchsorted(quotes, returns)) % 2 == 0
        after = part[np.minimum(returns + 1, len(part) - 1)]
        for place in returns[outside & (after != NEWLINE)].tolist():
            if data[start + place + 1 : start + place + 2] != b"\n":  # which may stand in the next part
                return int(start + place)
        inside += len(quotes)
    return None


def read_text(data: bytes, separator: str) -> pl.DataFrame:
    """Read a CSV file, all of it as text; an empty cell is null, a quoted empty one an empty text.

    Raises
    ------
    Malformed
        When records or fields are in doubt.
    polars.exceptions.PolarsError
        When it holds nothing, or is not in UTF-8.
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
        raise Malformed(f"{table.height:,} rows were read of {scan.n_rows:,}", "Export it anew.")
    if len(scan.rows) == table.height:
        return table
    return table[scan.rows] if n_columns > 1 else table[: int(scan.rows.max(initial=-1)) + 1]


def scan_records(data: bytes, separator: str) -> Scan:
    """Count the records of a CSV file and their fields; stop where a quotation mark stands in an odd place."""
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
            size *= 2  # a field that is larger than a chunk
            continue
        length = int(ends[-1]) + 1
        quotes = quotes[quotes < length]
        odd = _first_odd(part, quotes, separator, last=stop == len(data))
        if odd is not None:
            return Scan(_NONE, _NONE, 0, _NONE, start + odd)
        begins = np.concatenate([[0], ends[:-1] + 1])
        separators = np.flatnonzero(part[:length] == ord(separator))
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0] if len(quotes) else separators
        fields.append(np.diff(np.searchsorted(separators, np.append(begins, length))) + 1)
        last = np.minimum(begins, len(part) - 1)
        blank.append((begins == ends) | ((ends == begins + 1) & (part[last] == RETURN)))
        starts.append(begins + start)
        start, size = start + length, CHUNK
    if not starts:
        return Scan(_NONE, _NONE, 0, _NONE, None)
    empty = np.concatenate(blank)
    header = int(empty.argmin())  # empty lines before it are passed over
    kept = np.flatnonzero(~empty)
    n_rows = len(empty) - header - 1
    return Scan(np.concatenate(starts)[kept], kept[1:] - header - 1, n_rows, np.concatenate(fields)[kept], None)


def _first_odd(part: NDArray[np.uint8], quotes: NDArray[np.int64], separator: str, *, last: bool) -> int | None:
    """Return where the quoted field begins, or the mark stands, that is written as no field may be."""
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
    return Malformed(had, 'Put texts that hold a separator or a line end into quotation marks ("…").')


def _odd_quote(data: bytes, place: int) -> Malformed:
    """Say what is wrong with the quotation marks of the field that begins here."""
    line = _line(data, place)
    end = data.find(b"\n", place)
    if b'\\"' in data[place : end if end >= 0 else len(data)]:
        return Malformed(f"line {line}: quotation marks are escaped by backslashes", 'Write them twice ("") instead.')
    return Malformed(
        f"line {line}: a quotation mark stands where a field neither begins nor ends, or a quoted field never ends",
        'Put the field into quotation marks, and write those inside it twice ("").',
    )


def _confirm(table: pl.DataFrame | None, n_columns: int, data: bytes, separator: str, odd: int) -> list[bool]:
    """Return which rows that polars read are no empty lines, where Python's reader finds the same cells in all."""
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
    """Let fields of any length be read: a report may be longer than what Python's reader takes by itself."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _line(data: bytes, place: int) -> int:
    """Return the number of the line that a place is in, from 1."""
    return data.count(b"\n", 0, place) + 1


def not_utf8(data: bytes) -> int | None:
    """Return the number of the first line that is not in UTF-8, None where all are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return _line(data, error.start)
    return None


def wrong_json_line(data: bytes) -> str | None:
    """Say which line of a JSON-lines file holds no object, and why; None where each does."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"line {number}: {error.msg if isinstance(error, json.JSONDecodeError) else error}"
        if not isinstance(value, dict):
            return f"line {number}: no object in braces"
        if long := [key for key, part in value.items() if isinstance(part, int) and abs(part) >= _WIDEST]:
            return f"line {number}: the number in {long[0]!r} has too many digits: put it into quotation marks"
    return None


def has_decimals(data: bytes, column: str) -> bool:
    """Whether a number with a point or an exponent may stand in a column of a JSON-lines file."""
    key = re.escape(json.dumps(column, ensure_ascii=False).encode())
    return re.search(key + rb"\s*:\s*-?[0-9]+[.eE]", data) is not None


def numbers_as_written(data: bytes, column: str) -> pl.Series:
    """Return a column of a JSON-lines file as text, numbers as they are written: 1.10 is no 1.1."""
    lines = (json.loads(line, parse_float=str, parse_int=str) for line in data.split(b"\n") if line.strip())
    found = (line.get(column) for line in lines)
    words = [value if value is None or isinstance(value, str) else json.dumps(value) for value in found]
    return pl.Series(column, words, dtype=pl.String)
