"""Known data sets: trees laid out as published, scaled down, with every trap in them; and the real tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import headwater as hw
from headwater.commands.manifest import Kind
from headwater.errors import HeadwaterError, InputError, ManifestError, ManifestNotFound, MissingExtra
from headwater.sources import read_manifest, size_of
from headwater.sources.known import KINDS, Asked, read_known
from tests.extras import ABSENT

HERE = [kind for kind in KINDS if kind != "dicom" or "pydicom" not in ABSENT]
"""The kinds that can be read with what is installed."""

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")


def picture(path, size=(4, 3), grey=False):
    """Save a tiny image, whatever its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(size[0] * size[1] * (1 if grey else 3), dtype=np.uint8)
    shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
    Image.fromarray(values.reshape(shape)).save(path)
    return path


def dummy(path, n_bytes=8):
    """Write a file that no reader of tables has to open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * n_bytes)
    return path


def rows_of(made, *columns):
    return made.table.select(columns).rows()


def said(made, words):
    """The one warning that has these words in it."""
    found = [line for line in made.warnings if words in line]
    assert len(found) == 1, made.warnings
    return found[0]


def counts(made):
    return {one.what: (one.found, one.published) for one in made.counts}


def refusal(kind, folder, **options):
    """The error, which is one line."""
    with pytest.raises(HeadwaterError) as caught:
        hw.manifest(kind, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# BreakHis

TYPES = {"A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "DC": "ductal_carcinoma"}
TYPES |= {"LC": "lobular_carcinoma", "PC": "papillary_carcinoma"}


def breakhis(root, *slides):
    """Lay slides such as ``B A 14-22549AB`` out as the archive does, one image at each magnification."""
    for slide in slides:
        letter, kind, number = slide.split()
        year, rest = number.split("-")
        side = "benign" if letter == "B" else "malignant"
        base = (
            root / "BreaKHis_v1/histology_slides/breast" / side / "SOB" / TYPES[kind] / f"SOB_{letter}_{kind}_{number}"
        )
        for size in (40, 100, 200, 400):
            dummy(base / f"{size}X" / f"SOB_{letter}_{kind}-{year}-{rest}-{size}-001.png")
    return root


SLIDES = ("B A 14-22549AB", "B F 14-22549G", "M DC 14-13412", "M LC 14-13412", "M PC 15-190EF", "B PT 14-21998AB")


def test_breakhis_has_patients_and_slides(tmp_path):
    """A slide is named with its block letters, a patient without them; both stand beside the labels."""
    made = hw.manifest("breakhis", breakhis(tmp_path, *SLIDES))
    assert made.n_samples == 24
    row = made.table.filter(pl.col("id") == "SOB_B_A-14-22549AB-200-001").to_dicts()[0]
    assert row["image"].endswith("/SOB_B_A_14-22549AB/200X/SOB_B_A-14-22549AB-200-001.png")
    del row["image"]
    assert row == {
        "id": "SOB_B_A-14-22549AB-200-001",
        "label": "benign",
        "subtype": "adenosis",
        "magnification": 200,
        "patient": "14-22549",
        "slide": "14-22549AB",
    }
    assert made.table.filter(pl.col("patient") == "14-22549")["slide"].unique().sort().to_list() == [
        "14-22549AB",
        "14-22549G",
    ]
    assert "15-190" in made.table["patient"].to_list()
    assert made.about.groups == ("patient", "slide")
    assert made.about.outcomes == ("label", "subtype")
    assert "--groups patient" in said(made, "block letters")


def test_breakhis_names_the_slide_with_two_labels(tmp_path):
    """Slide 13412 is filed under two subtypes, and the expression that leaves it out does so."""
    made = hw.manifest("breakhis", breakhis(tmp_path, *SLIDES))
    line = said(made, "13412")
    assert "ductal carcinoma and lobular carcinoma" in line
    from headwater.store.where import select_samples

    where = line.partition("--where ")[2].strip('"')
    assert select_samples(made.table, where).height == made.n_samples - 8


def test_breakhis_counts_against_the_published_numbers(tmp_path):
    """What is missing and what is surplus is said, by magnification, label and subtype."""
    made = hw.manifest("breakhis", breakhis(tmp_path, *SLIDES))
    assert counts(made)["images"] == (24, 7909)
    assert counts(made)["40X"] == (6, 1995)
    assert counts(made)["slides"] == (5, 81)  # folders of 13412 are one slide
    assert "  40X: 6 of 1,995, 1,989 missing" in made.lines()
    for name, part in (("BY_MAGNIFICATION", 7909), ("BY_SUBTYPE", 7909), ("PUBLISHED", 7909)):
        from headwater.sources.known import breakhis as module

        assert sum(getattr(module, name).values()) == part


@pytest.mark.parametrize(
    "inner", ["", "BreaKHis_v1", "BreaKHis_v1/histology_slides/breast", "BreaKHis_v1/histology_slides/breast/benign"]
)
def test_breakhis_from_any_folder(tmp_path, inner):
    """The archive's folder, one above it, or one inside it will do."""
    made = hw.manifest("breakhis", breakhis(tmp_path, *SLIDES) / inner)
    assert made.n_samples == (12 if inner.endswith("benign") else 24)


def test_breakhis_reads_the_published_repeats(tmp_path):
    """The five random splits become columns, and are called what they are."""
    breakhis(tmp_path, *SLIDES[:2])
    (tmp_path / "dsfold1.txt").write_text(
        "SOB_B_A-14-22549AB-40-001.png|40|1|train\nSOB_B_F-14-22549G-40-001.png|40|1|test\n"
    )
    (tmp_path / "dsfold2.txt").write_text("nothing of use\n")
    made = hw.manifest("breakhis", tmp_path)
    assert made.table["repeat1"].drop_nulls().to_list() == ["train", "test"]
    assert "repeat2" not in made.table.columns
    assert "not five folds" in said(made, "random splits")
    assert said(made, "dsfold2.txt")


@needs_data
def test_breakhis_real_names():
    """Names of real files are read whole."""
    made = hw.manifest("breakhis", DATA / "breakhis_names")
    assert made.n_samples == 8
    assert made.table["patient"].n_unique() == 5


# BACH


