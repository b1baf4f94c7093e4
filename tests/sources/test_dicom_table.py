"""A folder of DICOM files as a table: values that identify nobody, and what is left out."""

import json
import stat

import numpy as np
import polars as pl
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import InputError, ManifestError
from headwater.sources.dicom.table import _VIEW_MODIFIERS, _VIEWS, COLUMNS, read_dicom_folder, read_or_make_salt
from tests.dicoms import SLIDE, TOMOSYNTHESIS, as_bytes, dataset, dicom, item

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # by pydicom, of what is written on purpose
SALT = b"0123456789abcdef0123456789abcdef"
PIXELS = np.arange(600, dtype=np.uint16).reshape(20, 30)
SECRETS = ("Doe", "Jane", "12345", "19700102", "St Elsewhere", "Dr Who", "lump felt", "private words", "A77", "1.2.3.1")


def mammogram(**tags):
    """A mammogram with every value that the table takes, and with many that it must not take."""
    made = dataset(
        PIXELS, bits=12, ImageLaterality="L", ViewPosition="MLO", Manufacturer="HOLOGIC, Inc.",
        ManufacturerModelName="Selenia Dimensions", PatientAge="061Y", PatientSex="F", PixelSpacing=[0.07, 0.07],
        BodyPartThickness=52, CompressionForce=88, KVP=29, Exposure=120, PresentationIntentType="FOR PRESENTATION",
        BreastImplantPresent="NO", BurnedInAnnotation="NO", EstimatedRadiographicMagnificationFactor=1.07,
        PatientBirthDate="19700102", StudyDate="20200102", InstitutionName="St Elsewhere",
        ReferringPhysicianName="Dr Who", PatientComments="lump felt", AccessionNumber="A77",
    )  # fmt: skip
    made.private_block(0x0011, "ACME", create=True).add_new(0x01, "LO", "private words")
    view = item(CodeValue="R-10226", ViewModifierCodeSequence=[item(CodeValue="R-102D6"), item(CodeValue="R-102D7")])
    made.ViewCodeSequence = [view]
    for name, value in tags.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a mammogram and a function that writes more files."""
    (tmp_path / "deep" / "er").mkdir(parents=True)

    def write(name, data):
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else as_bytes(data))
        return tmp_path

    write("deep/er/IM0001", mammogram())
    return write


def only(folder, **options):
    """The single row of a folder's table."""
    found = read_dicom_folder(folder, salt=SALT, **options)
    assert found.table.height == 1
    return found.table.row(0, named=True)


def test_every_value_of_a_mammogram(folder, tmp_path):
    """Each column has its plain value; the breast is the patient and the side; identifiers are digests."""
    row = only(tmp_path)
    digests = {name: row.pop(name) for name in ("patient", "exam", "series", "breast")}
    assert row == {
        "image": "deep/er/IM0001", "laterality": "L", "view": "MLO", "view_position": "MLO",
        "view_modifier": "magnification, spot compression", "modality": "MG", "manufacturer": "HOLOGIC, Inc.",
        "model": "Selenia Dimensions", "age": 61.0, "sex": "F", "presentation_intent": "FOR PRESENTATION",
        "photometric": "MONOCHROME2", "bits_stored": 12, "rows": 20, "columns": 30, "pixel_spacing": 0.07,
        "estimated_magnification": 1.07, "body_part_thickness": 52.0, "compression_force": 88.0, "kvp": 29.0,
        "exposure": 120.0, "implant": "NO", "burned_in_annotation": "NO", "transfer_syntax": "1.2.840.10008.1.2.1",
        "kind": "Digital Mammography X-Ray Image Storage - For Presentation",
    }  # fmt: skip
    assert digests["breast"] == f"{digests['patient']}_L"
    assert len(set(digests.values())) == 4
    assert all(len(digests[name]) == 20 for name in ("patient", "exam", "series"))


