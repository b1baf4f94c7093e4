"""Every record of a text table is read as it stands there, or the file is refused with the line."""

import csv
import io
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import ManifestError
from headwater.sources import _records, read_manifest
from headwater.sources._records import Malformed, read_text, with_newlines


def complaint(path):
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ROWS = ["r0,no mass", "r1,no mass", "r2,no mass"]


UNUSUAL = "there is a quotation mark inside a field without quotation marks, or a quoted field never ends"


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ([*ROWS, 'r4,"text with \\" escaped"', *ROWS, 'r8,"with \\" too"'], 5, "escaped by backslashes"),
        ([*ROWS, 'r4,"never closed', *ROWS], 5, UNUSUAL),
        ([*ROWS, 'r4,5" nail', *ROWS], 5, UNUSUAL),
        ([*ROWS, 'r4,"closed" early', *ROWS, 'r5,"fine"'], 5, UNUSUAL),
        ([*ROWS, 'r4, "a, b"', *ROWS], 5, "3 fields, the header 2"),
        ([*ROWS, "r4,too,many", *ROWS], 5, "3 fields, the header 2"),
        ([*ROWS, "r4,a text", "torn in two", *ROWS], 6, "1 field, the header 2"),
        ([*ROWS, 'r4,"over\ntwo lines"', "r5,too,many"], 7, "3 fields, the header 2"),
        ([*ROWS, "r4", *ROWS], 5, "1 field, the header 2"),
        ([*ROWS, "r4,a\rr5,b", *ROWS], 5, "carriage return alone"),
    ],
)
def test_a_record_in_doubt_is_an_error_with_its_line(tmp_path, rows, line, words):
    """What polars would drop, glue or pad without a word is refused, and the message names the line."""
    path = tmp_path / "m.csv"
    path.write_bytes("\n".join(["id,text", *rows, ""]).encode())
    message = complaint(path)
    assert re.search(rf"cannot be parsed as csv \(line {line}\b.*{re.escape(words)}", message), message


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"id,text\r1,a\r2,b\r", [("1", "a"), ("2", "b")]),
        (b"id,text\r\n1,a\r\n2,b\r\n", [("1", "a"), ("2", "b")]),
        (b"id,text\n1,a\n\n2,b\n\n\n", [("1", "a"), ("2", "b")]),
        (b"\n\nid,text\n1,a\n", [("1", "a")]),
        (b'id,text\n1,"a\rb"\n', [("1", "a\rb")]),
        (b'id,text\r\n1,"a\r\nb"\r\n\r\n2,""\r\n', [("1", "a\r\nb"), ("2", "")]),
        (b'id,text\n1,say "hi" twice\n\n2,b\n', [("1", 'say "hi" twice'), ("2", "b")]),
        (b'\xef\xbb\xbf"id","text"\n"1","a ""b"""', [("1", 'a "b"')]),
        (b'"id","te\nxt"\n1,a\n', [("1", "a")]),
        (b"id,text\n,\n2,b", [(None, None), ("2", "b")]),
        (b"id,text\n", []),
    ],
)
def test_records_that_are_in_no_doubt_are_read(data, rows):
    """Every kind of line end, empty lines, and quotes that both readers take alike are read as they stand."""
    assert read_text(with_newlines(data), ",").rows() == rows


def test_empty_lines_of_one_column_are_rows_but_for_the_last():
    """Of a single column an empty line is an empty cell, unless nothing follows."""
    assert read_text(b"text\nx\n\ny\n\n\n", ",").rows() == [("x",), (None,), ("y",)]


cells = st.text(st.sampled_from('ab",;\n\r\t é\\'), max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    chunk=st.sampled_from([1, 7, 1 << 24]),
)
def test_what_pythons_writer_wrote_is_read(rows, quoting, end, chunk):
    """A file by Python's own writer is read cell by cell, however it is cut into parts."""
    if quoting != csv.QUOTE_ALL:  # without quotes it would be half of a line end
        rows = [tuple(cell.replace("\r", "") for cell in row) for row in rows]
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerow(["one", "two", "three"])
    writer.writerows(rows)
    data = text.getvalue().encode()
    before, _records.CHUNK = _records.CHUNK, chunk
    try:
        found = read_text(with_newlines(data), ",")
    finally:
        _records.CHUNK = before
    assert [[cell or "" for cell in row] for row in found.rows()] == [list(row) for row in rows]


@settings(max_examples=300, deadline=None)
@given(body=st.text(st.sampled_from('ab",\n\\ '), max_size=40))
def test_any_file_is_read_as_pythons_reader_reads_it_or_refused(body):
    """Of any text at all, what is read agrees with Python's strict reader."""
    data = f"one,two\n{body}".encode()
    try:
        found = read_text(data, ",")
    except (Malformed, pl.exceptions.PolarsError):
        return
    theirs = [row for row in csv.reader(io.StringIO(data.decode(), newline=""), strict=True) if row][1:]
    assert [[cell or "" for cell in row] for row in found.rows()] == theirs


def test_a_long_text_is_no_doubt():
    """A quoted report that is longer than a part, and than what Python's reader takes, is one record."""
    data = f'id,text,more\n1,"{"x," * 200_000}",say "hi"\n'.encode()
    assert read_text(data, ",").height == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"id": 1, "text": "a"}\n{"id": 2, "text": oops}\n', "line 2"),
        (b'{"id": 1, "text": "a"}\n[1, 2]\n', "line 2: it is not an object in braces"),
        (b'{"id": 1, "text": "a"}\n{"id": 2,\n"text": "b"}\n', "line 2"),
        (b'{"id": 1, "text": "a"} {"id": 2, "text": "b"}\n', "line 1"),
        (b'{"id": 1, "text": "caf\xe9"}\n', "line 1 is not in UTF-8"),
        (
            b'{"id": 1, "text": "a"}\n{"id": ' + b"9" * 50 + b', "text": "a"}\n',
            "line 2: the number in 'id' has too many",
        ),
    ],
)
def test_a_line_that_holds_no_object_is_named(tmp_path, data, words):
    """JSON lines that cannot be read are refused with the line."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(data)
    assert words in complaint(path)


def test_bytes_that_are_not_utf8_are_named_by_their_line(tmp_path):
    """A cell in another encoding is refused with its line."""
    path = tmp_path / "m.csv"
    path.write_bytes(b"id,text\n1,a\n2,caf\xe9\n")
    assert "line 3 is not in UTF-8" in complaint(path)


def test_line_ends_are_looked_for_in_every_part(monkeypatch):
    """A carriage return at the end of a part is judged by the next byte of the file."""
    monkeypatch.setattr(_records, "CHUNK", 4)
    assert with_newlines(b"abc\r\nabc\r\n") == b"abc\r\nabc\r\n"
    with pytest.raises(Malformed, match="line 2 ends in a carriage return"):
        with_newlines(b"abc\r\nab\rc\n")
    assert np.array_equal(_records.scan_records(b"a,b\n1,2\n3,4", ",").fields, [2, 2, 2])
