"""Synthetic mammograms: what is drawn, what the metadata say, and that both carry part of the signal."""

import hashlib

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headwater as hw
from headwater.errors import InputError
from headwater.sources import load_bytes, read_image, read_manifest, synthetic_mammograms
from headwater.sources._breast import DENSE, Breast, Scanner, paint
from headwater.sources.synthetic_mammograms import (
    _IMAGE_SEPARATION,
    DENSITIES,
    VIEWS,
    _known,
    _patients,
    make_mammography,
)

SCANNER = Scanner(gamma=1.0, white=1.0, black=0.0, blur=0.5, noise=0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of 8 patients."""
    return read_manifest(make_mammography(tmp_path_factory.mktemp("made"), n_patients=8, height=128, width=104))


def breast(density="B", finding="none", suspicion=0.0, implant=False, seed=0):
    return Breast(density, implant, 0.5, finding, suspicion, 0.5, 0.2, (1, seed))


def drawn(view="CC", height=160, width=128, number=0, **of):
    return paint(np.random.default_rng([5, number]), breast(**of), view, height, width, SCANNER)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("form", ["png", "png16", "dicom"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, form):
    """Files are the same for the same arguments, and others for another seed."""
    if form == "dicom":
        pytest.importorskip("pydicom")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_mammography(tmp_path / name, n_patients=4, height=64, width=64, form=form, seed=seed)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert len(a) == 4 * 4 + 3
    assert a == b
    assert all(a[name] != c[name] for name in a if name.endswith((".png", ".dcm", ".csv")))


def test_columns_and_balance(made):
    """Four views an exam, one breast with cancer in half of the patients, and what must not be an input is named."""
    table = made.table
    assert made.about.outcomes == ("label", "finding")
    assert made.about.groups == ("patient", "breast")
    assert table.columns[:9] == [
        *("id", "image", "patient", "exam", "breast", "laterality", "view", "site", "device"),
    ]
    assert table.group_by("patient").len()["len"].to_list() == [4] * 8
    assert table.group_by("patient").agg(pl.col("label").sum()).sort("patient")["label"].to_list() == [0, 2] * 4
    assert set(table.select("laterality", "view").unique().rows()) == set(VIEWS)
    assert table.filter(pl.col("label") == 1)["finding"].is_in(["mass", "calcification"]).all()
    sites = table.unique("patient").group_by("site").len()
    assert sites["len"].to_list() == [4, 4]
    per = table.group_by("patient").agg(pl.col("age", "density", "implant", "site").n_unique())
    assert (per.drop("patient").to_numpy() == 1).all()


def test_images_show_the_side_they_are_of(made):
    """The chest wall, where the breast is, is on the left for a left breast, and on the right for a right one."""
    for row in made.table.iter_rows(named=True):
        pixels = np.asarray(Image.open(made.root / row["image"]), np.float64)
        assert pixels.shape == (128, 104)
        assert (pixels[:, :30].sum() > pixels[:, -30:].sum()) == (row["laterality"] == "L")


def test_the_muscle_is_in_one_view():
    """The upper corner at the chest wall is bright in MLO, where the pectoral muscle is, and air in CC."""
    cc, mlo = (np.mean([drawn(view, number=i, seed=i)[:10, :12].mean() for i in range(4)]) for view in ("CC", "MLO"))
    assert cc < 0.1
    assert mlo > 0.5


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_denser_breasts_have_more_dense_tissue(view):
    """The share of bright tissue, without muscle, rises with each density category, and is near what was asked."""
    shares = []
    for density, wanted in DENSE.items():
        found = []
        for i in range(5):
            pixels = drawn(view, density=density, number=i, seed=i)
            y, x = np.mgrid[0:160, 0:128]
            inside = (pixels > 0.12) & ((view == "CC") | (x > 70 - 0.6 * y))  # right of the muscle
            found.append((pixels[inside] > 0.45).mean())
        shares.append(np.mean(found))
        assert abs(shares[-1] - wanted) < 0.2
    assert np.all(np.diff(shares) > 0.05)


def test_findings_are_drawn_where_they_are():
    """A mass and calcifications change pixels near their place alone; suspicion makes both sharper."""
    plain = drawn()
    for finding in ("mass", "calcification"):
        steep = []
        for suspicion in (0.1, 0.9):
            change = np.abs(drawn(finding=finding, suspicion=suspicion) - plain)
            assert change.max() > 0.05
            rows, columns = np.nonzero(change > 0.02)
            assert np.ptp(rows) < 0.5 * 160
            assert np.ptp(columns) < 0.5 * 160
            steep.append(np.abs(np.diff(change, axis=1)).sum())
        assert steep[1] > 1.3 * steep[0]
    assert drawn(implant=True).mean() > 1.1 * plain.mean()


def test_noise_falls_with_frequency():
    """The tissue's texture has the steep spectrum of mammograms: most power at low frequencies, none of it white."""
    pixels = drawn(density="D", height=256, width=200)[96:160, 16:80]
    power = np.abs(np.fft.fft2(pixels - pixels.mean())) ** 2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    bands = [(f > low) & (f <= high) for low, high in ((0.03, 0.06), (0.06, 0.12), (0.12, 0.24))]
    means = [power[band].mean() for band in bands]
    slope = np.polyfit(np.log2([0.045, 0.09, 0.18]), np.log2(means), 1)[0]
    assert -4.5 < slope < -1.8


def test_scanners_show_the_same_breast_differently():
    """The machine of one site shows air and fat brighter than that of the other, and tissue with less contrast."""
    north, south = (
        paint(np.random.default_rng(0), breast("B"), "CC", 160, 128, site.scanner)
        for site in synthetic_mammograms._SITES
    )
    inside = north > 0.15
    assert south[~inside].mean() > north[~inside].mean() + 0.02
    (fat, dense), (fat_south, dense_south) = (np.quantile(image[inside], (0.3, 0.97)) for image in (north, south))
    assert fat_south > fat + 0.03
    assert dense_south - fat_south < 0.9 * (dense - fat)


def test_values_are_missing_by_site_and_not_by_label():
    """Over many patients, values are missing more often at one site, and as often with cancer as without."""
    patients = _patients(0, 3000)
    rows = [_known(np.random.default_rng([9, i]), p) for i, p in enumerate(patients)]
    gone = np.array([[value is None for value in row.values()] for row in rows]).any(1)
    south = np.array([p.site.name == "south" for p in patients])
    cancer = np.array([p.side is not None for p in patients])
    assert gone[south].mean() > 4 * gone[~south].mean()
    assert abs(gone[cancer].mean() - gone[~cancer].mean()) < 0.04
    assert abs(south[cancer].mean() - 0.5) < 0.01


def test_metadata_and_images_are_drawn_independently():
    """Given cancer, how suspicious a breast looks says nothing of age, family history and biopsy; each says part."""
    patients = [p for p in _patients(1, 4000) if p.side is not None]
    look = np.array([p.breasts[p.side].suspicion for p in patients])
    metadata = np.array([(p.age, p.family_history, p.previous_biopsy) for p in patients], float)
    assert np.abs([np.corrcoef(look, column)[0, 1] for column in metadata.T]).max() < 0.06
    every = [(b.suspicion, side == p.side) for p in _patients(1, 4000) for side, b in p.breasts.items()]
    score, label = np.array(every).T
    from statistics import NormalDist

    expected = NormalDist().cdf(_IMAGE_SEPARATION / np.sqrt(2))  # of two normals
    assert roc_auc_score(label, score) == pytest.approx(expected, abs=0.02)


def test_densities_are_those_of_a_screening_programme():
    """Categories have their shares among patients with and without cancer, so that density is no give-away."""
    for with_cancer in (False, True):
        found = [p.density for p in _patients(0, 200) if (p.side is not None) == with_cancer]
        shares = {name: found.count(name) / len(found) for name in DENSITIES}
        assert shares == pytest.approx(DENSITIES)


def auc_of(X, y, groups):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=2000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(model, X, y, groups=groups, cv=folds, method="decision_function")
    return roc_auc_score(y, scores), scores / scores.std()


@pytest.mark.slow
def test_image_and_text_each_say_a_part_and_together_more(tmp_path):
    """Over sets of several seeds, image, text and both have AUCs that differ and are far from 0.5 and from 1."""
    found = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        manifest = make_mammography(folder, seed=seed)
        made = hw.text(manifest, template=folder / "report.toml")
        y, patient = (made.table[name].to_numpy() for name in ("label", "patient"))
        texture = hw.encode([folder / name for name in made.table["image"]], encoder="builtin:texture")
        words = hw.encode(made.table["report"].to_list(), encoder="builtin:ngram")
        (image, a), (text, b) = auc_of(texture, y, patient), auc_of(words, y, patient)
        found.append((image, text, roc_auc_score(y, a + b)))
    image, text, both = np.mean(found, axis=0)
    assert 0.60 < image < 0.82
    assert 0.60 < text < 0.80
    assert max(image, text) + 0.03 < both < 0.92


def test_dicom_holds_the_same_picture(tmp_path):
    """A DICOM file has the pixels of the PNG in 12 bits, inverted where it says MONOCHROME1, and the exam's tags."""
    pydicom = pytest.importorskip("pydicom")
    for form in ("png16", "dicom"):
        make_mammography(tmp_path / form, n_patients=4, height=96, width=80, form=form)
    table = pl.read_csv(tmp_path / "dicom" / "manifest.csv")
    seen = set()
    for row in table.iter_rows(named=True):
        data = pydicom.dcmread(tmp_path / "dicom" / row["image"])
        png = np.asarray(Image.open(tmp_path / "png16" / row["image"].replace(".dcm", ".png"))) / 65535
        values = data.pixel_array / 4095
        seen.add((row["site"], data.PhotometricInterpretation))
        shown = 1 - values if data.PhotometricInterpretation == "MONOCHROME1" else values
        assert np.abs(shown - png).max() < 1 / 4095
        assert (data.PatientID, data.ImageLaterality, data.ViewPosition) == (
            row["patient"],
            row["laterality"],
            row["view"],
        )
        assert data.StudyInstanceUID.is_valid
        assert "PatientAge" in data if row["age"] is not None else "PatientAge" not in data
    assert seen == {("north", "MONOCHROME2"), ("south", "MONOCHROME1")}
    assert table["exam"].n_unique() == 4


def test_dicom_is_read_as_the_png_is(tmp_path):
    """Where headwater reads DICOM, both forms give the same picture, up to one level of 256."""
    pytest.importorskip("pydicom")
    pytest.importorskip("headwater.sources.dicom")
    for form in ("png16", "dicom"):
        make_mammography(tmp_path / form, n_patients=4, height=96, width=80, form=form)
    for image in pl.read_csv(tmp_path / "dicom" / "manifest.csv")["image"]:
        ours, png = (
            np.asarray(read_image(load_bytes(path)), np.int64)
            for path in (tmp_path / "dicom" / image, tmp_path / "png16" / image.replace(".dcm", ".png"))
        )
        assert np.abs(ours - png).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_patients": 3}, "n_patients must be at least 4"),
        ({"height": 10}, "height must be at least 64"),
        ({"width": 10}, "width"),
        ({"seed": -1}, "seed"),
        ({"form": "pgn"}, r"Did you mean 'png'\?"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, named):
    """Nothing is written then."""
    with pytest.raises(InputError, match=named):
        make_mammography(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