def bach(root, n=3):
    for code, label in (("n", "Normal"), ("b", "Benign"), ("is", "InSitu"), ("iv", "Invasive")):
        for number in range(1, n + 1):
            dummy(root / "ICIAR2018_BACH_Challenge/Photos" / label / f"{code}{number:03d}.tif")
    dummy(root / "ICIAR2018_BACH_Challenge/Photos/Normal/Thumbs.db")
    dummy(root / "ICIAR2018_BACH_Challenge/Photos/Normal/A01.svs")
    dummy(root / "ICIAR2018_BACH_Challenge_TestDataset/Photos/test0.tif")
    (root / "ICIAR2018_BACH_Challenge/Photos/microscopy_ground_truth.csv").write_text(
        "n001.tif,Normal\nb002.tif,InSitu\n"
    )
    return root


def test_bach_has_labels_and_a_test_set(tmp_path):
    """Labels come from the names; stray files are left out; the test set has no labels."""
    made = hw.manifest("bach", bach(tmp_path))
    assert rows_of(made, "id", "label", "split")[:3] == [
        ("b001", "Benign", "train"),
        ("b002", "Benign", "train"),
        ("b003", "Benign", "train"),
    ]
    assert rows_of(made, "id", "label", "split")[-1] == ("test0", None, "test")
    assert made.n_samples == 13
    assert "patient" not in made.table.columns
    assert made.about.groups == ()
    assert said(made, "names no patients")
    assert "b002" in said(made, "microscopy_ground_truth.csv")


def patients_csv(path):
    path.write_text("image,patient\nb001.tif,11\nb002.tif,11\nis001,12\n")
    return path


def test_bach_leaves_unknown_patients_empty(tmp_path):
    """Images of no known patient are not one patient each: the cell stays empty, and that is said."""
    made = hw.manifest("bach", bach(tmp_path), groups_file=patients_csv(tmp_path / "patients.csv"))
    assert dict(rows_of(made, "id", "patient"))["b001"] == "11"
    assert made.table.filter(split="train")["patient"].null_count() == 9
    assert "9 training images of no known patient" in said(made, "no known patient")
    assert counts(made)["patients"] == (2, 29)


def test_bach_reads_the_workbook(tmp_path):
    """The challenge's table is a workbook, whose numbers are read as text."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["Micro image", "Patient number"], ["b001.tif", 11], ["iv003.tif", 39.0], [None, None]):
        book.active.append(row)
    book.save(tmp_path / "p.xlsx")
    made = hw.manifest("bach", bach(tmp_path), groups_file=tmp_path / "p.xlsx")
    assert made.table.drop_nulls("patient").select("id", "patient").rows() == [("b001", "11"), ("iv003", "39")]


def test_bach_without_openpyxl(tmp_path, monkeypatch):
    """Without the package the message says what to install."""
    import sys

    dummy(tmp_path / "p.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtra, match=r"pip install 'headwater\[tables\]'"):
        hw.manifest("bach", bach(tmp_path), groups_file=tmp_path / "p.xlsx")


@pytest.mark.parametrize("harm", ["bomb", "entities", "no zip", "lies about its size"])
def test_bach_refuses_a_harmful_workbook(tmp_path, harm):
    """A workbook that unpacks to gigabytes, or declares entities, is refused before it is parsed."""
    pytest.importorskip("openpyxl")
    import zipfile

    path = tmp_path / "p.xlsx"
    if harm == "no zip":
        dummy(path)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            text = "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>" if harm == "entities" else " " * (80 << 20)
            archive.writestr("xl/workbook.xml", text)
        if harm == "lies about its size":
            data = path.read_bytes()
            path.write_bytes(data.replace((80 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    message = refusal("bach", bach(tmp_path), groups_file=path)
    assert "cannot be read as a workbook" in message
    assert {"bomb": "unpacks to more than", "entities": "declares entities"}.get(harm, "") in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "one column of images"),
        ("image,patient\nb001,1\nb001,2\n", "several patients"),
        ("image,x,y\nb001,1,2\n", "one column of images"),
    ],
)
def test_bach_refuses_another_table(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    assert words in refusal("bach", bach(tmp_path), groups_file=tmp_path / "p.csv")


def test_bach_eva_split_of_the_whole_set(tmp_path):
    """With all 400 images, the ranges of eva's split are written: 268 and 132 images."""
    made = hw.manifest("bach", bach(tmp_path, 100))
    assert dict(made.table["eva_split"].drop_nulls().value_counts().iter_rows()) == {"train": 268, "val": 132}
    assert counts(made)["training images"] == (400, 400)


# LC25000


def lc25000(root):
    names = {
        "colon_aca": "colonca",
        "colon_n": "colonn",
        "lung_aca": "lungaca",
        "lung_n": "lungn",
        "lung_scc": "lungscc",
    }
    for label, stem in names.items():
        organ = label.partition("_")[0]
        for number in (1, 2, 30):
            dummy(root / "lung_colon_image_set" / f"{organ}_image_sets" / label / f"{stem}{number}.jpeg")
    return root


def test_lc25000_names(tmp_path):
    """``colonca`` is the adenocarcinoma of the colon; no split is honest without sources."""
    made = hw.manifest("lc25000", lc25000(tmp_path))
    assert set(rows_of(made, "label", "organ")) == {
        ("colon_aca", "colon"),
        ("colon_n", "colon"),
        ("lung_aca", "lung"),
        ("lung_n", "lung"),
        ("lung_scc", "lung"),
    }
    assert dict(rows_of(made, "id", "label"))["colonca30"] == "colon_aca"
    assert made.about.groups == ()
    assert "--groups-file" in said(made, "rotations and flips")


def clusters(root, where="resize_only", shift=0, name="colonca"):
    for label, stem in (("colon_aca", name), ("lung_n", "lungn")):
        path = root / "annotations" / label / "UNI" / where / "final_clusters.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{(number > 2) + shift},./LC25000/{label}/{stem}{number}.jpeg" for number in (1, 2, 30)]
        path.write_text("cluster_label,img_path\n" + "\n".join(rows) + "\n")
    return root / "annotations"


@pytest.mark.parametrize("name", ["colonca", "colonaca"])
def test_lc25000_sources(tmp_path, name):
    """Clusters of LC25000-clean become the group, of one class each; images in none are counted."""
    made = hw.manifest("lc25000", lc25000(tmp_path / "x"), groups_file=clusters(tmp_path, name=name))
    source = dict(rows_of(made, "id", "source"))
    assert (source["colonca1"], source["colonca2"], source["colonca30"]) == (
        "colon_aca-0",
        "colon_aca-0",
        "colon_aca-1",
    )
    assert source["lungn1"] == "lung_n-0"
    assert source["lungscc1"] is None
    assert made.about.groups == ("source",)
    assert "9 images in no cluster" in said(made, "in no cluster")


