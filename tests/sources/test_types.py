"""A table's columns are kept as they were written: numbers only where nothing of the writing is lost."""

import datetime

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.sources import plain, read_manifest, read_table, typed, with_plain_types
from headwater.sources._types import is_identifier


@pytest.mark.parametrize(
    "cells",
    [
        ["001", "1", "002"],
        ["12E1", "3E5"],
        ["1e-05", "0.2"],
        ["12345678901234567890", "12345678901234567891"],
        ["1234567890123456789", "1"],
        ["0.123456789012345678", "0.5"],
        ["+5", "7"],
        ["1.10", "1.1"],
        ["1", "1.0", "2"],
        ["-0", "0"],
        ["0.0", "-0.0"],
        ["00.5", "1.5"],
        ["5.", "2.5"],
        ["1,5", "2,5"],
        ["1_000", "2"],
        ["0x10", "1"],
        [" 1", "2"],
        ["NA", "1"],
        ["NaN", "1.5"],
        ["inf", "1.5"],
        ["\u0661", "1"],
        ["TRUE", "FALSE"],
        ["2020-01-01", "2020-01-02"],
    ],
)
def test_what_a_number_would_lose_stays_text(cells):
    """Text whose writing a number would not give back, or would make equal to another, is kept letter by letter."""
    assert typed(pl.Series(cells)).to_list() == cells


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["61", "0", "-3", "47"], [61, 0, -3, 47]),
        (["12.50", "3", "0.5"], [12.5, 3.0, 0.5]),
        ([".5", "-.25"], [0.5, -0.25]),
        (["1.0", None, "2.0"], [1.0, None, 2.0]),
        (["1", "", "  ", None], [1, None, None, None]),
        (["123456789012345678", "-5"], [123456789012345678, -5]),
        (["0.00012345678901234567", "1.5"], [0.00012345678901234567, 1.5]),
        (["true", None, "false"], [True, None, False]),
    ],
)
def test_plain_numbers_are_numbers(cells, numbers):
    """Whole numbers, plain decimals and truth values are what they say, and empty cells decide nothing."""
    found = typed(pl.Series(cells, dtype=pl.String))
    assert found.to_list() == numbers
    assert found.dtype in (pl.Int64, pl.Float64, pl.Boolean)


@given(st.lists(st.from_regex(r"[-+]?[0-9]{0,20}(\.[0-9]{0,20})?(e-?[0-9])?", fullmatch=True), min_size=1, max_size=8))
def test_different_cells_stay_different(cells):
    """No two cells that are written differently become one value; whole numbers are written back as they were."""
    found = typed(pl.Series(cells))
    there = {cell for cell in cells if cell.strip()}
    assert found.drop_nulls().n_unique() == len(there) or found.dtype == pl.String
    if found.dtype == pl.Int64:
        assert found.cast(pl.String).drop_nulls().to_list() == [cell for cell in cells if cell]


def test_a_late_cell_decides_for_the_whole_column():
    """The last of many cells may make a column text."""
    assert typed(pl.Series([*map(str, range(5000)), "007"])).dtype == pl.String
    assert typed(pl.Series([*(f"{i}.5" for i in range(5000)), "7.50"])).dtype == pl.String


@pytest.mark.parametrize(
    "name",
    [
        *("patient", "Patient", "patient_id", "PatientID", "patientId", "Patient.No", "patient number", "MRN", "pid"),
        *(
            "case",
            "caseID",
            "slide",
            "slide_id",
            "accession",
            "accession_number",
            "AccessionNumber",
            "StudyInstanceUID",
        ),
        *(
            "study uid",
            "series_uid",
            "image file path",
            "filename",
            "specimen no",
            "abnormality id",
            "barcode",
            "donor",
        ),
    ],
)
def test_names_that_mark_an_identifier(tmp_path, name):
    """A column whose name says that it identifies something is text, whatever stands in it."""
    assert is_identifier(name)
    path = tmp_path / "m.csv"
    path.write_text(f"id,text,{name},age\na,x,1.50,61\nb,y,2,47\n")
    table = read_manifest(path).table
    assert table[name].to_list() == ["1.50", "2"]
    assert table["age"].to_list() == [61, 47]


@pytest.mark.parametrize(
    "name", ["age", "patient age", "n_patients_per_site", "covid", "valid", "grid", "file_size", "casein", "x", "label"]
)
def test_names_that_mark_none(name):
    """A name that only holds such a word marks no identifier."""
    assert not is_identifier(name)


