"""Known data sets in folders that are not as published: other letters, two sets in one, a level too high, clashes."""

import json
import shlex

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import HeadwaterError
from headwater.sources._listing import Files
from headwater.sources.known import seems_to_be
from tests.dicoms import as_bytes, dataset

RSNA = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case\n1,10,100,L,CC,50,{cancer},0,0,,0,B,49,False\n"
)
VINDR = (
    "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split\n"
    f"{'a' * 32},{'c' * 32},{'b' * 32},L,CC,9,9,BI-RADS 1,DENSITY B,training\n"
)


def files(root, *names):
    """Write files that no reader of tables has to open."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * 8)
    return root


def refusal(kind, folder, **options):
    """The error, which is one line."""
    with pytest.raises(HeadwaterError) as caught:
        hw.manifest(kind, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


ONE = {
    "breakhis": "SOB_B_A-14-22549AB-40-001.png",
    "bach": "Photos/Benign/b001.tif",
    "mias": "all-mias/mdb001.pgm",
    "vindr-mammo": f"images/{'a' * 32}/{'b' * 32}.dicom",
    "rsna-mammo": "train_images/10/100.dcm",
    "cbis-ddsm": "CBIS-DDSM/Mass-Training_P_00001_LEFT_CC/1/2/1-1.dcm",
    "glas": "train_1.bmp",
    "lc25000": "lung_n/lungn1.jpeg",
    "nct-crc": "NCT-CRC-HE-100K/ADI/ADI-AAAMHQMK.tif",
}


@pytest.mark.parametrize("kind", ONE)
def test_suffixes_in_capitals(tmp_path, kind):
    """Whether a suffix is written in capitals does not matter, neither to the reader nor to what recognises a set."""
    stem, _, suffix = ONE[kind].rpartition(".")
    root = files(tmp_path / "set", f"{stem}.{suffix.upper()}")
    if kind == "vindr-mammo":
        (root / "breast-level_annotations.csv").write_text(VINDR)
    if kind == "rsna-mammo":
        (root / "train.csv").write_text(RSNA.format(cancer=0))
    if kind == "cbis-ddsm":
        assert "Download the four tables" in refusal(kind, root)  # the film was seen
    else:
        made = hw.manifest(kind, root)
        assert made.table["image"].to_list() == [str(root / f"{stem}.{suffix.upper()}")]
    assert seems_to_be(Files.below(root)) == kind


def test_films_of_mias_in_capitals(tmp_path):
    """Names in capitals, as old disks have them, find their findings too."""
    root = files(tmp_path, "MDB001.PGM", "MDB002.PGM")
    (root / "INFO.TXT").write_text("mdb001 G CIRC B 535 425 197\nmdb002 G NORM\n")
    made = hw.manifest("mias", root)
    assert made.table.select("id", "laterality", "label").rows() == [
        ("mdb001", "R", "benign"),
        ("mdb002", "L", "normal"),
    ]


@pytest.mark.parametrize("kind", ["rsna-mammo", "vindr-mammo", "quilt", "cbis-ddsm"])
def test_a_table_above_another_set(tmp_path, kind):
    """A table above the folder is not taken for that of the folder, unless images of the set lie in it."""
    names = {"rsna-mammo": "train.csv", "vindr-mammo": "breast-level_annotations.csv", "quilt": "quilt_1M_lookup.csv"}
    text = {
        "rsna-mammo": RSNA.format(cancer=0),
        "vindr-mammo": VINDR,
        "quilt": "caption,image_path,subset\na,b.jpg,c\n",
    }
    (tmp_path / names.get(kind, "mass_case_description_train_set.csv")).write_text(text.get(kind, "a\n1\n"))
    bach = files(tmp_path / "bach", "Photos/Benign/b001.tif")
    assert "looks like BACH" in refusal(kind, bach)


def test_tables_of_the_same_name(tmp_path):
    """Of several tables of one name, that with the columns of the set is read, not the nearest."""
    root = files(tmp_path, "rsna/train_images/10/100.dcm")
    (root / "train.csv").write_text("a,b\n1,2\n")
    (root / "test.csv").write_text("a,b\n1,2\n")
    (root / "rsna" / "train.csv").write_text(RSNA.format(cancer=1))
    made = hw.manifest("rsna-mammo", root)
    assert made.table.select("id", "label").rows() == [("100", 1)]
    assert any("test.csv is of another set" in line for line in made.warnings)
    inner = hw.manifest("rsna-mammo", root / "rsna" / "train_images")
    assert inner.table["id"].to_list() == ["100"]


def test_a_table_of_the_name_in_another_set(tmp_path):
    """What the folder looks like is said, even if it holds a table of the same name."""
    root = files(tmp_path, "Photos/Benign/b001.tif")
    (root / "train.csv").write_text("a,b\n1,2\n")
    assert "looks like BACH, not RSNA" in refusal("rsna-mammo", root)


def test_several_readmes(tmp_path):
    """The README with the findings is read, whatever other files of that name lie nearer."""
    root = files(tmp_path, "all-mias/mdb001.pgm")
    (root / "README").write_text("my notes\n")
    (root / "Info.txt").write_text("more notes\n")
    (root / "all-mias" / "README").write_text("mdb001 G CIRC M 535 425 197\n")
    assert hw.manifest("mias", root).table["label"].to_list() == ["malignant"]


def test_two_copies_of_tiles(tmp_path):
    """Tiles of one name in folders that do not say which archive they are of: the first is listed, and this is said."""
    made = hw.manifest("nct-crc", files(tmp_path, "a/ADI/ADI-AAAMHQMK.tif", "b/ADI/ADI-AAAMHQMK.tif"))
    assert made.n_samples == 1
    assert any(line.startswith("1 file left out that have the name of another") for line in made.warnings)


def test_an_archive_inside_another(tmp_path):
    """The archive of a tile is the innermost folder that is called so."""
    root = files(tmp_path, "CRC-VAL-HE-7K/NCT-CRC-HE-100K-NONORM/ADI/ADI-AAAMHQMK.tif")
    made = hw.manifest("nct-crc", root)
    assert made.table.select("set", "split").rows() == [("NCT-CRC-HE-100K-NONORM", "train")]


@pytest.mark.parametrize("word", ["inf", "nan", "1e30", "0.5", "yes", ""])
def test_numbers_that_are_none(tmp_path, word):
    """A number that is not whole, not finite or no number is missing, never rounded; a label so lost is counted."""
    root = files(tmp_path, "img/v_image_0.jpg", "train_images/10/100.dcm")
    (root / "quilt_1M_lookup.csv").write_text(f"caption,image_path,subset,height\na,v_image_0.jpg,quilt,{word}\n")
    assert hw.manifest("quilt", root).table["height"].to_list() == [None]
    (root / "train.csv").write_text(RSNA.format(cancer=word))
    made = hw.manifest("rsna-mammo", root)
    assert made.table["label"].to_list() == [None]
    assert "1 row of train.csv whose cancer is neither 0 nor 1: no label" in made.warnings


@pytest.mark.parametrize(("word", "label"), [("1", 1), ("0.0", 0), ("2", None)])
def test_a_label_is_zero_or_one(tmp_path, word, label):
    root = files(tmp_path, "train_images/10/100.dcm")
    (root / "train.csv").write_text(RSNA.format(cancer=word))
    assert hw.manifest("rsna-mammo", root).table["label"].to_list() == [label]


def test_boxes_are_json(tmp_path):
    """A corner that is no number is null: NaN would be no JSON."""
    (tmp_path / "breast-level_annotations.csv").write_text(VINDR)
    (tmp_path / "finding_annotations.csv").write_text(
        f"image_id,finding_categories,finding_birads,xmin,ymin,xmax,ymax\n{'b' * 32},['Mass'],BI-RADS 4,1,nan,inf,4\n"
    )
    boxes = hw.manifest("vindr-mammo", tmp_path).table["finding_boxes"][0]
    assert json.loads(boxes, parse_constant=pytest.fail) == [
        {"categories": ["Mass"], "birads": 4, "box": [1.0, None, None, 4.0]}
    ]


def test_a_folder_above_the_classes(tmp_path):
    """One subfolder gives one label, which is said with the folder that holds the classes."""
    root = files(tmp_path / "a set", "images/a/1.png", "images/b/2.png")
    made = hw.manifest("folder", root)
    line = next(one for one in made.warnings if "'images'" in one)
    inner = shlex.split(line.rpartition(": ")[2])[0]
    assert hw.manifest("folder", inner).table["label"].to_list() == ["a", "b"]
    assert not any("'a'" in one for one in hw.manifest("folder", inner).warnings)
    (one,) = (line for line in hw.manifest("folder", files(tmp_path / "one", "a/1.png")).warnings if "'a'" in line)
    assert "give that folder" not in one


@pytest.mark.parametrize(
    ("names", "labels", "splits"),
    [
        (("train/a/1.png", "test/b/2.png"), ["b", "a"], ["test", "train"]),
        (("Training/a/1.png", "Validation/b/2.png"), ["a", "b"], ["train", "val"]),
        (("train/a/x/1.png", "test/2.png"), [None, "a"], ["test", "train"]),
        (("train/1.png", "dev/2.png"), None, ["val", "train"]),
        (("train/1.png", "benign/2.png"), ["benign", "train"], None),  # a class may be called so
    ],
)
def test_subfolders_of_a_split(tmp_path, names, labels, splits):
    """Folders called train, val and test are a split, and the folders inside are the classes."""
    made = hw.manifest("folder", files(tmp_path, *names))
    table = made.table
    assert (table["label"].to_list() if "label" in table.columns else None) == labels
    assert (table["split"].to_list() if "split" in table.columns else None) == splits
    assert any("parts of a split" in line for line in made.warnings) == (splits is not None)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_only_manifests_are_replaced(tmp_path, suffix):
    """A table of the set itself, or of somebody else, is not overwritten; a manifest made before is."""
    root = files(tmp_path, "train_images/10/100.dcm")
    (root / "train.csv").write_text(RSNA.format(cancer=1))
    published = (root / "train.csv").read_bytes()
    other = root / f"other.{suffix}"
    pl.read_csv(root / "train.csv").write_csv(other) if suffix == "csv" else pl.read_csv(
        root / "train.csv"
    ).write_parquet(other)
    for path in (root / "train.csv", other):
        assert "no manifest that headwater wrote" in refusal("rsna-mammo", root, out=path)
    assert (root / "train.csv").read_bytes() == published
    for _ in range(2):
        assert hw.manifest("rsna-mammo", root, out=root / f"made.{suffix}").n_samples == 1
    (root / "broken.parquet").write_bytes(b"no parquet")
    assert "no manifest" in refusal("rsna-mammo", root, out=root / "broken.parquet")


def test_the_command_in_a_refusal_can_be_pasted(tmp_path):
    """Blanks, brackets and quotes of a folder, such as that of GlaS, are quoted for a shell."""
    root = files(tmp_path / "Warwick QU Dataset (Released '16)", "train_1.bmp")
    words = shlex.split(refusal("breakhis", root).partition("Run: ")[2])
    assert words == ["headwater", "manifest", "glas", str(root)]


def test_groups_of_either_spelling(tmp_path):
    """Named groups are written with or without P; an escaped bracket is none; rows without a value are counted."""
    root = files(tmp_path, "p1-a(x.png", "p2-(x.png")
    made = hw.manifest("folder", root, columns_from=r"(?<patient>p\d)-(?P<side>[a-z])?\(")
    assert made.table.select("patient", "side").rows() == [("p1", "a"), ("p2", None)]
    assert made.about.groups == ("patient",)
    assert "--columns-from: side is empty in 1 row" in made.warnings
    assert "no named group" in refusal("folder", root, columns_from=r"(?<=p)1")


def test_names_that_were_left_out_are_said(tmp_path):
    """A folder that holds only names which no table can hold is not called empty."""
    root = files(tmp_path, "a\x1b[31m.png")
    assert "whose names are not in UTF-8 or hold control characters: 'a\\x1b[31m.png'" in refusal("bach", root)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619"])
def test_dicom_without_suffix_among_images(tmp_path, name):
    """A folder of images leaves out DICOM files without a suffix, says so, and names the command that reads them."""
    (tmp_path / name).write_bytes(as_bytes(dataset(np.zeros((4, 4), np.uint8))))
    assert f"{name!r} is DICOM. Run: headwater manifest dicom" in refusal("folder", tmp_path)
    files(tmp_path, "a.png")
    assert any(f"{name!r} is DICOM" in line for line in hw.manifest("folder", tmp_path).warnings)
    (tmp_path / name).write_bytes(b"a text")
    assert not any("DICOM" in line for line in hw.manifest("folder", tmp_path).warnings)


@pytest.mark.parametrize("real", ["malignant", "a", "z"])
def test_a_folder_that_links_lead_to(tmp_path, real):
    """It is listed at its own place, whatever links are called, and at the first one if it lies elsewhere."""
    files(tmp_path / "set", f"{real}/1.png")
    files(tmp_path / "elsewhere", "2.png")
    for name in ("b", "m", "zz"):
        (tmp_path / "set" / name).symlink_to(real)
    for name in ("y2", "y1"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / real / "up").symlink_to(tmp_path / "set")
    assert Files.below(tmp_path / "set").paths.to_list() == sorted([f"{real}/1.png", "y1/2.png"])


@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        ("breakhis", "benign/SOB_M_DC-14-13412-40-001.png", "malignant"),
        ("bach", "Photos/Normal/b001.tif", "Benign"),
        ("lc25000", "lung_n/lungaca1.jpeg", "lung_aca"),
        ("nct-crc", "ADI/TUM-AAAMHQMK.tif", "TUM"),
    ],
)
def test_a_file_in_the_folder_of_another_class(tmp_path, kind, name, label):
    """The name decides, and the warning says so; a file in its own folder, or in none, is not warned of."""
    made = hw.manifest(kind, files(tmp_path / "wrong", name))
    assert made.table["label"].to_list() == [label]
    (line,) = (line for line in made.warnings if "of another label" in line)
    assert line.startswith("1 file in the folder")
    assert name in line
    right = hw.manifest(kind, files(tmp_path / "right", ONE[kind]))
    assert not any("of another label" in line for line in right.warnings)


@pytest.mark.parametrize("patient", ["../../../etc", "..\\..", "10/../.."])
def test_a_table_that_names_files_elsewhere(tmp_path, patient):
    """The places that a manifest names lie in the archive, whatever the table says."""
    (tmp_path / "train.csv").write_text(RSNA.format(cancer=0).replace(",10,100,", f",{patient},100,"))
    assert "outside of the archive" in refusal("rsna-mammo", tmp_path)


def test_a_side_that_is_none(tmp_path):
    """Rows whose side is neither left nor right are counted: they belong to no breast."""
    (tmp_path / "train.csv").write_text(RSNA.format(cancer=0).replace(",L,", ",middle,"))
    made = hw.manifest("rsna-mammo", tmp_path)
    assert made.table.select("laterality", "breast").rows() == [(None, None)]
    assert "1 image whose side is neither left nor right: laterality and breast are empty" in made.warnings
