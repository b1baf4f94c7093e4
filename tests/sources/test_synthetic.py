from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from skimage.color import rgb2hed
from skimage.feature import local_binary_pattern
from skimage.filters import sobel
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headwater.errors import InputError
from headwater.sources import Manifest, make_histology, read_image, read_manifest
from headwater.sources.synthetic import _patients

BENIGN = {"adenosis", "fibroadenoma", "phyllodes tumor", "tubular adenoma"}
MALIGNANT = {"ductal carcinoma", "lobular carcinoma", "mucinous carcinoma", "papillary carcinoma"}

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def histology(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(make_histology(tmp_path_factory.mktemp("histology")))


@pytest.fixture(scope="module")
def images(histology: Manifest) -> Array:
    return np.stack([np.asarray(read_image(path)) for path in histology.image_paths() if path is not None])


def test_the_manifest_is_read_without_flags(histology: Manifest) -> None:
    assert (histology.id, histology.image, histology.text) == ("id", "image", "caption")
    assert histology.n_samples == 24 * 12
    assert ",".join(histology.table.columns) == (
        "id,image,patient,laboratory,magnification,age,subtype,label,malignant,caption"
    )
    assert histology.table.null_count().sum_horizontal().item() == 0


def test_every_image_is_rgb_of_the_size_asked_for(histology: Manifest, images: Array) -> None:
    assert images.shape == (288, 128, 128, 3)
    assert len(set(histology.image_paths())) == 288


def test_every_patient_has_one_label_subtype_laboratory_and_age(histology: Manifest) -> None:
    facts = histology.table.group_by("patient").agg(
        pl.col("label", "subtype", "laboratory", "age", "malignant").n_unique(), pl.col("magnification").value_counts()
    )
    assert facts.height == 24
    assert (facts.select("label", "subtype", "laboratory", "age", "malignant").to_numpy() == 1).all()
    counts = histology.table.group_by("patient", "magnification").len()
    assert counts.height == 24 * 4
    assert counts["len"].unique().to_list() == [3]


def test_labels_are_balanced_within_each_laboratory_and_agree_with_the_subtype(histology: Manifest) -> None:
    per_laboratory = histology.table.group_by("laboratory").agg(pl.col("malignant").mean())
    assert per_laboratory.height == 3
    assert per_laboratory["malignant"].to_list() == [0.5] * 3
    for label, subtypes, malignant in (("benign", BENIGN, 0), ("malignant", MALIGNANT, 1)):
        rows = histology.table.filter(label=label)
        assert set(rows["subtype"]) == subtypes
        assert set(rows["malignant"]) == {malignant}


def test_captions_name_neither_label_nor_subtype(histology: Manifest) -> None:
    told = {word for name in BENIGN | MALIGNANT for word in name.split()} | {"benign", "malignant", "cancer", "tumour"}
    captions = " ".join(text or "" for text in histology.texts()).lower()
    assert not [word for word in told if word in captions]


def test_the_same_seed_gives_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    def make(name: str, seed: int) -> dict[str, bytes]:
        folder = make_histology(tmp_path / name, n_patients=3, images_per_patient=2, size=48, seed=seed).parent
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first, again, other = make("a", 5), make("b", 5), make("c", 6)
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_images_differ_from_each_other(images: Array) -> None:
    assert len({image.tobytes() for image in images}) == len(images)


def test_images_are_shared_out_over_the_magnifications_and_patients_over_the_labels(tmp_path: Path) -> None:
    path = make_histology(
        tmp_path, n_patients=5, images_per_patient=3, magnifications=(100, 400), laboratories=2, size=40
    )
    table = read_manifest(path).table
    assert (
        table.group_by("patient").agg("magnification").sort("patient")["magnification"].to_list()
        == [[100, 400, 100]] * 5
    )
    assert table.unique("patient")["malignant"].sum() == 2
    assert set(table["laboratory"]) == {"lab1", "lab2"}
    assert np.asarray(read_image(tmp_path / table["image"][0])).shape == (40, 40, 3)


def test_nuclei_are_blue_and_tissue_is_pink(images: Array) -> None:
    brightness = images.mean(axis=3)
    darkest = np.stack(
        [image[light <= np.percentile(light, 10)].mean(axis=0) for image, light in zip(images, brightness)]
    )
    red, green, blue = darkest.T
    assert ((blue > red) & (red > green)).mean() > 0.7  # a field may hold next to no nuclei
    red, green, blue = images[(brightness > 110) & (brightness < 190)].mean(axis=0)
    assert red > blue > green


def test_the_same_structures_are_larger_at_a_higher_magnification(histology: Manifest, images: Array) -> None:
    detail = np.array([np.abs(np.diff(image.mean(axis=2), axis=1)).mean() for image in images])
    by_magnification = histology.table.select("magnification", detail=detail).group_by("magnification").mean()
    values = by_magnification.sort("magnification")["detail"].to_list()
    assert values == sorted(values, reverse=True)
    assert values[0] > 1.5 * values[-1]


def predict(X: Array, y: Array, groups: Array, C: float, folds: int = 4) -> Array:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    scores: Array = cross_val_predict(model, X, y, groups=groups, cv=splitter, method="decision_function")
    return scores


def test_laboratories_stain_differently(histology: Manifest, images: Array) -> None:
    X = np.hstack([images.mean(axis=(1, 2)), np.percentile(images, 20, axis=(1, 2))])
    laboratory, patient = histology.require("laboratory").to_numpy(), histology.require("patient").to_numpy()
    told = predict(X, laboratory, patient, C=10.0).argmax(axis=1)
    assert (np.unique(laboratory)[told] == laboratory).mean() > 0.6  # 0.33 by chance


def texture(image: Array) -> list[float]:
    haematoxylin = rgb2hed(image)[..., 0]
    grey = np.clip(haematoxylin * 800, 0, 255).astype(np.uint8)
    patterns = local_binary_pattern(grey, 8, 2, "uniform")
    edges = sobel(haematoxylin)
    return [
        *np.bincount(patterns.astype(int).ravel(), minlength=10) / patterns.size,
        *np.percentile(haematoxylin, [10, 50, 75, 90, 97]),
        edges.mean(),
        edges.std(),
    ]


def test_images_and_captions_each_tell_the_labels_in_part_and_together_tell_more(
    histology: Manifest, images: Array
) -> None:
    y, patient = histology.require("malignant").to_numpy(), histology.require("patient").to_numpy()
    by_image = predict(np.array([texture(image) for image in images]), y, patient, C=0.1)
    words = CountVectorizer().fit_transform([text or "" for text in histology.texts()]).toarray()
    by_text = predict(words, y, patient, C=0.01)
    together = by_image / by_image.std() + by_text / by_text.std()

    image_auc, text_auc, joint_auc = (roc_auc_score(y, scores) for scores in (by_image, by_text, together))
    assert 0.65 < image_auc < 0.97
    assert 0.60 < text_auc < 0.95
    assert max(image_auc, text_auc) < joint_auc < 0.99


def test_images_tell_the_subtype_in_part(histology: Manifest, images: Array) -> None:
    X, table = np.array([texture(image) for image in images]), histology.table
    for label in ("benign", "malignant"):
        rows = (table["label"] == label).to_numpy()
        subtype, patient = table["subtype"].to_numpy()[rows], table["patient"].to_numpy()[rows]
        told = predict(X[rows], subtype, patient, C=0.1, folds=3).argmax(axis=1)
        assert (np.unique(subtype)[told] == subtype).mean() > 0.38  # 0.25 by chance


def test_what_images_and_captions_tell_are_drawn_independently_and_overlap() -> None:
    patients = _patients(seed=0, n_patients=4000, laboratories=3)
    scores = np.array([(patient.image_score, patient.text_score) for patient in patients])
    malignant = np.array([patient.label == "malignant" for patient in patients])
    for rows in (malignant, ~malignant):
        assert abs(np.corrcoef(scores[rows].T)[0, 1]) < 0.07
    for score, auc in zip(scores.T, (0.976, 0.921)):  # of two normals 2.8 and 2 apart: Phi(d / sqrt 2)
        assert roc_auc_score(malignant, score) == pytest.approx(auc, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_patients": 1}, "n_patients must be at least 2, but is 1"),
        ({"images_per_patient": 0}, "images_per_patient"),
        ({"laboratories": 0}, "laboratories"),
        ({"size": 16}, "size"),
        ({"seed": -1}, "seed"),
        ({"magnifications": ()}, "number of magnifications"),
        ({"magnifications": (0, 40)}, "a magnification"),
        ({"magnifications": (40, 40)}, r"magnifications must be distinct, but are \(40, 40\)"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        make_histology(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