def test_nothing_else_leaves_a_header(folder, tmp_path):
    """No name, number, date, institution, free text or private value is anywhere in the table or in what is said."""
    folder(
        "text.dcm", mammogram(Manufacturer="=cmd|'calc'!A1", ManufacturerModelName="Doe\nJane", ViewPosition="=A1+A2")
    )
    folder(
        "words.dcm", mammogram(PatientSex="Jane", BurnedInAnnotation="Doe", PatientAge="Doe", ImageLaterality="Jane")
    )
    found = read_dicom_folder(tmp_path, salt=SALT)
    text = json.dumps(found.table.to_dicts()) + "\n".join(found.lines())
    assert not [secret for secret in SECRETS if secret in text]
    assert "=" not in found.table.write_csv()
    assert list(found.table.columns) == list(COLUMNS)


def test_digests_need_the_salt(folder, tmp_path):
    """The same salt gives the same digests, another gives others, and patients stay apart and together."""
    folder("same.dcm", mammogram(StudyInstanceUID="1.2.9"))
    folder("other.dcm", mammogram(PatientID="54321"))
    one, again = (read_dicom_folder(tmp_path, salt=SALT).table for _ in range(2))
    assert one.equals(again)
    patients = dict(one.select("image", "patient").iter_rows())
    assert patients["same.dcm"] == patients["deep/er/IM0001"] != patients["other.dcm"]
    assert one["exam"].n_unique() == 2
    other = read_dicom_folder(tmp_path, salt=SALT[::-1]).table
    assert not set(one["patient"]) & set(other["patient"])
    with pytest.raises(InputError, match="16 bytes"):
        read_dicom_folder(tmp_path, salt=b"short")