def test_lc25000_two_clusterings(tmp_path):
    """Two clusterings at once contradict each other, and are refused."""
    clusters(tmp_path)
    folder = clusters(tmp_path, "other", shift=5)
    assert "lies in several clusters" in refusal("lc25000", lc25000(tmp_path / "x"), groups_file=folder)


@pytest.mark.parametrize("what", ["nothing", "empty", "columns"])
def test_lc25000_refuses_another_file(tmp_path, what):
    lc25000(tmp_path / "x")
    given = tmp_path / "g"
    if what == "empty":
        given.mkdir()
    if what == "columns":
        given = tmp_path / "g.csv"
        given.write_text("a,b\n1,2\n")
    words = {"nothing": "no such file", "empty": "no final_clusters.csv", "columns": "no column 'cluster_label'"}[what]
    assert words in refusal("lc25000", tmp_path / "x", groups_file=given)


@needs_data
def test_lc25000_real_images(tmp_path):
    """The real lung images with their source tiles written as clusters: 1,498 images, 300 sources."""
    own = pl.read_csv(DATA / "lc25000_lung/manifest.csv")
    table = own.select(
        cluster_label=pl.col("source_tile").str.extract(r"-(\d+)$", 1),
        img_path=pl.format("./LC25000/x/{}.jpeg", "id"),
    )
    table.write_csv(tmp_path / "c.csv")
    made = hw.manifest("lc25000", DATA / "lc25000_lung", groups_file=tmp_path / "c.csv")
    assert counts(made)["images"] == (1498, 25_000)
    assert counts(made)["sources"][0] == own["source_tile"].n_unique() == 300
    assert made.table["source"].null_count() == 0


# NCT-CRC


def nct(root, *sets):
    for name in sets:
        for label in ("ADI", "NORM", "TUM"):
            middle = "TCGA-" if name.startswith("CRC") else ""
            dummy(root / name / label / f"{label}-{middle}AAAMHQMK.tif")
    return root


def test_nct_crc_split_and_no_patients(tmp_path):
    """The archives are training and test; no patients are named, and that is said."""
    made = hw.manifest("nct-crc", nct(tmp_path, "NCT-CRC-HE-100K", "CRC-VAL-HE-7K"))
    assert set(rows_of(made, "set", "split")) == {("NCT-CRC-HE-100K", "train"), ("CRC-VAL-HE-7K", "test")}
    assert made.about.groups == ()
    assert "divides patients" in said(made, "no patients or slides")
    assert counts(made)["NCT-CRC-HE-100K NORM"] == (1, 8763)


def test_nct_crc_of_one_folder(tmp_path):
    """One of the archives, or one class of it, is still known for what it is."""
    nct(tmp_path, "NCT-CRC-HE-100K", "CRC-VAL-HE-7K")
    made = hw.manifest("nct-crc", tmp_path / "CRC-VAL-HE-7K" / "ADI")
    assert rows_of(made, "label", "set", "split") == [("ADI", "CRC-VAL-HE-7K", "test")]
    assert "CRC-VAL-HE-7K is not there" in said(hw.manifest("nct-crc", tmp_path / "NCT-CRC-HE-100K"), "is not there")


def test_nct_crc_same_tiles_twice(tmp_path):
    """The normalised and the plain set hold the same tiles: ids stay unique, and the expression chooses one."""
    made = hw.manifest("nct-crc", nct(tmp_path, "NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM"))
    assert made.table["id"].is_unique().all()
    from headwater.store.where import select_samples

    where = said(made, "same tiles").partition("--where ")[2]
    assert select_samples(made.table, json.loads(where)).height == 3


def test_nct_crc_published_counts():
    from headwater.sources.known.nct_crc import PUBLISHED

    assert [sum(numbers) for numbers in PUBLISHED.values()] == [100_000, 100_000, 7_180]


# GlaS

HEADER = "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"


def glas(root):
    base = root / "Warwick QU Dataset (Released 2016_07_08)"
    rows = [
        ("testA_1", 1, "benign", "healthy"),
        ("testB_2", 2, "malignant", "moderately-to-poorly differentated"),
        ("train_1", 1, "malignant", "poorly differentiated"),
        ("train_3", 3, "benign", "adenomatous"),
    ]
    for name, *_ in rows:
        dummy(base / f"{name}.bmp")
        dummy(base / f"{name}_anno.bmp")
    lines = [HEADER, *(f"{name},{patient}, {grade}, {more}" for name, patient, grade, more in rows)]
    (base / "Grade.csv").write_bytes("\r".join(lines).encode())
    return root


def test_glas_bare_returns_and_blanks(tmp_path):
    """Lines end in a bare carriage return, and names and cells begin with a blank; a typing error is mended."""
    made = hw.manifest("glas", glas(tmp_path))
    assert rows_of(made, "id", "split", "part", "label", "grade", "patient") == [
        ("testA_1", "test", "testA", "benign", "healthy", "1"),
        ("testB_2", "test", "testB", "malignant", "moderately-to-poorly differentiated", "2"),
        ("train_1", "train", "train", "malignant", "poorly differentiated", "1"),
        ("train_3", "train", "train", "benign", "adenomatous", "3"),
    ]
    assert made.table["mask"][0].endswith("testA_1_anno.bmp")
    assert "1 of 3 patients are in both training and test" in said(made, "published split")
    assert "1 patient have" in said(made, "both labels") or "1 patient has" in said(made, "both labels")


def test_glas_without_its_table(tmp_path):
    glas(tmp_path)
    next(tmp_path.rglob("Grade.csv")).unlink()
    made = hw.manifest("glas", tmp_path)
    assert "label" not in made.table.columns
    assert "Grade.csv is not there" in said(made, "Grade.csv")


@needs_data
def test_glas_real_images(tmp_path):
    """The real images with Grade.csv as published: 165, 16 patients, 11 of them on both sides, 5 with both labels."""
    own = pl.read_csv(DATA / "glas/manifest.csv")
    lines = [f"{id},{patient}, {label}, {label}" for id, patient, label in own.select("id", "patient", "label").rows()]
    (tmp_path / "images").symlink_to(DATA / "glas/images")
    (tmp_path / "Grade.csv").write_bytes("\r".join([HEADER, *lines]).encode())
    made = hw.manifest("glas", tmp_path)
    assert all(found == published for found, published in counts(made).values())
    assert "11 of 16 patients" in said(made, "published split")
    assert said(made, "both labels").startswith("5 patients")