def every_type():
    """A table with a column of each type that polars has, as a Parquet file may hold them."""
    second = datetime.timedelta(seconds=61)
    return pl.DataFrame(
        {
            "id": ["a", "b"],
            "text": ["x", "y"],
            "wide": pl.Series([12345678901234567890, 1], dtype=pl.Int128),
            "narrow": pl.Series([7, 1], dtype=pl.Int128),
            "unsigned": pl.Series([2**64 - 1, 1], dtype=pl.UInt64),
            "small": pl.Series([3, None], dtype=pl.UInt64),
            "price": pl.Series(["12.50", "3.00"]).cast(pl.Decimal(10, 2)),
            "long": pl.Series(["12345678901234567890.5", "1.5"]).cast(pl.Decimal(38, 1)),
            "category": pl.Series(["u", "v"], dtype=pl.Categorical),
            "enum": pl.Series(["u", "v"], dtype=pl.Enum(["u", "v"])),
            "time": [datetime.time(1, 2), datetime.time(3, 4, 5)],
            "lasting": [second, second * 2],
            "date": [datetime.date(2020, 1, 2)] * 2,
            "moment": [datetime.datetime(2020, 1, 2, 3)] * 2,
            "nothing": [None, None],
            "bytes": [b"\x00\xff", b"z"],
            "list": pl.Series([[2**70], [1]], dtype=pl.List(pl.Int128)),
            "struct": [{"a": datetime.time(1), "b": 1}, {"a": None, "b": 2}],
            "half": pl.Series([1.5, 2.5], dtype=pl.Float32).cast(pl.Float16),
        }
    )


def test_types_that_numpy_or_arrow_lack_become_others(tmp_path):
    """Whatever types a Parquet file has, the table opens in pyarrow, goes to NumPy, and has lost nothing."""
    every_type().write_parquet(tmp_path / "m.parquet")
    for table in (read_manifest(tmp_path / "m.parquet").table, read_table(tmp_path / "m.parquet")):
        settled = with_plain_types(table)
        settled.write_parquet(tmp_path / "samples.parquet")
        assert pq.read_table(tmp_path / "samples.parquet").num_rows == 2
        for column in settled.get_columns():
            assert isinstance(column.to_numpy(), np.ndarray)
    table = read_manifest(tmp_path / "m.parquet").table
    found = {column: table[column].to_list() for column in table.columns}
    assert found["wide"] == ["12345678901234567890", "1"]
    assert found["narrow"] == [7, 1]
    assert found["unsigned"] == ["18446744073709551615", "1"]
    assert found["small"] == [3, None]
    assert found["price"] == [12.5, 3.0]
    assert found["long"] == ["12345678901234567890.5", "1.5"]
    assert (found["category"], found["enum"]) == (["u", "v"], ["u", "v"])
    assert found["time"] == ["01:02:00", "03:04:05"]
    assert found["lasting"] == ["PT1M1S", "PT2M2S"]
    assert found["nothing"] == [None, None]
    assert table.schema["nothing"] == pl.String
    assert found["list"] == [["1180591620717411303424"], ["1"]]
    assert found["struct"] == [{"a": "01:00:00", "b": 1}, {"a": None, "b": 2}]
    assert table.schema["half"] == pl.Float32


def test_identifiers_of_typed_files_are_text(tmp_path):
    """An identifier that a Parquet or JSON-lines file holds as a number is text, there as in a CSV."""
    pl.DataFrame({"id": [1], "text": ["x"], "patient": [7], "age": [61]}).write_parquet(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").table.row(0) == ("1", "x", "7", 61)
    lines = '{"id": 1.10, "text": "x", "accession": 12345678901234567890, "case": 2.50, "n": 98765432109876543210}\n'
    (tmp_path / "m.jsonl").write_text(lines)
    row = read_manifest(tmp_path / "m.jsonl").table.row(0)
    assert row == ("1.10", "x", "12345678901234567890", "2.50", "98765432109876543210")


def test_an_identifier_that_is_text_in_some_lines_and_a_number_in_others(tmp_path):
    """JSON lines may hold an identifier as text and as a number: each stays as it is written."""
    lines = ['{"id": 1, "text": "x", "slide": "01"}', '{"id": 2, "text": "y", "slide": 1.10}', '{"id": 3, "text": "z"}']
    lines += ['{"id": 4, "text": "x", "slide": true}', '{"id": 5, "text": "y", "slide": 7}']
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    assert read_manifest(tmp_path / "m.jsonl").table["slide"].to_list() == ["01", "1.10", None, "true", "7"]


def test_plain_keeps_what_is_plain():
    """A column in a type that both have is not touched."""
    for values in ([1, None], [1.5], ["a"], [True], [datetime.date(2020, 1, 1)], [["a", "b"], []]):
        column = pl.Series("c", values)
        assert plain(column).equals(column, check_dtypes=True)