def test_a_salt_is_made_once_and_for_its_owner_alone(tmp_path):
    """The file is made with mode 0600, read again as it is, and refused where others may read it."""
    place = tmp_path / "salt"
    salt = read_or_make_salt(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert len(salt) == 64
    assert read_or_make_salt(place) == salt
    assert read_or_make_salt(tmp_path / "other") != salt
    place.chmod(0o644)
    with pytest.raises(InputError, match=r"chmod 600"):
        read_or_make_salt(place)
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    for bad in ("short", ".", "short/salt"):
        with pytest.raises(InputError):
            read_or_make_salt(tmp_path / bad)


def test_what_is_left_out_is_named(folder, tmp_path):
    """Files that are no images are named with the reason; files that are no DICOM are counted; the rest goes on."""
    whole = as_bytes(mammogram())
    cases = {
        "report.dcm": (dicom(), "DICOM without pixels (Digital Mammography X-Ray Image Storage - For Presentation)"),
        "cut.dcm": (whole[:-200], "truncated DICOM file: 1,000 of 1,200 bytes of pixels"),
        "secret.dcm": (
            b"\x30\x82\x10\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" + b"\xa0" * 99,
            "encrypted or signed (CMS)",
        ),
        "video": (dicom(PIXELS, syntax="1.2.840.10008.1.2.4.102"), "the transfer syntax 1.2.840.10008.1.2.4.102"),
        "tomo.dcm": (dicom(PIXELS, kind=TOMOSYNTHESIS, NumberOfFrames=60), "a tomosynthesis of 60 frames"),
        "slide.dcm": (dicom(PIXELS, kind=SLIDE), "this is a whole slide in DICOM"),
        "renamed.dcm": (b"hello", "damaged: no DICOM header"),
        "deflated": (dicom(PIXELS, syntax="deflated"), None),
        "big.dicom": (dicom(PIXELS, syntax="big endian"), None),
        "implicit": (dicom(PIXELS, syntax="implicit"), None),
        "packed": (dicom(PIXELS, syntax="JPEG 2000", bits=12), None),
    }
    for name, (data, _) in cases.items():
        folder(name, data)
    folder("notes.txt", b"nothing")
    folder(".hidden", whole)
    found = read_dicom_folder(tmp_path, salt=SALT)
    assert found.n_other == 1
    assert {name: why for name, (_, why) in cases.items() if why}.keys() == found.skipped.keys()
    for name, (_, why) in cases.items():
        assert why is None or found.skipped[name].startswith(why)
    assert set(found.table["image"]) == {"deep/er/IM0001", "deflated", "big.dicom", "implicit", "packed"}
    assert any("'cut.dcm'" in line or "other reasons" in line for line in found.lines())


def test_warnings_of_text_in_the_image(folder, tmp_path):
    """Burned-in text is said; silence is said of modalities that often have it, and a missing patient is said."""
    folder("a.dcm", mammogram(BurnedInAnnotation="YES"))
    quiet = mammogram(Modality="US", PatientID="")
    del quiet.BurnedInAnnotation
    folder("b.dcm", quiet)
    captured = mammogram()  # of modality MG
    captured.SOPClassUID = captured.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    del captured.BurnedInAnnotation
    folder("c.dcm", captured)
    found = read_dicom_folder(tmp_path, salt=SALT)
    words = found.warnings
    assert len(words) == 3
    assert "1 image may show who the patient is" in words[0]
    assert "2 images without Burned In Annotation (US, secondary captures)" in words[1]
    kept = pl.SQLContext(t=found.table).execute(f"SELECT image FROM t WHERE {words[0].split(chr(34))[1]}", eager=True)
    assert set(kept["image"]) == set(found.table["image"]) - {"a.dcm"}  # those that do not say stay
    assert "without a PatientID" in words[2]


@pytest.mark.parametrize(
    ("age", "years"), [("061Y", 61.0), ("006M", 0.5), ("026W", 0.5), ("003D", 0.01), ("095Y", 90.0), ("61", None)]
)
def test_ages_are_in_years(folder, tmp_path, age, years):
    """Days, weeks and months become years, and ages that may identify a person are 90."""
    made = mammogram()
    data = as_bytes(made).replace(b"061Y", age.encode().ljust(4))
    folder("deep/er/IM0001", data)
    assert only(tmp_path)["age"] == years


def test_sides_and_views(folder, tmp_path):
    """The side comes from either tag, the view from its code, else from its position."""
    made = mammogram(Laterality="R", ViewPosition="cranio-caudal")
    del made.ImageLaterality, made.ViewCodeSequence
    folder("deep/er/IM0001", made)
    row = only(tmp_path)
    assert (row["laterality"], row["view"], row["breast"][-2:]) == ("R", "CC", "_R")
    folder("deep/er/IM0001", mammogram(Modality="DX", ImageLaterality="B", ViewPosition="PA", ViewCodeSequence=[]))
    row = only(tmp_path)
    assert (row["laterality"], row["view"], row["breast"]) == ("B", "PA", None)


def test_codes_are_those_of_the_standard():
    """Every view and modifier of the standard's lists is known, in both versions of SNOMED, and no other."""
    from pydicom.sr._cid_dict import cid_concepts
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    for cid, known in ((4014, _VIEWS), (4015, _VIEW_MODIFIERS)):
        codes = [code for name in cid_concepts[cid]["SCT"] for code in concepts["SCT"][name]]
        assert {*codes, *(mapping["SCT"][code] for code in codes)} == set(known)
        for code in codes:
            assert known[code] == known[mapping["SCT"][code]]
    for name, meaning in _VIEW_MODIFIERS.items():
        if name.isdigit():
            assert meaning in {of[name][0].lower() for of in concepts["SCT"].values() if name in of}


def test_a_folder_without_images(tmp_path):
    """Nothing there, nothing DICOM, no image, and no folder are each one line."""
    with pytest.raises(ManifestError, match="folder not found"):
        read_dicom_folder(tmp_path / "x", salt=SALT)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ManifestError, match=r"no DICOM image.*1 file not DICOM"):
        read_dicom_folder(tmp_path, salt=SALT)
    (tmp_path / "a.dcm").write_bytes(dicom())
    with pytest.raises(ManifestError, match="DICOM without pixels"):
        read_dicom_folder(tmp_path, salt=SALT)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_headers_end_nothing(tmp_path_factory, seed):
    """A header with some bytes changed is a row, is left out with a reason, or is no DICOM; the rest goes on."""
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("damaged")
    whole = as_bytes(mammogram())
    data = bytearray(whole)
    for at in random.integers(132, len(data), random.integers(1, 8)):
        data[at] = random.integers(0, 256)
    (folder / "a.dcm").write_bytes(whole)
    (folder / "b.dcm").write_bytes(data)
    found = read_dicom_folder(folder, salt=SALT, workers=2)
    assert found.table.height + len(found.skipped) == 2
    assert found.table.schema == pl.Schema(COLUMNS)


