"""Known data sets in folders that are not as published: other letters, two sets in one, a level too high, clashes."""

import pytest

import headwater as hw
from headwater.errors import HeadwaterError
from headwater.sources._listing import Files
from headwater.sources.known import seems_to_be

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