# MIAS


INFO = """MIAS MiniMammographic Database
REFNUM BG CLASS SEVERITY X Y RADIUS
mdb001 G CIRC B 535 425 197
mdb002 G CIRC B 522 280 69
mdb003 D NORM
mdb004 D NORM
mdb005 F CIRC B 477 133 30
mdb005 F CIRC M 500 168 26
mdb233 G CALC M *NOTE 3*
mdb234 G NORM
"""


def mias(root, info=INFO, table="Info.txt"):
    for number in (1, 2, 3, 4, 5, 233, 234):
        picture(root / "all-mias" / f"mdb{number:03d}.pgm", grey=True)
    if info:
        (root / "all-mias" / table).write_bytes(info.encode())
    return root


@pytest.mark.parametrize("table", ["Info.txt", "README"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mias_findings(tmp_path, table, end):
    """Several lesions make one row, y counts from the top, a lesion without a place is one, pairs are one woman."""
    made = hw.manifest("mias", mias(tmp_path, INFO.replace("\n", end), table))
    columns = ("id", "patient", "breast", "laterality", "view", "density", "label", "abnormality", "n_lesions")
    assert rows_of(made, *columns) == [
        ("mdb001", "001", "001-R", "R", "MLO", "fatty-glandular", "benign", "CIRC", 1),
        ("mdb002", "001", "001-L", "L", "MLO", "fatty-glandular", "benign", "CIRC", 1),
        ("mdb003", "002", "002-R", "R", "MLO", "dense-glandular", "normal", "NORM", 0),
        ("mdb004", "002", "002-L", "L", "MLO", "dense-glandular", "normal", "NORM", 0),
        ("mdb005", "003", "003-R", "R", "MLO", "fatty", "malignant", "CIRC", 2),
        ("mdb233", "117", "117-R", "R", "MLO", "fatty-glandular", "malignant", "CALC", 1),
        ("mdb234", "117", "117-L", "L", "MLO", "fatty-glandular", "normal", "NORM", 0),
    ]
    lesions = [json.loads(text) for text in made.table["lesions"]]
    assert lesions[0] == [{"class": "CIRC", "severity": "benign", "x": 535, "y": 1024 - 425, "radius": 197}]
    assert lesions[4][0]["severity"] == "malignant"
    assert lesions[5] == [{"class": "CALC", "severity": "malignant"}]
    assert "mdb005" in said(made, "several lesions")
    assert "1 lesion without a place" in said(made, "without a place")


def test_mias_with_a_table_of_blanks(tmp_path):
    """A table of a million blanks or line ends is read in linear time, and one that is too large is refused."""
    for text in ("\n" * 10**6, " " * 10**6, "mdb001 G CIRC B" + " " * 10**6 + "x"):
        assert "no labels" in said(hw.manifest("mias", mias(tmp_path, text)), "Info.txt")
    assert "cannot be read" in refusal("mias", mias(tmp_path, " " * (2 << 20)))


def test_mias_without_its_table(tmp_path):
    made = hw.manifest("mias", mias(tmp_path, ""))
    assert made.table["patient"].n_unique() == 4
    assert "no labels" in said(made, "Info.txt")


@needs_data
def test_mias_real_films(tmp_path):
    """All 322 films: pairs and sides as in the table that comes with them, and its findings written as published."""
    own = pl.read_csv(DATA / "mini_mias/manifest.csv")
    letter = {"fatty": "F", "fatty-glandular": "G", "dense-glandular": "D"}
    lines = []
    for row in own.iter_rows(named=True):
        severity = (row["severity"] or "")[:1].upper()
        place = "" if row["x"] is None else f"{row['x']} {row['y']} {row['radius']}"
        lines.append(" ".join([row["id"], letter[row["density"]], row["abnormality"], severity, place]).strip())
    (tmp_path / "Info.txt").write_text("\n".join(lines))
    (tmp_path / "images").symlink_to(DATA / "mini_mias/images")
    made = hw.manifest("mias", tmp_path)
    assert all(found == published for found, published in counts(made).values())
    both = made.table.join(own, on="id", suffix="_own")
    assert both.height == 322
    assert (both["laterality"] == both["side"].str.to_uppercase().str.slice(0, 1)).all()
    assert both.group_by("patient").agg(pl.col("patient_own").n_unique())["patient_own"].max() == 1
    assert (both["density"] == both["density_own"]).all()
    assert (both["label"] == both["severity_own"].fill_null("normal")).all()


# VinDr-Mammo

STUDIES = ["a" * 32, "b" * 32]


def vindr(root, images=True):
    breast, findings = [], []
    n = 0
    for number, study in enumerate(STUDIES):
        for side in "LR":
            for view in ("CC", "MLO"):
                n += 1
                image = f"{n:032x}"
                if images:
                    dummy(root / "images" / study / f"{image}.dicom")
                density = "D" if number == 1 and side == "R" else "C"
                split = "training" if number == 0 else "test"
                start = f"{study},{'c' * 32},{image},{side},{view},3518,2800,BI-RADS {1 + number},DENSITY {density}"
                breast.append(f"{start},{split}")
                if n == 2:
                    findings.append(f"""{start},"['Mass', ""Skin Thickening""]",BI-RADS 4,10.5,20,30,40,{split}""")
                    findings.append(f"""{start},['Mass'],BI-RADS 3,1,2,3,4,{split}""")
                else:
                    findings.append(f"{start},['No Finding'],,,,,,{split}")
    header = "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density"
    root.mkdir(exist_ok=True)
    (root / "breast-level_annotations.csv").write_text("\n".join([f"{header},split", *breast]) + "\n")
    more = "finding_categories,finding_birads,xmin,ymin,xmax,ymax,split"
    (root / "finding_annotations.csv").write_text("\n".join([f"{header},{more}", *findings]) + "\n")
    return root


def test_vindr_breasts_findings_and_split(tmp_path):
    """Labels are of the breast, categories a list in text, ``training`` is train; patients are not given."""
    made = hw.manifest("vindr-mammo", vindr(tmp_path / "v"))
    assert made.n_samples == 8
    assert rows_of(made, "exam", "breast", "laterality", "view", "birads", "density", "split")[6] == (
        STUDIES[1],
        f"{STUDIES[1]}-R",
        "R",
        "CC",
        2,
        "D",
        "test",
    )
    row = made.table.row(1, named=True)
    assert (row["finding_categories"], row["finding_birads"], row["n_boxes"]) == ("Mass; Skin Thickening", 4, 2)
    assert json.loads(row["finding_boxes"])[0] == {
        "categories": ["Mass", "Skin Thickening"],
        "birads": 4,
        "box": [10.5, 20.0, 30.0, 40.0],
    }
    assert made.table["finding_categories"][0] == "No Finding"
    assert row["image"].endswith(f"{2:032x}.dicom")
    assert "patient" not in made.table.columns
    assert made.about.groups == ("exam", "breast")
    assert "density" not in made.about.outcomes
    assert "birads" in made.about.outcomes
    assert "in 1 exam left and right differ" in said(made, "differ in density")
    assert counts(made)["Mass"] == (2, 1226)


def test_vindr_is_not_evaluated(tmp_path):
    """A category that is code is refused, not run."""
    root = vindr(tmp_path / "v")
    path = root / "finding_annotations.csv"
    mark = tmp_path / "ran"
    path.write_text(path.read_text().replace("['No Finding']", f"__import__('pathlib').Path('{mark}').touch()", 1))
    assert "are no list such as ['Mass']" in refusal("vindr-mammo", root)
    assert not mark.exists()


def test_a_part_of_the_images(tmp_path):
    """A partial download lists what is there, and counts the rest; without any image all rows are listed."""
    root = vindr(tmp_path / "v")
    shutil.rmtree(root / "images" / STUDIES[0])
    made = hw.manifest("vindr-mammo", root)
    assert made.n_samples == 4
    assert said(made, "their rows are left out").startswith("4 of 8 images are not there, such as images/aaaa")
    shutil.rmtree(root / "images")
    made = hw.manifest("vindr-mammo", root)
    assert made.n_samples == 8
    assert said(made, "none of the images is there")


def test_vindr_from_an_inner_folder(tmp_path):
    """The folder of images will do: the tables lie beside it."""
    assert hw.manifest("vindr-mammo", vindr(tmp_path / "v") / "images").n_samples == 8


# RSNA

RSNA = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case"
)


def rsna(root, images=True):
    rows = [
        "1,10006,462822612,L,CC,61.0,0,0,0,,0,C,29,False",
        "1,10006,1459541791,R,MLO,61.0,0,0,0,0.0,0,C,29,True",
        "2,10011,220375232,L,CC,89.0,1,1,1,,,,21,False",
        "2,10012,270344397,R,AT,,0,0,0,,,,21,False",
    ]
    root.mkdir(exist_ok=True)
    (root / "train.csv").write_text("\n".join([RSNA, *rows]) + "\n")
    if images:
        for row in rows:
            _, patient, image, *_ = row.split(",")
            dummy(root / "train_images" / patient / f"{image}.dcm")
    return root


def test_rsna_outcomes_and_sites(tmp_path):
    """What became known with the cancer is an outcome; the site without density and the capped age are named."""
    made = hw.manifest("rsna-mammo", rsna(tmp_path / "r"))
    assert made.about.outcomes == ("label", "biopsy", "invasive", "birads", "difficult_negative_case")
    assert rows_of(made, "patient", "breast", "laterality", "view", "label", "site", "density", "age")[0] == (
        "10006",
        "10006-L",
        "L",
        "CC",
        0,
        1,
        "C",
        61.0,
    )
    assert made.table["birads"].to_list() == [None, 0, None, None]
    assert made.table["difficult_negative_case"].to_list() == [False, True, False, False]
    assert "site 2 (2 images) has no density" in said(made, "has no density")
    assert "1 image at the cap" in said(made, "capped at 89")
    assert said(made, "each machine belongs to one site")
    assert counts(made)["patients with cancer"] == (1, 486)


def test_rsna_test_rows_have_no_label(tmp_path):
    root = rsna(tmp_path / "r")
    (root / "test.csv").write_text(
        "site_id,patient_id,image_id,laterality,view,age,implant,machine_id,prediction_id\n2,10008,736471439,L,MLO,81,0,21,10008_L\n"
    )
    dummy(root / "test_images/10008/736471439.dcm")
    made = hw.manifest("rsna-mammo", root)
    assert rows_of(made, "id", "label", "split")[-1] == ("736471439", None, "test")
    assert counts(made)["images"] == (4, 54_706)


def test_rsna_of_mle_bench(tmp_path):
    """Another train.csv, of 49,232 rows, is named for what it is."""
    n = 49_232
    table = pl.DataFrame({"site_id": [1] * n, "patient_id": np.arange(n) // 4, "image_id": np.arange(n) + 1000})
    rest = dict.fromkeys(RSNA.split(",")[6:], pl.lit(0))
    table.with_columns(laterality=pl.lit("L"), view=pl.lit("CC"), age=pl.lit(50), **rest).select(
        RSNA.split(",")
    ).write_csv(tmp_path / "train.csv")
    made = hw.manifest("rsna-mammo", tmp_path)
    assert "MLE-bench" in said(made, "49,232 rows")
    assert said(made, "none of the images is there")


def test_rsna_with_another_train_csv(tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    assert "there is no column 'site_id'" in refusal("rsna-mammo", tmp_path)


# CBIS-DDSM


def cbis(root, layout):
    """Two women: one with a mass and a calcification of the same view, on both sides of the split."""
    start = "left or right breast,image view,abnormality id,abnormality type"
    mass = f"patient_id,breast_density,{start},mass shape,mass margins"
    calc = f"patient_id,breast density,{start},calc type,calc distribution"
    rest = "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
    root.mkdir(parents=True, exist_ok=True)
    uid = iter(range(1, 999))

    def row(patient, density, side, view, number, kind, pathology, folder):
        full, mask = (f"1.3.6.1.4.1.9590.100.1.2.{next(uid)}" for _ in range(2))
        of_number = f"{folder}_{number}"
        if layout == "tcia":
            dummy(root / "CBIS-DDSM" / folder / "07-20-2016-DDSM-NA-1" / "1.000000-full mammogram images-1" / "1-1.dcm")
            one, two = ("1-1.dcm", "1-2.dcm") if number == 1 else ("1-2.dcm", "1-1.dcm")  # swapped in the second
            dummy(root / "CBIS-DDSM" / of_number / "07-20-2016-DDSM-NA-2" / "1.000000-ROI mask images-2" / one, 100)
            dummy(root / "CBIS-DDSM" / of_number / "07-20-2016-DDSM-NA-2" / "1.000000-ROI mask images-2" / two, 5000)
        if layout == "jpeg":
            picture(root / "jpeg" / full / "1-001.jpg", (20, 30))
            one, two = ("1-1.jpg", "2-2.jpg") if number == 1 else ("2-2.jpg", "1-1.jpg")
            picture(root / "jpeg" / mask / one, (5, 6))
            picture(root / "jpeg" / mask / two, (20, 30))
        start = f"{of_number}/1.2/{mask}"
        path = f'{folder}/1.2/{full}/000000.dcm,"{start}/000000.dcm\n","{start}/000001.dcm\n"'
        return f"{patient},{density},{side},{view},{number},{kind},A,B,4,{pathology},3,{path}"

    one = row("P_00001", 3, "LEFT", "CC", 1, "mass", "MALIGNANT", "Mass-Training_P_00001_LEFT_CC")
    two = row("P_00001", 3, "LEFT", "CC", 2, "mass", "BENIGN_WITHOUT_CALLBACK", "Mass-Training_P_00001_LEFT_CC")
    same = row("P_00001", 0, "LEFT", "CC", 1, "calcification", "BENIGN", "Calc-Test_P_00001_LEFT_CC")
    other = row("P_00002", 1, "RIGHT", "MLO", 1, "calcification", "BENIGN", "Calc-Test_P_00002_RIGHT_MLO")
    (root / "mass_case_description_train_set.csv").write_text("\n".join([f"{mass},{rest}", one, two]) + "\n")
    (root / "calc_case_description_test_set.csv").write_text("\n".join([f"{calc},{rest}", same, other]) + "\n")
    return root


@pytest.mark.parametrize("layout", ["tcia", "jpeg"])
def test_cbis_films(tmp_path, layout):
    """One row per film, the woman as patient, the film's label over both sets, and those on both sides marked."""
    made = hw.manifest("cbis-ddsm", cbis(tmp_path / "c", layout))
    columns = (
        "id",
        "patient",
        "breast",
        "laterality",
        "view",
        "label",
        "split",
        "density",
        "n_abnormalities",
        "in_both",
    )
    assert rows_of(made, *columns) == [
        ("Mass-Training_P_00001_LEFT_CC", "P_00001", "P_00001-L", "L", "CC", "malignant", "train", 3, 2, True),
        ("Calc-Test_P_00001_LEFT_CC", "P_00001", "P_00001-L", "L", "CC", "malignant", "test", None, 1, True),
        ("Calc-Test_P_00002_RIGHT_MLO", "P_00002", "P_00002-R", "R", "MLO", "benign", "test", 1, 1, False),
    ]
    assert made.table["pathology"][0] == "MALIGNANT; BENIGN_WITHOUT_CALLBACK"
    assert all(Path(path).is_file() for path in made.table["image"])
    end = "1-1.dcm" if layout == "tcia" else "1-001.jpg"
    assert all(path.endswith(end) for path in made.table["image"])
    assert "1 row with density 0" in said(made, "density 0")
    assert "PatientID" in said(made, "PatientID")
    assert said(made, "mass_case_description_test_set.csv is not there")
    assert "1 identical view" in said(made, "divided separately")
    assert said(made, "both a malignant and a benign finding")


@pytest.mark.parametrize("layout", ["tcia", "jpeg"])
def test_cbis_crops_are_told_from_masks(tmp_path, layout):
    """The smaller image is the crop, whatever the table calls it; its label is its own."""
    made = hw.manifest("cbis-ddsm", cbis(tmp_path / "c", layout), part="crop")
    assert rows_of(made, "id", "label")[:3] == [
        ("Mass-Training_P_00001_LEFT_CC_1", "malignant"),
        ("Mass-Training_P_00001_LEFT_CC_2", "benign"),
        ("Calc-Test_P_00001_LEFT_CC_1", "benign"),
    ]
    for image, mask in rows_of(made, "image", "mask"):
        root = tmp_path / "c"
        if layout == "tcia":
            assert (Path(image).stat().st_size, (root / mask).stat().st_size) == (100, 5000)
        else:
            assert [size_of(Path(path).read_bytes()) for path in (image, root / mask)] == [(5, 6), (20, 30)]


@needs_data
def test_cbis_real_tables():
    """The four real tables: every number that was counted on them."""
    made = hw.manifest("cbis-ddsm", DATA / "cbis_ddsm_tables")
    assert counts(made) == {
        "abnormalities": (3568, 3568),
        "films": (3103, 3103),
        "women": (1566, 1566),
        "distinct views": (3032, 3032),
        "women in both training and test": (31, 31),
        "views in both training and test": (29, 29),
        "views with masses and calcifications": (71, 71),
        "views with malignant and benign findings": (33, 33),
    }
    assert made.n_samples == 3103
    assert made.table.filter("in_both")["patient"].n_unique() == 31
    assert not made.table["image"].str.contains("\n").any()
    assert made.table["density"].min() == 1
    both = made.table.filter("in_both").group_by("patient").agg(pl.col("type", "split").n_unique())
    assert both.select("type", "split").unique().rows() == [(2, 2)]  # within one type there is no overlap
    crops = hw.manifest("cbis-ddsm", DATA / "cbis_ddsm_tables", part="crop")
    assert crops.n_samples == 3568
    assert crops.table["label"].value_counts().sort("label").rows() == [("benign", 2111), ("malignant", 1457)]


def test_cbis_without_tables(tmp_path):
    cbis(tmp_path / "c", "tcia")
    for path in (tmp_path / "c").glob("*.csv"):
        path.unlink()
    assert "Download the four tables" in refusal("cbis-ddsm", tmp_path / "c")


# Quilt-1M


def quilt(root):
    header = "Unnamed: 0,caption,image_path,subset,split,pathology,roi_text,noisy_text,corrected_text,med_umls_ids"
    header += ",magnification,height,width"
    rows = [
        "0,a nest of cells,7M7Ol5StU7U_image_1a2b3c4d-0000.jpg,quilt,train,['Breast'],,,,,1.0,480,640",
        '1,"the same, again",7M7Ol5StU7U_image_1a2b3c4d-0000.jpg,quilt,val,'
        '"[\'Breast\', ""Bone (Ewing\'s)""]",,,,,1.0,480,640',
        "2,another frame,7M7Ol5StU7U_image_1a2b3c4d-0001.jpg,quilt,train,,,,,,,480,640",
        "3,of a paper,PMC123_fig1.jpg,pubmed,train,Skin; Bone,,,,,,100,100",
    ]
    root.mkdir(exist_ok=True)
    (root / "quilt_1M_lookup.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in (
        "7M7Ol5StU7U_image_1a2b3c4d-0000",
        "7M7Ol5StU7U_image_1a2b3c4d-0001",
        "PMC123_fig1",
        "zz_image_1a2b3c4d-1",
    ):
        dummy(root / "images_part1" / f"{name}.jpg")
    return root


def test_quilt_pairs_and_videos(tmp_path):
    """An image with two captions is two rows of one video; one of no video is a group alone; strays are counted."""
    made = hw.manifest("quilt", quilt(tmp_path / "q"))
    assert rows_of(made, "id", "text", "video") == [
        ("1", "a nest of cells", "7M7Ol5StU7U"),
        ("2", "the same, again", "7M7Ol5StU7U"),
        ("3", "another frame", "7M7Ol5StU7U"),
        ("4", "of a paper", "PMC123_fig1.jpg"),
    ]
    assert made.table["image"][0].endswith("q/images_part1/7M7Ol5StU7U_image_1a2b3c4d-0000.jpg")
    assert made.table["pathology"].to_list() == ["Breast", "Breast; Bone (Ewing's)", None, "Skin; Bone"]
    assert "4 rows are pairs of 3 images" in said(made, "random split of rows")
    assert "zz_image" in said(made, "without a row")
    assert "1 image of no video" in said(made, "of no video")
    assert said(made, "several parts of the published split").startswith("1 video")


def test_quilt_without_its_table(tmp_path):
    (quilt(tmp_path / "q") / "quilt_1M_lookup.csv").unlink()
    assert "quilt_1M_lookup.csv is not there" in refusal("quilt", tmp_path / "q")


# A folder of images


def test_folder_with_columns_from_names(tmp_path):
    """Named groups of an expression become columns; a patient among them keeps rows together."""
    for name in ("P1_L", "P1_R", "P2_L"):
        dummy(tmp_path / f"{name}.png")
    made = hw.manifest("folder", tmp_path, columns_from=r"(?P<patient>[^_/]+)_(?P<side>[LR])")
    assert rows_of(made, "id", "patient", "side") == [("P1_L", "P1", "L"), ("P1_R", "P1", "R"), ("P2_L", "P2", "L")]
    assert made.about.groups == ("patient",)
    assert said(made, "no label")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("([^_]+)_", "no named group"),
        ("(?P<image>[^_]+)_", "a column 'image' already"),
        ("(?P<patient>[^_]+)_(?P<side>X)", "does not match 2 paths, such as 'a_L.png'"),
        ("(?P<patient>[^_]+", "cannot be used"),
        ("(?P<patient>(?=a).*)", "Look-ahead"),
    ],
)
def test_an_expression_that_cannot_be_used(tmp_path, pattern, words):
    for name in ("a_L", "b_R"):
        dummy(tmp_path / f"{name}.png")
    assert words in refusal("folder", tmp_path, columns_from=pattern)


def test_an_expression_that_would_backtrack_forever(tmp_path):
    """Expressions are matched in linear time."""
    dummy(tmp_path / f"{'a' * 60}.png")
    assert "does not match" in refusal("folder", tmp_path, columns_from=r"(?P<x>(a+)+)$")


@pytest.mark.parametrize(
    ("first", "second"),
    [("P01", "p01"), ("P1", "P01"), ("P1", "P1 "), ("P1", "\u04201"), ("P1", "\uff301"), ("é1", "e\u03011")],
)
def test_one_patient_in_two_spellings(tmp_path, first, second):
    """Names that differ in case, zeros, blanks, look-alike letters or Unicode form are named, not merged."""
    for name in (first, second, "Q7"):
        dummy(tmp_path / f"{name}_L.png")
    made = hw.manifest("folder", tmp_path, columns_from=r"(?P<patient>[^/]+)_L")
    assert ascii(first) in said(made, "differ only in case")
    assert made.table["patient"].n_unique() == 3


def test_patients_that_only_look_similar(tmp_path):
    for name in ("P1", "P10", "P100", "P2", "A1", "1-01", "10-1"):
        dummy(tmp_path / f"{name}_L.png")
    made = hw.manifest("folder", tmp_path, columns_from=r"(?P<patient>[^/]+)_L")
    assert not [line for line in made.warnings if "differ only" in line]


# Any set


def test_the_commands_kinds_are_the_registrys():
    from typing import get_args

    assert list(get_args(Kind)) == list(KINDS)


LAID = {"breakhis": lambda r: breakhis(r, *SLIDES), "bach": bach, "lc25000": lc25000, "glas": glas, "mias": mias}
LAID |= {"nct-crc": lambda r: nct(r, "NCT-CRC-HE-100K"), "vindr-mammo": vindr, "rsna-mammo": rsna, "quilt": quilt}
LAID |= {"cbis-ddsm": lambda r: cbis(r, "tcia")}


@pytest.mark.parametrize("there", LAID)
@pytest.mark.parametrize("asked", ["breakhis", "bach", "cbis-ddsm", "glas"])
def test_another_set_than_the_one_named(tmp_path, asked, there):
    """A folder that holds another set says which one, and the command for it."""
    root = tmp_path / "x"
    LAID[there](root)
    if asked == there:
        assert hw.manifest(asked, root).n_samples
        return
    message = refusal(asked, root)
    assert f"looks like {KINDS[there].title}, not {KINDS[asked].title}" in message
    assert f"headwater manifest {there} {root}" in message


@pytest.mark.parametrize("kind", [kind for kind in HERE if kind != "folder"])
def test_a_folder_of_something_else(tmp_path, kind):
    """What is none of the sets says what was looked for."""
    (tmp_path / "notes.txt").write_text("x")
    message = refusal(kind, tmp_path)
    assert KINDS[kind].looked_for in message
    assert "'notes.txt'" in message
    (tmp_path / "notes.txt").unlink()
    assert "empty" in refusal(kind, tmp_path)


@pytest.mark.parametrize("kind", HERE)
def test_no_folder_and_no_archive(tmp_path, kind):
    """A folder that is not there, a file, and an archive that is not unpacked."""
    assert "Did you mean 'here'" in refusal(kind, (tmp_path / "here").mkdir() or tmp_path / "her")
    archive = dummy(tmp_path / "here" / "set.zip")
    assert "Unpack it" in refusal(kind, archive)
    if kind != "folder":
        assert "unpack set.zip" in refusal(kind, tmp_path / "here")
    with pytest.raises(ManifestNotFound):
        read_known(kind, tmp_path / "gone")


@pytest.mark.parametrize("kind", LAID)
def test_loops_and_odd_names(tmp_path, kind):
    """A loop of links and names that are not text change nothing but a warning."""
    root = tmp_path / "x"
    LAID[kind](root)
    before = hw.manifest(kind, root)
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    dummy(root / "two\nlines.png")
    dummy(root / "gr\udcfcn.png")
    after = hw.manifest(kind, root)
    assert after.table.equals(before.table)
    assert r"two\nlines.png" in said(after, "2 files left out")


def test_a_folder_with_odd_names_is_refused(tmp_path):
    dummy(tmp_path / "gr\udcfcn.png")
    assert "not in UTF-8" in refusal("folder", tmp_path)


@pytest.mark.parametrize("kind", LAID)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_is_a_manifest(tmp_path, kind, suffix):
    """The file is read back by embed's own reader with every row, image and column, and knows its outcomes."""
    root = tmp_path / "x"
    LAID[kind](root)
    out = tmp_path / f"m{suffix}"
    made = hw.manifest(kind, root, out=out)
    manifest = read_manifest(out)
    assert manifest.n_samples == made.n_samples
    assert manifest.table.columns == made.table.columns
    assert manifest.ids == made.table["id"].to_list()
    assert (manifest.id, manifest.image) == ("id", "image")
    assert manifest.text == ("text" if kind == "quilt" else None)
    assert all(path.is_file() for path in manifest.image_paths())
    if "mask" in made.table.columns:
        assert all((tmp_path / path).is_file() for path in manifest.table["mask"])
    assert not made.table["image"].str.starts_with("/").any()
    assert manifest.about == made.about
    assert set(made.about.outcomes + made.about.groups) <= set(made.table.columns)
    assert manifest.about.kind == kind


def test_a_manifest_elsewhere_has_absolute_paths(tmp_path):
    root = tmp_path / "x"
    breakhis(root, *SLIDES[:1])
    (tmp_path / "y").mkdir()
    made = hw.manifest("breakhis", root, out=tmp_path / "y" / "m.csv")
    assert made.table["image"].str.starts_with(str(root)).all()
    assert all(path.is_file() for path in read_manifest(tmp_path / "y" / "m.csv").image_paths())


@pytest.mark.parametrize("name", ["=1+2", "@x", "-y", "+z"])
def test_a_name_that_is_a_formula(tmp_path, name):
    """A path that a spreadsheet would compute is written so that it is text, and is still found."""
    dummy(tmp_path / f"{name}.png")
    hw.manifest("folder", tmp_path, out=tmp_path / "m.csv")
    cells = [cell.strip('"') for line in (tmp_path / "m.csv").read_text().splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell[:1] in "=@+-"]
    assert read_manifest(tmp_path / "m.csv").image_paths()[0].is_file()


def test_options_that_a_set_does_not_take(tmp_path):
    assert "goes with bach and lc25000" in refusal("glas", tmp_path, groups_file=tmp_path)
    assert "goes with cbis-ddsm" in refusal("glas", tmp_path, part="crop")
    with pytest.raises(InputError, match="Did you mean 'breakhis'"):
        hw.manifest("breakhiss", tmp_path)
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        hw.manifest("glas", tmp_path, out=tmp_path / "m.json")


@pytest.mark.parametrize("kind", ["breakhis", "bach", "lc25000", "glas", "mias", "vindr-mammo", "rsna-mammo", "quilt"])
def test_an_archive_that_was_unpacked_twice(tmp_path, kind):
    """Of two files with one name the first is listed, and that is said."""
    LAID[kind](tmp_path / "a")
    before = hw.manifest(kind, tmp_path / "a")
    LAID[kind](tmp_path / "b")
    after = hw.manifest(kind, tmp_path)
    paths = [name for name in ("image", "mask") if name in before.table.columns]
    assert after.table.drop(paths).equals(before.table.drop(paths))
    assert after.n_samples == before.n_samples
    assert any("the first is listed" in line for line in after.warnings)


@pytest.mark.parametrize("change", ["the same row", "another label"])
def test_a_row_that_is_listed_twice(tmp_path, change):
    """A row that is repeated whole is read once; two rows of one image that differ are refused."""
    root = rsna(tmp_path / "r")
    path = root / "train.csv"
    lines = path.read_text().splitlines()
    again = lines[1] if change == "the same row" else lines[1].replace("61.0,0,", "61.0,1,")
    path.write_text("\n".join([*lines, again]) + "\n")
    if change == "the same row":
        assert hw.manifest("rsna-mammo", root).n_samples == 4
    else:
        assert "'462822612' is listed in several rows" in refusal("rsna-mammo", root)
        with pytest.raises(ManifestError):
            read_known("rsna-mammo", root, Asked())


def test_a_label_from_names_is_an_outcome(tmp_path):
    for name in ("a_1", "b_2"):
        dummy(tmp_path / f"{name}.png")
    assert hw.manifest("folder", tmp_path, columns_from="(?P<label>[ab])_").about.outcomes == ("label",)


def test_the_command(tmp_path, command):
    """The command prints counts, outcomes, what to keep together, and warnings; as JSON too."""
    glas(tmp_path / "x")
    done = command("manifest", "glas", tmp_path / "x", "-o", tmp_path / "m.csv")
    assert done.status == 0, done
    assert done.out.startswith("GlaS: 4 samples\n")
    assert "keep together: --groups patient" in done.out
    assert json.loads((tmp_path / "m.csv.about.json").read_text())["outcomes"] == ["label", "grade"]
    done = command("manifest", "glas", tmp_path / "x", "-o", tmp_path / "m.parquet", "--json")
    assert json.loads(done.out)["n_samples"] == 4
    done = command("manifest", "glass", tmp_path / "x", "-o", tmp_path / "m.csv")
    assert "KIND 'glass'" in done.error
    assert "Did you mean 'glas'?" in done.error