def test_lengths_that_are_lies(folder, tmp_path):
    """A value that claims gigabytes is refused, and so are sequences without end; no memory is taken for either."""
    whole = as_bytes(mammogram())
    at = whole.index(b"\x10\x00\x20\x00LO")
    lie = whole[:at] + b"\x10\x00\x20\x00UT\0\0\xf0\xff\xff\x7f" + whole[at + 8 :]
    folder("lie.dcm", lie)
    endless = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    folder("endless.dcm", whole[:at] + endless + whole[at:])
    found = read_dicom_folder(tmp_path, salt=SALT)
    assert found.table.height == 1
    assert "longer than a header" in found.skipped["lie.dcm"]
    assert found.skipped["endless.dcm"].startswith(("damaged DICOM header", "DICOM without pixels"))


def test_all_that_ships_in_pydicom():
    """Every file of its test data is a row, left out with a reason, or no DICOM, and images that read are rows."""
    from pathlib import Path

    root = Path(pydicom.__file__).parent / "data"
    found = read_dicom_folder(root, salt=SALT)
    n_files = sum(1 for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    assert found.table.height + len(found.skipped) + found.n_other == n_files
    assert {"test_files/CT_small.dcm", "test_files/SC_rgb_jpeg.dcm", "test_files/image_dfl.dcm"} <= set(
        found.table["image"]
    )


@pytest.mark.parametrize("other", ["p01", "P1", " P 01", "Р01"])
def test_one_patient_in_two_spellings(folder, other):
    """Digests of two spellings have nothing in common, so the reader says which of them are very likely one."""
    folder("a", mammogram(PatientID="P01"))
    root = folder("b", mammogram(PatientID=other, SpecificCharacterSet="ISO_IR 192"))
    found = read_dicom_folder(root, salt=SALT)
    digests = found.table.filter(pl.col("image").is_in(["a", "b"]))["patient"].to_list()
    (line,) = (line for line in found.warnings if "spelling" in line)
    assert digests[0] != digests[1]
    assert all(digest in line for digest in digests)
    assert not any(secret in line for secret in ("P01", other))


def test_patients_that_are_two(folder):
    """Other PatientIDs are not called alike."""
    folder("a", mammogram(PatientID="P01"))
    assert not any(
        "spelling" in line for line in read_dicom_folder(folder("b", mammogram(PatientID="P10")), salt=SALT).warnings
    )


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("Doe_Jane", True),
        ("x-DOE.", True),
        ("12345", True),
        ("MG 12345 L", True),
        ("doeberl", False),
        ("912345", False),
    ],
)
def test_names_in_paths(tmp_path, path, named):
    """Paths stand in the table as they are: those that hold the PatientID or a name of the patient are counted."""
    root = tmp_path / "scans"
    root.mkdir()
    (root / path).write_bytes(as_bytes(mammogram()))
    lines = [line for line in read_dicom_folder(root, salt=SALT).warnings if line.startswith("the paths of ")]
    assert [line.partition(" hold ")[0] for line in lines] == (["the paths of 1 image"] if named else [])
    assert not any(secret in line for line in lines for secret in SECRETS)


def test_a_parser_quotes_no_value(folder, monkeypatch):
    """What pydicom says of a damaged header may hold one of its values, and is left out of the reasons."""

    def broken(*args, **options):
        raise ValueError("could not convert 'Doe^Jane'")

    root = folder("broken", mammogram())
    monkeypatch.setattr(pydicom, "dcmread", broken)
    with pytest.raises(ManifestError) as caught:
        read_dicom_folder(root, salt=SALT)
    assert "damaged DICOM header" in str(caught.value)
    assert "Doe" not in str(caught.value)
