from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import HeadwaterError, ManifestError, ManifestNotFound
from headwater.sources import Manifest, read_manifest

DATA = Path(__file__).parents[2].parent / "shared" / "data"

TABLE = pl.DataFrame(
    {
        "id": ["007", "08", "a b"],
        "image": ["x/1.png", None, "y.jpg"],
        "caption": ["naïve, “quoted”", "two\nlines", None],
        "age": [61, 47, None],
    }
)


def write(table: pl.DataFrame, path: Path) -> Path:
    match path.suffix.lower():
        case ".csv":
            table.write_csv(path)
        case ".tsv":
            table.write_csv(path, separator="\t")
        case ".parquet":
            table.write_parquet(path)
        case _:
            table.write_ndjson(path)
    return path


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path: Path, **roles: str) -> str:
    """The message of the error, which is always one line that names the file."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **roles)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert isinstance(caught.value, HeadwaterError)
    assert isinstance(caught.value, ValueError)
    return message


@pytest.mark.parametrize("name", ["m.csv", "m.TSV", "m.tsv", "m.parquet", "m.jsonl", "m.ndjson"])
def test_every_kind_of_file_gives_the_same_samples(tmp_path: Path, name: str) -> None:
    manifest = read_manifest(write(TABLE, tmp_path / name))
    assert (manifest.id, manifest.image, manifest.text) == ("id", "image", "caption")
    assert manifest.n_samples == 3
    assert manifest.ids == ["007", "08", "a b"]
    assert manifest.image_paths() == [tmp_path / "x/1.png", None, tmp_path / "y.jpg"]
    assert manifest.texts() == ["naïve, “quoted”", "two\nlines", None]
    assert manifest.table["age"].to_list() == [61, 47, None]
    assert manifest.table.columns == TABLE.columns


def test_roles_of_a_csv_keep_their_leading_zeros_and_other_columns_become_numbers(tmp_path: Path) -> None:
    manifest = read_manifest(csv(tmp_path, "id,image,text,age\n007,010,1.50,61\n"))
    assert manifest.ids == ["007"]
    assert manifest.image_paths() == [tmp_path / "010"]
    assert manifest.texts() == ["1.50"]
    assert manifest.require("age").to_list() == [61]


def test_flagged_columns_keep_their_leading_zeros(tmp_path: Path) -> None:
    path = csv(tmp_path, "case,scan,words,id\n007,010,00,1\n")
    manifest = read_manifest(path, id="case", image="scan", text="words")
    assert (manifest.ids, manifest.texts()) == (["007"], ["00"])
    assert manifest.image_paths() == [tmp_path / "010"]


def test_a_late_fraction_turns_the_whole_column_into_fractions(tmp_path: Path) -> None:
    rows = "".join(f"{i},t,{i}\n" for i in range(2000))
    manifest = read_manifest(csv(tmp_path, "id,text,value\n" + rows + "last,t,0.5\n"))
    assert manifest.table.schema["value"] == pl.Float64
    assert manifest.ids[-1] == "last"


def test_a_late_key_of_json_lines_is_a_column(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": 1, "text": "a"}\n' * 1 + "".join(f'{{"id": {i}, "text": "b"}}\n' for i in range(2, 2000)))
    with path.open("a") as file:
        file.write('{"id": 2000, "text": "c", "late": 3.5}\n')
    manifest = read_manifest(path)
    assert manifest.ids[:2] == ["1", "2"]
    assert manifest.require("late").drop_nulls().to_list() == [3.5]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbfid,text\n1,a\n")
    assert read_manifest(path).ids == ["1"]


def test_numeric_ids_of_a_parquet_file_become_strings(tmp_path: Path) -> None:
    path = write(pl.DataFrame({"id": [3, 4], "text": ["a", "b"]}), tmp_path / "m.parquet")
    assert read_manifest(path).table["id"].to_list() == ["3", "4"]


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        ("id,image,text", ("id", "image", "text")),
        ("image_id,sample_id,path,report", ("sample_id", "path", "report")),
        ("ID,Image,Text", ("ID", "Image", "Text")),
        ("Sample ID,image-path,notes", ("Sample ID", "image-path", "notes")),
        ("image_id,image_path,file,caption,text", ("image_id", "image_path", "text")),
        ("ID,id,image,caption", ("id", "image", "caption")),
        ("id,label,filename", ("id", "filename", None)),
        ("id,finding,caption", ("id", None, "caption")),
    ],
)
def test_roles_are_found_by_the_best_name(tmp_path: Path, columns: str, roles: tuple[str | None, ...]) -> None:
    values = ",".join("abcdefgh"[: columns.count(",") + 1])
    manifest = read_manifest(csv(tmp_path, f"{columns}\n{values}\n"))
    assert (manifest.id, manifest.image, manifest.text) == roles


@pytest.mark.parametrize(
    ("columns", "role", "named"),
    [
        ("id,path,file", "image", ["path", "file"]),
        ("id,findings,impression,image", "text", ["findings", "impression"]),
        ("uid,image_id,image", "id", ["uid", "image_id"]),
        ("ID,Id,image", "id", ["ID", "Id"]),
    ],
)
def test_two_equally_good_columns_are_listed_with_the_flag_to_pass(
    tmp_path: Path, columns: str, role: str, named: list[str]
) -> None:
    values = ",".join("abcdefgh"[: columns.count(",") + 1])
    path = csv(tmp_path, f"{columns}\n{values}\n")
    message = complaint(path)
    assert f"--{role}" in message
    assert all(repr(name) in message for name in named)
    assert getattr(read_manifest(path, **{role: named[1]}), role) == named[1]


def test_without_ids_distinct_image_paths_serve(tmp_path: Path) -> None:
    manifest = read_manifest(csv(tmp_path, "image,label\nb.png,0\na.png,1\n"))
    assert manifest.ids == ["b.png", "a.png"]
    assert manifest.table.columns == ["id", "image", "label"]


def test_one_column_may_have_two_roles(tmp_path: Path) -> None:
    manifest = read_manifest(csv(tmp_path, "image,text\n007,x\n"), id="image")
    assert (manifest.id, manifest.ids) == ("image", ["007"])
    assert manifest.table.columns == ["image", "text"]


@pytest.mark.parametrize("text", ["image,label\na.png,0\na.png,1\n", "image,text\na.png,x\n,y\n", "text\nx\nx\n"])
def test_without_ids_or_distinct_images_row_numbers_serve(tmp_path: Path, text: str) -> None:
    assert read_manifest(csv(tmp_path, text)).ids == ["1", "2"]


def test_an_image_id_shared_by_several_captions_is_not_taken_for_a_sample_id(tmp_path: Path) -> None:
    path = csv(tmp_path, "image_id,image,caption\n7,a.png,x\n7,a.png,y\n8,b.png,z\n")
    assert read_manifest(path).ids == ["1", "2", "3"]
    assert "'7' (2 rows)" in complaint(path, id="image_id")


def test_blank_texts_and_paths_are_none_and_others_are_untouched(tmp_path: Path) -> None:
    path = csv(tmp_path, 'id,image,text\na,"",  two  \nb,x.png,"   "\nc,x.png,""\n')
    manifest = read_manifest(path)
    assert manifest.texts() == ["  two  ", None, None]
    assert manifest.image_paths() == [None, tmp_path / "x.png", tmp_path / "x.png"]


def test_an_absolute_image_path_stays_and_others_start_at_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere" / "1.png"
    csv(tmp_path, f"id,image\na,{elsewhere}\nb,../2.png\n")
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest("manifest.csv")
    assert manifest.root == tmp_path
    assert manifest.image_paths() == [elsewhere, tmp_path / "../2.png"]


def test_a_manifest_without_texts_or_images_gives_none_for_each_sample(tmp_path: Path) -> None:
    assert read_manifest(csv(tmp_path, "id,image\na,x.png\n")).texts() == [None]
    assert read_manifest(csv(tmp_path, "id,text\na,x\n")).image_paths() == [None]


def test_a_name_with_wildcards_is_one_file(tmp_path: Path) -> None:
    for name, sample in [("m[1].csv", "a"), ("m1.csv", "b")]:
        (tmp_path / name).write_text(f"id,text\n{sample},x\n")
    assert read_manifest(tmp_path / "m[1].csv").ids == ["a"]


def test_a_missing_manifest_is_a_missing_file_and_the_nearest_name_is_offered(tmp_path: Path) -> None:
    csv(tmp_path, "id,text\na,x\n")
    with pytest.raises(FileNotFoundError, match=r"manifest not found: .*manifst\.csv\. Did you mean 'manifest\.csv'\?"):
        read_manifest(tmp_path / "manifst.csv")
    with pytest.raises(ManifestNotFound):
        read_manifest(tmp_path / "nowhere" / "m.csv")


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "m.xlsx"
    path.write_bytes(b"x")
    assert re.search(r"\.xlsx is not.*\.csv, \.tsv, \.parquet, \.jsonl, \.ndjson", complaint(path))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", b""),
        ("m.csv", b"id,text\n1,a,too,many\n"),
        ("m.csv", b"id,text\n1,caf\xe9\n"),
        ("m.csv", b'id,text\n1,"never closed\n'),
        ("m.parquet", b"not a parquet file"),
        ("m.parquet", b""),
        ("m.jsonl", b'{"id": 1}\n{"id": oops}\n'),
        ("m.jsonl", b""),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named_with_the_reason(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert re.search(r"cannot be parsed as (csv|parquet|jsonl) \(.+\)", complaint(path))


@pytest.mark.parametrize(
    ("name", "separator", "words"),
    [
        ("m.csv", ";", "seems to be separated by semicolons: .* Save it with commas"),
        ("m.csv", "\t", "seems to be separated by tabs: .* Name it m.tsv, or save it with commas"),
        ("m.tsv", ",", "seems to be separated by commas: .* Name it m.csv, or save it with tabs"),
        ("m.tsv", ";", "seems to be separated by semicolons: .* Save it with tabs"),
    ],
)
@pytest.mark.parametrize("roles", [{}, {"image": "image"}])
def test_a_file_of_another_separator_is_told_by_its_only_column(
    tmp_path: Path, name: str, separator: str, words: str, roles: dict[str, str]
) -> None:
    path = tmp_path / name
    path.write_text("id;image;width\na;x.png;1,5\n".replace(";", separator))
    assert re.search(words, complaint(path, **roles))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", "id,text\n1,café\n".encode("latin-1")),
        ("m.csv", "id,text,café\n1,a,2\n".encode("latin-1")),
        ("m.csv", "id,text\n1,café\n".encode("utf-16")),
        ("m.tsv", "id\ttext\n1\tcafé\n".encode("utf-16")),
        ("m.jsonl", '{"id": 1, "text": "café"}\n'.encode("latin-1")),
    ],
)
def test_a_file_in_another_encoding_is_to_be_saved_as_utf8(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert "Save it as UTF-8" in complaint(path)


@pytest.mark.parametrize("start", ["", "\n\n", "\ufeff"])
def test_columns_of_one_name_are_named(tmp_path: Path, start: str) -> None:
    path = csv(tmp_path, f"{start}id,text,lab,lab,age,age,,\n1,a,b,c,2,3,,\n")
    assert "several columns are called 'lab', 'age'. Give each a name of its own" in complaint(path)
    path = csv(tmp_path, "id,text,lab,lab_duplicated_0,,\n1,a,b,c,,\n")
    assert read_manifest(path).table["lab_duplicated_0"].to_list() == ["c"]


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert "has no rows" in complaint(csv(tmp_path, "id,image\n"))


@pytest.mark.parametrize("role", ["id", "image", "text"])
def test_a_missing_column_is_answered_with_those_there_are(tmp_path: Path, role: str) -> None:
    message = complaint(csv(tmp_path, "id,picture,label\na,x.png,0\n"), **{role: "pictures"})
    assert f"--{role}: there is no column 'pictures'. Did you mean 'picture'?" in message
    assert "'id', 'picture', 'label'" in message


def test_require_gives_a_column_or_lists_those_there_are(tmp_path: Path) -> None:
    manifest = read_manifest(csv(tmp_path, "id,text,density\na,x,2\n"))
    assert manifest.require("density").to_list() == [2]
    with pytest.raises(ManifestError, match=r"no column 'densty'\. Did you mean 'density'\? .*'id', 'text', 'density'"):
        manifest.require("densty")


def test_repeated_ids_are_counted_and_some_are_named(tmp_path: Path) -> None:
    rows = "".join(f"p{i},x\n" * 2 for i in range(9)) + "p0,x\nalone,x\n"
    message = complaint(csv(tmp_path, "id,text\n" + rows))
    assert "9 ids in column 'id'" in message
    assert "'p0' (3 rows), 'p1' (2 rows)" in message
    assert "and 4 more" in message
    assert "alone" not in message


def test_rows_without_an_id_are_named(tmp_path: Path) -> None:
    assert "rows (2, 3) have no id" in complaint(csv(tmp_path, "id,text\na,x\n,x\n  ,x\n"))


def test_rows_with_neither_image_nor_text_are_named(tmp_path: Path) -> None:
    path = csv(tmp_path, 'id,image,text\na,x.png,\nb,,\nc,,words\nd,""," "\n')
    assert "2 rows (2, 4) have neither image nor text" in complaint(path)
    assert "row 1 has neither" in complaint(csv(tmp_path, "id,image\na,\nb,x.png\n"))


def test_a_table_of_neither_images_nor_texts_is_answered_with_the_flags(tmp_path: Path) -> None:
    message = complaint(csv(tmp_path, "id,scan\na,x.png\n"))
    assert "--image COLUMN" in message
    assert "--text COLUMN" in message
    assert "'id', 'scan'" in message


def test_a_column_of_lists_cannot_be_a_text(tmp_path: Path) -> None:
    path = write(pl.DataFrame({"id": ["a"], "text": [["x", "y"]]}), tmp_path / "m.parquet")
    assert "column 'text' holds List" in complaint(path)


class TestFolder:
    @staticmethod
    def lay(root: Path, *names: str) -> Path:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return root

    def test_subfolders_are_labels_and_rows_are_sorted(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "malignant/b.PNG", "malignant/deep/er/a.jpg", "benign/z.tif", "benign/readme.txt")
        manifest = read_manifest(tmp_path)
        assert manifest.table.to_dict(as_series=False) == {
            "id": ["benign/z", "malignant/b", "malignant/deep/er/a"],
            "image": ["benign/z.tif", "malignant/b.PNG", "malignant/deep/er/a.jpg"],
            "label": ["benign", "malignant", "malignant"],
        }
        assert (manifest.id, manifest.image, manifest.text) == ("id", "image", None)
        assert manifest.root == tmp_path
        assert all(path is not None and path.is_file() for path in manifest.image_paths())

    def test_files_that_differ_in_their_suffix_alone_keep_it_in_their_id(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "a/1.png", "a/1.jpg", "a/2.png", "b/1.png")
        assert read_manifest(tmp_path).ids == ["a/1.jpg", "a/1.png", "a/2", "b/1"]

    def test_hidden_files_and_folders_are_left_out(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "a/1.png", "a/._1.png", ".cache/2.png", "a/.cache/3.png")
        assert read_manifest(tmp_path).ids == ["a/1"]

    def test_images_outside_a_class_folder_are_named(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "a/1.png", "stray.png")
        words = complaint(tmp_path)
        assert "'stray.png'" in words
        assert "1 other in subfolders" in words

    def test_images_in_no_subfolder_have_no_label(self, tmp_path: Path) -> None:
        manifest = read_manifest(self.lay(tmp_path, "b.png", "a.TIF", "notes.txt", "empty/notes.txt"))
        assert manifest.table.to_dict(as_series=False) == {"id": ["a", "b"], "image": ["a.TIF", "b.png"]}

    def test_a_loop_of_links_is_listed_once(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "a/1.png", "b/2.png")
        (tmp_path / "a" / "back").symlink_to(tmp_path)
        (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a" / "loop.png")
        assert read_manifest(tmp_path).ids == ["a/1", "b/2"]

    def test_a_name_with_a_newline_is_refused(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "a/1.png", "a/2\n.png")
        assert r"2\n.png" in complaint(tmp_path)

    def test_a_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        self.lay(tmp_path, "a/notes.txt")
        assert "there are no images" in complaint(tmp_path)

    def test_a_folder_named_like_a_table_is_still_a_folder(self, tmp_path: Path) -> None:
        assert read_manifest(self.lay(tmp_path / "set.csv", "a/1.png")).ids == ["a/1"]


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(texts, min_size=1, max_size=6), suffix=st.sampled_from([".csv", ".tsv", ".parquet", ".jsonl"]))
def test_texts_and_ids_come_back_as_they_were_written(
    rows: list[str], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = pl.DataFrame({"id": [f"0{i}{row}" for i, row in enumerate(rows)], "text": [f"x{row}" for row in rows]})
    manifest = read_manifest(write(table, tmp_path_factory.mktemp("m") / f"m{suffix}"))
    assert manifest.ids == table["id"].to_list()
    assert manifest.texts() == table["text"].to_list()


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    ("name", "n_samples", "n_texts", "roles"),
    [
        ("mini_mias/manifest.csv", 322, 0, ("id", "image", None)),
        ("covid_cxr/manifest.csv", 305, 299, ("id", "image", "notes")),
        ("glas/manifest.csv", 165, 0, ("id", "image", None)),
    ],
)
def test_real_manifests_are_read_and_their_images_exist(
    name: str, n_samples: int, n_texts: int, roles: tuple[str | None, ...]
) -> None:
    manifest = read_manifest(DATA / name)
    assert isinstance(manifest, Manifest)
    assert (manifest.id, manifest.image, manifest.text) == roles
    assert manifest.n_samples == n_samples
    assert sum(text is not None for text in manifest.texts()) == n_texts
    assert all(path is not None and path.is_file() for path in manifest.image_paths())
