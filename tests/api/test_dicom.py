"""DICOM through the verbs: embedded beside other images, read again as it was, shown only where it may be."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import headwater as hw
from headwater._progress import silent
from headwater.errors import EncoderError, ImageError, InputError, SpecMismatch
from headwater.samples.cases import Cases
from headwater.samples.pictures import picture_of_file, picture_of_sample
from headwater.sources import read_image
from headwater.store import open_store
from tests.dicoms import TOMOSYNTHESIS, dicom

WINDOW = {"bits": 12, "WindowCenter": 1000, "WindowWidth": 1500}


def picture(seed, side=48):
    """A picture of 12 bits: blobs of a size that depends on the seed."""
    y, x = np.mgrid[:side, :side]
    random = np.random.default_rng(seed)
    waves = np.sin(x / (2 + seed % 5)) * np.cos(y / (3 + seed % 3))
    return (1000 + 600 * waves + random.normal(0, 40, x.shape)).clip(0, 4095).astype(np.uint16)


@pytest.fixture
def mixed(tmp_path):
    """Return a folder with a class of DICOM and one of PNG, which show the same pictures."""
    folder = tmp_path / "mixed"
    for name in ("dicom", "png"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        suffix, syntax = ((".dcm", "explicit"), (".DICOM", "JPEG 2000"), (".dcm", "JPEG-LS"))[i % 3]
        (folder / "dicom" / f"{i}{suffix}").write_bytes(dicom(picture(i), syntax=syntax, **WINDOW))
        read_image(dicom(picture(i), **WINDOW)).save(folder / "png" / f"{i}.png")
    return folder


def test_dicom_beside_png(mixed, tmp_path):
    """A folder of both is embedded, and a DICOM file has the very vector of the PNG that shows what it shows."""
    store = hw.embed(mixed, tmp_path / "s.hw", encoder="builtin:texture")
    assert (store.n_samples, store.n_failed) == (12, 0)
    data = store.read("texture/image")
    vectors = dict(zip(data.ids, data.X, strict=True))
    for i in range(6):
        np.testing.assert_array_equal(vectors[f"dicom/{i}"], vectors[f"png/{i}"])
    assert "steps" not in store.features("texture/image").spec.preprocessing


def test_options_of_the_command(mixed, tmp_path, command):
    """``--window`` and ``--decode`` are steps, which stand before the others."""
    words = ("embed", mixed, tmp_path / "s.hw", "--encoder", "builtin:texture")
    done = command(*words, "--step", "resize=32x32", "--decode", "half", "--window", "1000,1500")
    assert done.status == 0, done.err
    steps = open_store(tmp_path / "s.hw").features("texture/image").spec.preprocessing["steps"]
    assert list(steps) == ["window=1000,1500", "decode=half", "resize=32x32"]
    assert "--step window=wide: write it as" in command(*words, "--window", "wide").err


def test_the_window_is_part_of_the_spec(mixed, tmp_path):
    """Another window gives other vectors, in other features: they never mix, and its default changes no spec."""
    place = tmp_path / "s.hw"
    hw.embed(mixed, place, encoder="builtin:texture")
    again = hw.embed(mixed, place, encoder="builtin:texture", steps=["window=voi", "decode=full"])
    assert again.results["texture/image"].embedded == 0
    with pytest.raises(SpecMismatch, match="steps"):
        hw.embed(mixed, place, encoder="builtin:texture", steps=["window=minmax"])
    other = hw.embed(mixed, place, encoder="builtin:texture", name="wide", steps=["window=minmax"])
    assert other.features("wide/image").spec.preprocessing["steps"] == ["window=minmax"]
    one, two = (dict(zip(d.ids, d.X, strict=True)) for d in map(other.read, ("texture/image", "wide/image")))
    assert not np.allclose(one["dicom/0"], two["dicom/0"])
    np.testing.assert_array_equal(one["png/0"], two["png/0"])
    found = hw.similar(place, image=mixed / "dicom" / "3.dcm", features="wide/image", k=1)
    assert found[0].id == "dicom/3"


def test_half_the_resolution_is_part_of_the_spec(mixed, tmp_path):
    """``auto`` is stored as the size that the encoder resizes to, so the features say how they were made."""
    big = tmp_path / "big" / "x"
    big.mkdir(parents=True)
    (big / "a.dcm").write_bytes(dicom(picture(1, 600), syntax="JPEG 2000", **WINDOW))
    (big / "b.dcm").write_bytes(dicom(picture(2, 400), syntax="JPEG 2000", **WINDOW))
    store = hw.embed(big.parent, tmp_path / "s.hw", encoder="builtin:texture", steps=["decode=auto"])
    assert store.features("texture/image").spec.preprocessing["steps"] == ["decode=256x256"]
    hw.embed(big.parent, tmp_path / "s.hw", encoder="builtin:texture", name="full")
    auto, full = (store.read(name).X for name in ("texture/image", "full/image"))
    assert not np.array_equal(auto[0], full[0])  # 600 pixels are halved to 300
    np.testing.assert_array_equal(auto[1], full[1])  # 400 cannot be halved
    added = hw.embed(big.parent, tmp_path / "s.hw", encoder="builtin:texture", steps=["decode=auto"])
    assert added.results["texture/image"].embedded == 0
    with pytest.raises((InputError, EncoderError), match="decode=auto"):
        hw.embed(big.parent, tmp_path / "t.hw", encoder="builtin:texture", steps=["decode=auto", "breast"])


def test_bad_files_are_counted_and_the_rest_goes_on(mixed, tmp_path):
    """Each says why, by its sample; the others are embedded."""
    (mixed / "dicom" / "tomo.dcm").write_bytes(
        dicom(picture(1).astype(np.uint16), kind=TOMOSYNTHESIS, NumberOfFrames=9)
    )
    (mixed / "dicom" / "report.dcm").write_bytes(dicom())
    (mixed / "dicom" / "cut.dcm").write_bytes(dicom(picture(1))[:-99])
    store = hw.embed(mixed, tmp_path / "s.hw", encoder="builtin:texture")
    failed = store.failed["texture/image"]
    assert {id: why.split(" (")[0].split(":")[0] for id, why in failed.items()} == {
        "dicom/tomo": "a tomosynthesis of 9 frames",
        "dicom/report": "DICOM without pixels",
        "dicom/cut": "truncated DICOM file",
    }
    assert store.n_samples - store.n_failed == 12


def test_files_without_a_suffix_in_a_table(mixed, tmp_path):
    """A manifest may name DICOM by any name, and ``predict`` reads it as it was read for the run."""
    (mixed / "IM0001").write_bytes((mixed / "dicom" / "0.dcm").read_bytes())
    rows = [("a", "IM0001"), *((f"d{i}", f"png/{i}.png") for i in range(6))]
    pl.DataFrame(rows, schema=["id", "image"], orient="row").write_csv(mixed / "m.csv")
    store = hw.embed(mixed / "m.csv", tmp_path / "s.hw", encoder="builtin:texture", steps=["window=minmax"])
    assert store.n_failed == 0
    hw.embed(mixed, tmp_path / "t.hw", encoder="builtin:texture", steps=["window=minmax"])
    hw.fit_head(
        tmp_path / "t.hw", features="texture/image", label="label", groups="none", folds=2, out=tmp_path / "run"
    )
    alone = hw.predict(tmp_path / "run", mixed / "IM0001")  # not taken for a manifest
    assert alone.table["id"].to_list() == ["IM0001"]
    found = hw.predict(tmp_path / "run", image=[mixed / "IM0001", mixed / "png" / "1.png"])
    assert found.table.height == 2
    assert found.table["predicted"].null_count() == 0


def test_a_manifest_from_headers(mixed, tmp_path, monkeypatch):
    """Headers become a manifest that keeps patients whole, by a salt that is the user's own or a named file."""
    made = hw.manifest("dicom", mixed, out=tmp_path / "m.parquet", salt=tmp_path / "keys" / "salt")
    assert (tmp_path / "keys" / "salt").stat().st_mode & 0o777 == 0o600
    assert made.n_samples == 6
    assert list(made.about.groups) == ["patient", "exam"]
    assert {one.what: one.found for one in made.counts} == {
        "images": 6,
        "patients": 1,
        "exams": 1,
        "files that are not DICOM": 6,
    }
    store = hw.embed(tmp_path / "m.parquet", tmp_path / "s.hw", encoder="builtin:texture")
    assert (store.n_samples, store.n_failed) == (6, 0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = [hw.manifest("dicom", mixed).table["patient"][0] for _ in range(2)]
    assert (tmp_path / "config" / "headwater" / "salt").exists()
    assert own[0] == own[1] != made.table["patient"][0]
    assert "12345" not in json.dumps(made.to_dict()) + made.table.write_csv()
    (mixed / "dicom" / "report.dcm").write_bytes(dicom())
    assert "1 file left out, such as 'dicom/report.dcm': DICOM without pixels" in " ".join(
        hw.manifest("dicom", mixed).warnings
    )
    with pytest.raises(InputError, match=r"--salt goes with dicom"):
        hw.manifest("folder", mixed, salt=tmp_path / "salt")


@pytest.mark.parametrize("said", ["YES", "NO", None])
def test_burned_in_text_is_not_shown(tmp_path, said):
    """The page, and pictures in reports, leave out what says that it shows text, unless the page is told to show it."""
    from headwater.serve.options import ServeOptions
    from headwater.serve.service import Service

    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    tags = {} if said is None else {"BurnedInAnnotation": said}
    for i in range(3):
        (folder / f"{i}.dcm").write_bytes(dicom(picture(i), **WINDOW, **tags))
    hw.embed(tmp_path / "images", tmp_path / "s.hw", encoder="builtin:texture", steps=["window=minmax"])
    store = open_store(tmp_path / "s.hw")
    refused = said == "YES"
    for told in (False, True):
        service = Service(store, ServeOptions(log=tmp_path / "log", show_burned_in=told), silent)
        try:
            if refused and not told:
                with pytest.raises(ImageError, match="--show-burned-in"):
                    service.picture(service.gallery.references[0], 32)
            else:
                jpeg = read_image(service.picture(service.gallery.references[0], 32))
                wanted = read_image(folder / "0.dcm", reading=service.gallery.reading("texture/image"))
                wanted.thumbnail((32, 32), Image.Resampling.LANCZOS)
                assert np.abs(np.asarray(jpeg).astype(int) - np.asarray(wanted)).mean() < 8
        finally:
            service.close()
    cases = Cases(store, "texture/image")
    assert (picture_of_sample(cases, 0) is None) == refused
    assert (picture_of_file(folder / "0.dcm") is None) == refused
