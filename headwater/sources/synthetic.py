"""A small synthetic histology data set: images, captions and metadata with known ground truth.

It is laid out like BreakHis: patients with a benign or a malignant breast lesion of one of eight kinds, imaged
at several magnifications. It holds no real patient data.

The signal is controlled. Each patient's lesion has two hidden scores, drawn independently around a mean that
depends on the label. Images depend on the label only through the first score, captions only through the second.
So neither predicts the label perfectly, they err on different patients, and both together predict it better.
Laboratories differ in their stains and scanners and are balanced over the labels, so the laboratory does not predict
the label. With the default arguments, a logistic regression on simple colour and texture statistics, cross-validated
by patient, reaches an AUC of about 0.8 at image level and 0.9 at patient level; on the words of the captions, about
0.7 and 0.85.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl

from headwater.errors import InputError
from headwater.sources._tissue import Architecture, Stain, paint

__all__ = ["make_histology"]

_ARCHITECTURES = {
    "benign": {
        "adenosis": Architecture(34, 12, 8.0, bend=0.35),
        "fibroadenoma": Architecture(75, 17, 9.0, stretch=2.2, bend=0.6, outside="myxoid", stromal_cells=1.3),
        "phyllodes tumor": Architecture(80, 16, 8.5, stretch=2.8, bend=0.7, stromal_cells=2.2),
        "tubular adenoma": Architecture(27, 11, 7.5, bend=0.15),
    },
    "malignant": {
        "ductal carcinoma": Architecture(52, 23, 99, bend=0.8, stromal_cells=1.2),
        "lobular carcinoma": Architecture(17, 5.5, 99, stretch=2.2, bend=0.8, stromal_cells=1.2),
        "mucinous carcinoma": Architecture(62, 18, 99, bend=0.6, outside="pool"),
        "papillary carcinoma": Architecture(42, 15, 9.0, stretch=2.5, bend=0.7, inside="stroma", outside="lumen"),
    },
}

# Typical optical densities of the two stains in red, green and blue; each laboratory varies them.
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.14, 0.90, 0.42])

_IMAGE_SEPARATION = 2.8  # distance between the mean scores of the two labels, in within-label standard deviations
_TEXT_SEPARATION = 2.0
_TEXT_SHARPNESS = 1.0  # how strongly a phrase follows its score

# Each pair is one finding: phrases for a benign and for a malignant appearance.
_FINDINGS = (
    (("small regular nuclei", "uniform bland nuclei"), ("enlarged irregular nuclei", "pleomorphic dark nuclei")),
    (("no mitoses seen", "mitoses are rare"), ("several mitoses", "frequent mitotic figures")),
    (("smooth pushing border", "well circumscribed edge"), ("infiltrating border", "ragged ill-defined edge")),
    (("two cell layers preserved", "open round lumina"), ("loss of polarity", "crowded solid nests")),
    (("fine even chromatin", "inconspicuous nucleoli"), ("coarse chromatin", "prominent nucleoli")),
    (("quiet fibrous stroma", "loose stroma"), ("reactive desmoplastic stroma", "stroma with lymphocytes")),
)
_OPENINGS = ("Breast core biopsy.", "Section of breast tissue.", "Breast excision.", "H&E section.")
_ASIDES = ("Moderate staining.", "Slight crush artefact.", "Focal haemorrhage.", "Adipose tissue at the margin.")


@dataclass(frozen=True, slots=True)
class _Patient:
    name: str
    label: str
    subtype: str
    laboratory: int
    age: int  # in years
    image_score: float
    text_score: float


def make_histology(
    out: str | os.PathLike[str],
    *,
    n_patients: int = 24,
    images_per_patient: int = 12,
    magnifications: tuple[int, ...] = (40, 100, 200, 400),
    laboratories: int = 3,
    size: int = 128,
    seed: int = 0,
) -> Path:
    """Write a synthetic data set of stained breast tissue, with captions and a manifest.

    The manifest's columns are ``id``, ``image``, ``patient``, ``laboratory``, ``magnification``, ``age`` (in
    years), ``subtype``, ``label`` (``benign`` or ``malignant``), ``malignant`` (0 or 1) and ``caption``.
    Captions name neither label nor subtype. Half of the patients, rounded down, are malignant.

    The same arguments give the same data set.

    Parameters
    ----------
    out
        Folder to write to; created if missing. Files of the same names are replaced.
    n_patients
        Number of patients, at least 2.
    images_per_patient
        Number of images of each patient, divided evenly over the magnifications; the first ones get any remainder.
    magnifications
        Magnifications of the objective. A pixel is ``168 / magnification`` µm wide, so 0.42 µm at 400x.
    laboratories
        Number of laboratories that the patients come from; each has its own stain and scanner.
    size
        Width and height of the images, in pixels; at least 32.
    seed
        Seed of the random numbers, at least 0.

    Returns
    -------
    Path
        Path of the manifest, ``out/manifest.csv``; the images are JPEG files in ``out/images``.

    Raises
    ------
    InputError
        When an argument is out of its range.
    """
    from PIL import Image

    _check(n_patients, images_per_patient, magnifications, laboratories, size, seed)
    out = Path(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    stains = [_stain(seed, laboratory) for laboratory in range(laboratories)]
    rows = []
    for index, patient in enumerate(_patients(seed, n_patients, laboratories)):
        for number in range(images_per_patient):
            rng = np.random.default_rng([seed, 2, index, number])
            magnification = magnifications[number % len(magnifications)]
            name = f"{patient.name}-{magnification}-{number // len(magnifications) + 1}"
            pixels = _field(rng, patient, size, magnification, stains[patient.laboratory])
            Image.fromarray(pixels).save(out / "images" / f"{name}.jpg", quality=92, subsampling=0)
            rows.append(
                {
                    "id": name,
                    "image": f"images/{name}.jpg",
                    "patient": patient.name,
                    "laboratory": f"lab{patient.laboratory + 1}",
                    "magnification": magnification,
                    "age": patient.age,
                    "subtype": patient.subtype,
                    "label": patient.label,
                    "malignant": int(patient.label == "malignant"),
                    "caption": _caption(rng, patient),
                }
            )
    manifest = out / "manifest.csv"
    pl.DataFrame(rows).write_csv(manifest)
    return manifest


def _check(
    n_patients: int, images_per_patient: int, magnifications: tuple[int, ...], laboratories: int, size: int, seed: int
) -> None:
    for name, value, least in (
        ("n_patients", n_patients, 2),
        ("images_per_patient", images_per_patient, 1),
        ("laboratories", laboratories, 1),
        ("size", size, 32),
        ("seed", seed, 0),
        ("the number of magnifications", len(magnifications), 1),
        ("a magnification", min(magnifications, default=1), 1),
    ):
        if value < least:
            raise InputError(f"make_histology: {name} must be at least {least}, but is {value}.")
    if len(set(magnifications)) < len(magnifications):
        raise InputError(f"make_histology: magnifications must be distinct, but are {magnifications}.")


def _patients(seed: int, n_patients: int, laboratories: int) -> list[_Patient]:
    """Draw the patients, alternately benign and malignant."""
    rng = np.random.default_rng([seed, 1])
    patients: list[_Patient] = []
    for label, side in (("benign", -0.5), ("malignant", 0.5)):
        n = (n_patients + (label == "benign")) // 2
        subtypes = rng.permutation(np.resize(list(_ARCHITECTURES[label]), n))
        # Shuffled quantiles of a normal distribution, so that the difficulty of a small set does not depend on chance;
        # the two scores are shuffled independently.
        quantiles = np.array([NormalDist().inv_cdf((rank + 0.5) / n) for rank in range(n)])
        image_scores = side * _IMAGE_SEPARATION + rng.permutation(quantiles)
        text_scores = side * _TEXT_SEPARATION + rng.permutation(quantiles)
        ages = rng.normal(50 + 10 * side, 12, n).clip(19, 88)
        patients += [
            _Patient(
                name=f"p{2 * i + 1 + (label == 'malignant'):03d}",
                label=label,
                subtype=str(subtypes[i]),
                laboratory=i % laboratories,
                age=int(ages[i]),
                image_score=float(image_scores[i]),
                text_score=float(text_scores[i]),
            )
            for i in range(n)
        ]
    return sorted(patients, key=lambda patient: int(patient.name[1:]))


def _stain(seed: int, laboratory: int) -> Stain:
    rng = np.random.default_rng([seed, 0, laboratory])
    return Stain(
        haematoxylin=_HAEMATOXYLIN * rng.uniform(1.0, 1.35) + rng.normal(0, 0.05, 3),
        eosin=_EOSIN * rng.uniform(0.68, 0.92) + rng.uniform(-1, 1, 3) * np.array([0.05, 0.0, 0.14]),
        white=rng.uniform(0.92, 0.98) - rng.uniform(0, 0.03, 3),
        blur=rng.uniform(0.45, 0.75),
    )


def _field(
    rng: np.random.Generator, patient: _Patient, size: int, magnification: int, stain: Stain
) -> npt.NDArray[np.uint8]:
    """Render one field; its appearance depends on the label only through the patient's image score."""
    atypia = _logistic(1.3 * patient.image_score + rng.normal(0, 0.3))
    # The more the score contradicts the label, the more likely the field shows a layout of the other label.
    shown = "malignant" if rng.random() < _logistic(3.0 * patient.image_score) else "benign"
    subtype = patient.subtype if shown == patient.label else str(rng.choice(list(_ARCHITECTURES[shown])))
    return paint(rng, size, magnification, atypia, _ARCHITECTURES[shown][subtype], stain)


def _caption(rng: np.random.Generator, patient: _Patient) -> str:
    """Write a caption of a few findings, which depend on the label only through the patient's text score."""
    chosen = rng.choice(len(_FINDINGS), size=3, replace=False)
    alarming = rng.random(len(chosen)) < _logistic(_TEXT_SHARPNESS * patient.text_score)
    phrases = [str(rng.choice(_FINDINGS[i][int(bad)])) for i, bad in zip(chosen, alarming, strict=True)]
    words = [str(rng.choice(_OPENINGS)), f"{', '.join(phrases).capitalize()}."]
    if rng.random() < 0.4:
        words.append(str(rng.choice(_ASIDES)))
    return " ".join(words)


def _logistic(score: float) -> float:
    return float(1 / (1 + np.exp(-score)))
