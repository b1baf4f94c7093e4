"""What a table says is what a run goes by: columns as they were written, from the manifest to the export."""

import json
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from headwater.api import embed, export_features, import_features
from headwater.store import open_store

FIT = ("--features", "stub-16/image", "--folds", "2", "--set", "C=0.1")


@pytest.fixture
def embedded(tmp_path, paint, command):
    """Return a function that embeds a table of 24 images, given its other columns."""
    for i in range(24):
        paint(tmp_path / "i" / f"{i}.png", i)

    def embedding(columns, name="m.csv"):
        header = ",".join(["id", "image", *columns])
        rows = [",".join([f"r{i}", f"i/{i}.png", *(values[i] for values in columns.values())]) for i in range(24)]
        (tmp_path / name).write_text("\n".join([header, *rows, ""]))
        done = command("embed", tmp_path / name, tmp_path / "s.hw", "--encoder", "stub:16")
        assert done.status == 0, done.err
        return tmp_path / "s.hw"

    return embedding


LABEL = ["a", "b"] * 12
PATIENTS = {
    "leading zeros": [f"{i // 4:0{3 if i % 4 < 2 else 1}d}" for i in range(24)],
    "exponents": [f"{i // 2 + 1}{'E1' if i % 4 < 2 else '0'}" for i in range(24)],
    "20 digits": [str(12345678901234567890 + i // 2) for i in range(24)],
    "30 digits": [f"{10**29 + i // 2}" for i in range(24)],
    "decimals": [f"{i // 4}.1{'0' if i % 4 < 2 else ''}" for i in range(24)],
    "plus": [f"{'+' if i % 4 < 2 else ''}{i // 4 + 1}" for i in range(24)],
}


@pytest.mark.parametrize("column", ["patient", "accession", "unit"])
@pytest.mark.parametrize("kind", PATIENTS)
def test_groups_are_as_many_as_were_written(embedded, command, tmp_path, kind, column):
    """Whatever identifies a group is told apart as it is written, under any name of the column."""
    store = embedded({column: PATIENTS[kind], "label": LABEL})
    done = command("fit-head", store, *FIT, "--label", "label", "--groups", column, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    found = set(pl.read_parquet(tmp_path / "run" / "predictions.parquet")["group"])
    assert found == set(PATIENTS[kind])


@pytest.mark.parametrize("format", ["npy", "hdf5", "parquet", "h5ad", "datasets", "safetensors"])
def test_a_store_with_odd_columns_is_exported(embedded, tmp_path, format):
    """A store that merely has such columns opens in pyarrow and is exported in every format."""
    columns = {"accession": PATIENTS["20 digits"], "size": ["12.50", "3"] * 12, "n": ["123456789012345678", ""] * 12}
    store = embedded({**columns, "label": LABEL})
    assert pq.read_table(store / "samples.parquet")["accession"].to_pylist() == PATIENTS["20 digits"]
    pytest.importorskip({"hdf5": "h5py", "h5ad": "anndata", "datasets": "datasets"}.get(format, "polars"))
    export_features(store, tmp_path / "out", features="stub-16/image", format=format)
    if format == "hdf5":
        import h5py

        with h5py.File(tmp_path / "out") as file:
            assert file["samples/n"].asstr()[0] == "123456789012345678"


def test_a_store_of_an_older_headwater_is_exported_and_grouped_by_a_wide_number(make_store, tmp_path, command):
    """A column of 128 bits that is in a store already is no traceback: it is text where it is used."""
    wide = pl.Series([12345678901234567890 + i // 2 for i in range(24)], dtype=pl.Int128)
    store = make_store(np.random.default_rng(0).standard_normal((24, 4)), accession=wide, label=LABEL)
    assert store.samples.schema["accession"] == pl.Int128
    export_features(store, tmp_path / "out", features="made/image", format="parquet")
    assert pq.read_table(tmp_path / "out")["accession"].to_pylist()[0] == "12345678901234567890"
    asked = ("--features", "made/image", "--folds", "2", "--label", "label", "--groups", "accession")
    assert command("fit-head", store.path, *asked).status == 0


def test_numbers_can_be_compared_whether_or_not_they_are_stored_as_such(embedded):
    """``age > 50`` holds for numbers; of text that is all numbers, or missing, it holds as well."""
    ages = [f"{40 + i}" for i in range(24)]
    store = open_store(
        embedded(
            {
                "age": ages,
                "size": [f"{a}.50" for a in ages],
                "p_value": ["1e-05", "0.25"] * 12,
                "weight": ["NA" if i == 0 else ages[i] for i in range(24)],
                "mixed": ["3", "3.0", "2.5", "12.5"] * 6,
                "patient": PATIENTS["leading zeros"],
            }
        )
    )
    count = {
        "age > 50": 13,
        "size > 50.5": 13,
        "size = 40.5": 1,
        "p_value < 0.01": 12,
        "weight > 50": 13,
        "weight < 41.5": 1,
        "mixed > 2.75": 18,
        "mixed = '3.0'": 6,
        "patient = '000'": 2,
        "patient = '000' OR weight > 62": 3,
        "age BETWEEN 40 AND 41.5 AND mixed IN (3)": 2,
    }
    assert {where: len(store.select(where)) for where in count} == count


def test_a_store_whose_column_had_another_type_is_embedded_again(embedded, tmp_path):
    """A manifest may come with other types than before: the samples are replaced, and nothing is embedded twice."""
    store = open_store(embedded({"patient": [str(i // 2) for i in range(24)], "label": LABEL}))
    before = store.samples.with_columns(pl.col("patient").cast(pl.Int64))  # as an older headwater wrote it
    with store.changing():
        store.write_samples(before, store.roles)
    again = embed(tmp_path / "m.csv", store.path, encoder="stub:16")
    assert again.results["stub-16/image"].embedded == 0
    assert again.changes.lines() == []
    assert open_store(store.path).samples.schema["patient"] == pl.String


def test_slides_of_an_import_table_are_found_as_they_are_written(tmp_path):
    """A slide 0001 in the table is the file 0001, of whichever name the column is."""
    h5py = pytest.importorskip("h5py")
    (tmp_path / "h5").mkdir()
    names = [f"{i:04d}" for i in range(6)]
    for i, name in enumerate(names):
        with h5py.File(tmp_path / "h5" / f"{name}.h5", "w") as file:
            file["features"] = np.full((2, 4), i, np.float32)
    for column in ("slide", "slide_id", "whole_slide", "scan"):
        rows = [f"{name},{'ab'[i % 2]},{i}.50" for i, name in enumerate(names)]
        (tmp_path / f"{column}.csv").write_text("\n".join([f"{column},label,size", *rows, ""]))
        id = None if column.startswith("slide") else column
        store = import_features(
            tmp_path / "h5", tmp_path / f"{column}.hw", name="uni", table=tmp_path / f"{column}.csv", id=id
        )
        assert store.samples["slide"].unique().sort().to_list() == names
        assert store.samples["size"].max() == 5.5
    pl.DataFrame({"slide": names, "n": pl.Series([2**70] * 6, dtype=pl.Int128)}).write_parquet(tmp_path / "t.parquet")
    store = import_features(tmp_path / "h5", tmp_path / "p.hw", name="uni", table=tmp_path / "t.parquet")
    assert set(store.samples["n"]) == {str(2**70)}
    assert pq.read_table(store.path / "samples.parquet").num_rows == 12


def test_a_merge_file_is_read_as_it_is_written(make_store, command, tmp_path):
    """Labels in a merge file keep their zeros, and a file in doubt is refused with its line."""
    store = make_store(np.random.default_rng(0).standard_normal((24, 4)), label=["007", "08", "9"] * 8)
    asked = ("fit-head", store.path, "--features", "made/image", "--folds", "2", "--label", "label")
    (tmp_path / "m.csv").write_text("from,to\n007,08\n")
    done = command(*asked, "--merge", tmp_path / "m.csv", "--out", tmp_path / "run")
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["classes"] == ["08", "9"]
    (tmp_path / "m.csv").write_text('from,to\n007,08\n"9 \\" x",08\n')
    assert "line 3: quotation marks are escaped by backslashes" in command(*asked, "--merge", tmp_path / "m.csv").error
    (tmp_path / "m.csv").write_text("from,to\n007,08,9\n")
    assert "line 2 has 3 fields" in command(*asked, "--merge", tmp_path / "m.csv").error
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("cell", ["i\\{}.png", " i/{}.png", "~/i/{}.png", "i/{}.jpg", "I/{}.png"])
def test_a_command_of_which_every_row_fails_has_failed(embedded, command, tmp_path, cell):
    """Where no image is found the status is 1 and the reason is said; where one is, the command has done its work."""
    store = embedded({"label": LABEL})
    rows = [f"r{i},{cell.format(i)}" for i in range(24)]
    (tmp_path / "bad.csv").write_text("\n".join(["id,image", *rows, ""]))
    done = command("embed", tmp_path / "bad.csv", tmp_path / "t.hw", "--encoder", "stub:16")
    assert done.status == 1
    assert "stub-16/image: all failed (24 samples)" in done.error
    assert "image file not found" in done.out
    assert "(" in done.out.splitlines()[1].partition("image file not found")[2]
    (tmp_path / "bad.csv").write_text("\n".join(["id,image", *rows, "r24,i/1.png", ""]))
    assert command("embed", tmp_path / "bad.csv", tmp_path / "t.hw", "--encoder", "stub:16").status == 0
    assert store.exists()


def test_every_text_may_be_there_while_no_image_is(command, tmp_path):
    """A dual encoder whose images are all missing has failed too, though its texts are stored."""
    (tmp_path / "m.csv").write_text("id,image,text\na,x.png,one\nb,y.png,two\n")
    done = command("embed", tmp_path / "m.csv", tmp_path / "s.hw", "--encoder", "stub:16")
    assert done.status == 1
    assert "stub-16/image: all failed (2 samples)" in done.error
    assert open_store(tmp_path / "s.hw").feature_names() == ["stub-16/image", "stub-16/text"]
