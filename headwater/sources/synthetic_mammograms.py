"""A small synthetic set of mammograms with metadata, with known ground truth.

It is laid out like the public sets: patients, exams of four views, breasts, two sites with a scanner each, and metadata
with missing values. It holds no data of real patients, and its mammograms are only roughly like real ones: it is for
trying out a study, for teaching and for tests, not for training.

The signal is controlled. Half of the patients, rounded down, have cancer in one breast. Each breast has a hidden score
that decides how suspicious its finding looks, and each patient one that decides age, family history and previous
biopsy. Both are drawn independently around a mean that depends on cancer. So neither images nor metadata predict the
label perfectly, they err on different patients, and both together predict it better. Sites are balanced over the
labels. Values are missing more often at one site, whatever the label: missing values predict the site, and not the
label.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from headwater._about import About, about_file
from headwater._checks import one_of
from headwater._extras import need
from headwater.errors import InputError
from headwater.sources._breast import Breast, Finding, Scanner, View, paint

__all__ = ["TEMPLATE", "make_mammography"]

Form = Literal["png", "png16", "dicom"]
KIND = "synthetic-mammography"
VIEWS: tuple[tuple[str, View], ...] = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))
OUTCOMES, GROUPS = ("label", "finding"), ("patient", "breast")
DENSITIES: Mapping[str, float] = {"A": 0.10, "B": 0.40, "C": 0.40, "D": 0.10}
"""Share of women in each category, about that of a screening programme."""

_IMAGE_SEPARATION = 2.4  # distance between the mean scores of breasts with and without cancer, in standard deviations
_TEXT_SEPARATION = 1.7
_BENIGN_FINDINGS = 0.55  # share of breasts without cancer that have a benign finding
_MISSING = {"north": {"age": 0.02, "density": 0.0, "family_history": 0.05, "previous_biopsy": 0.05}}
_MISSING["south"] = {"age": 0.10, "density": 0.15, "family_history": 0.45, "previous_biopsy": 0.35}

TEMPLATE = """# Sentences from the metadata of the synthetic mammograms. What is to be predicted is no field.
outcomes = ["label", "finding"]
missing = "unknown"
order = "shuffled"
vary_by = "exam"

sentences = [
    ["The patient is {age}.", "Age: {age}."],
    ["The breasts are {density}.", "Breast density: {density}."],
    "Implant: {implant}.",
    ["Family history of breast cancer: {family_history}.", "Breast cancer in the family: {family_history}."],
    "Previous biopsy: {previous_biopsy}.",
]

[columns.age]
bins = [
    { below = 50, word = "under fifty" },
    { below = 60, word = "in her fifties" },
    { below = 70, word = "in her sixties" },
    { word = "seventy or older" },
]

[columns.density]
map = { A = "almost entirely fatty", B = "scattered", C = "heterogeneously dense", D = "extremely dense" }
"""


@dataclass(frozen=True, slots=True)
class _Site:
    """A hospital and its machine; ``inverted`` if its DICOM files say MONOCHROME1."""

    name: str
    device: str
    scanner: Scanner
    inverted: bool


_SITES = (
    _Site("north", "Lumen 2000", Scanner(gamma=1.0, white=0.95, black=0.01, blur=0.6, noise=0.010), False),
    _Site("south", "Orbis D3", Scanner(gamma=0.75, white=0.88, black=0.04, blur=0.9, noise=0.018), True),
)


@dataclass(frozen=True, slots=True)
class _Patient:
    name: str
    site: _Site
    side: str | None  # of the cancer
    age: int  # in years
    density: str
    implant: bool
    family_history: bool
    previous_biopsy: bool
    breasts: Mapping[str, Breast]


def make_mammography(
    out: str | os.PathLike[str],
    *,
    n_patients: int = 60,
    height: int = 320,
    width: int = 256,
    form: Form = "png",
    seed: int = 0,
) -> Path:
    """Write synthetic mammograms of four views a patient, with metadata, a manifest and a template for texts.

    The manifest's columns are ``id``, ``image``, ``patient``, ``exam``, ``breast``, ``laterality`` (``L`` or ``R``),
    ``view`` (``CC`` or ``MLO``), ``site``, ``device``, ``age`` (in years), ``density`` (BI-RADS ``A`` to ``D``),
    ``implant``, ``previous_biopsy``, ``family_history``, and the outcomes ``finding`` (``none``, ``mass`` or
    ``calcification``) and ``label`` (1 for a breast with cancer). Values are missing where a cell is empty.

    The same arguments give the same files.

    Parameters
    ----------
    out
        Folder to write to; created if missing. Files of the same names are replaced.
    n_patients
        Number of patients, at least 4; each has one exam.
    height, width
        Of the images, in pixels, at least 64.
    form
        ``png`` for 8 bits, ``png16`` for 16 bits, or ``dicom`` for 12 bits, in which the machine of one site stores
        inverted values (MONOCHROME1); this needs ``headwater[dicom]``.
    seed
        Seed of the random numbers, at least 0.

    Returns
    -------
    Path
        Path of the manifest, ``out/manifest.csv``. Beside it lie ``manifest.csv.about.json``, which names the outcomes,
        and ``report.toml``, a template for `headwater.text`; the images lie in ``out/images``.

    Raises
    ------
    InputError
        When an argument is out of its range.
    """
    for name, value, least in (("n_patients", n_patients, 4), ("height", height, 64), ("width", width, 64)):
        if value < least:
            raise InputError(f"make_mammography: {name} must be at least {least}, but is {value}.")
    if seed < 0:
        raise InputError(f"make_mammography: seed must be at least 0, but is {seed}.")
    one_of("make_mammography: form", form, get_args(Form))
    if form == "dicom":
        need("pydicom", extra="dicom")
    out = Path(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, patient in enumerate(_patients(seed, n_patients)):
        known = _known(np.random.default_rng([seed, 3, index]), patient)
        for number, (side, view) in enumerate(VIEWS):
            rng = np.random.default_rng([seed, 4, index, number])
            breast = patient.breasts[side]
            pixels = paint(rng, breast, view, height, width, patient.site.scanner)
            name = f"{patient.name}-{side}-{view}"
            image = f"images/{name}.{'dcm' if form == 'dicom' else 'png'}"
            row = {
                "id": name,
                "image": image,
                "patient": patient.name,
                "exam": f"{patient.name}-1",
                "breast": f"{patient.name}-{side}",
                "laterality": side,
                "view": view,
                "site": patient.site.name,
                "device": patient.site.device,
                **known,
                "finding": breast.finding,
                "label": int(side == patient.side),
            }
            _save(pixels if side == "L" else pixels[:, ::-1], out / image, form, patient.site, row, seed)
            rows.append(row)
    manifest = out / "manifest.csv"
    table = pl.DataFrame(rows, infer_schema_length=None)
    table.write_csv(manifest)
    about = About(KIND, outcomes=OUTCOMES, groups=GROUPS, warnings=("synthetic images, of no use for training",))
    about_file(manifest).write_text(about.to_json(), encoding="utf-8")
    (out / "report.toml").write_text(TEMPLATE, encoding="utf-8")
    return manifest


def _patients(seed: int, n_patients: int) -> list[_Patient]:
    """Draw the patients, alternately without and with cancer."""
    rng = np.random.default_rng([seed, 1])
    found: list[tuple[int, _Patient]] = []
    for with_cancer in (False, True):
        n = (n_patients + (not with_cancer)) // 2
        shift = 0.5 if with_cancer else -0.5
        # Shuffled quantiles of a normal distribution, so that the difficulty of a small set does not depend on chance
        quantiles = np.array([NormalDist().inv_cdf((rank + 0.5) / n) for rank in range(n)])
        text, own = shift * _TEXT_SEPARATION + rng.permutation(quantiles), rng.permutation(quantiles)
        sides = rng.permutation(np.resize(["L", "R"], n))
        density = rng.permutation(_densities(n))
        sites = rng.permutation(np.resize([0, 1], n))
        for i in range(n):
            number = 2 * i + with_cancer
            side = str(sides[i]) if with_cancer else None
            size = float(np.clip(rng.normal(0.52, 0.06), 0.38, 0.68))
            implant = bool(rng.random() < 0.05)
            breasts = {}
            for place, each in enumerate(("L", "R")):
                affected = each == side
                of_breast = own[i] if affected else rng.normal()
                score = (0.5 if affected else -0.5) * _IMAGE_SEPARATION + of_breast
                shows = affected or rng.random() < _BENIGN_FINDINGS
                finding: Finding = "none"
                if shows:
                    finding = "mass" if rng.random() < 0.6 else "calcification"
                breasts[each] = Breast(
                    density=str(density[i]),
                    implant=implant,
                    size=size,
                    finding=finding,
                    suspicion=_logistic(1.3 * score),
                    depth=float(rng.uniform(0.1, 0.9)),
                    height=float(rng.uniform(-0.8, 0.8)),
                    seed=(seed, 2, number, place),
                )
            patient = _Patient(
                name=f"p{number + 1:03d}",
                site=_SITES[int(sites[i])],
                side=side,
                age=int(np.clip(57 + 5 * text[i] + rng.normal(0, 6), 40, 84)),
                density=str(density[i]),
                implant=implant,
                family_history=bool(rng.random() < _logistic(1.2 * text[i] - 1.0)),
                previous_biopsy=bool(rng.random() < _logistic(1.2 * text[i] - 1.0)),
                breasts=breasts,
            )
            found.append((number, patient))
    return [patient for _, patient in sorted(found, key=lambda one: one[0])]


def _densities(n: int) -> list[str]:
    """Return n categories in the shares of `DENSITIES`, as nearly as whole numbers allow."""
    ends = np.round(np.cumsum(list(DENSITIES.values())) * n).astype(int)
    return [name for name, k in zip(DENSITIES, np.diff([0, *ends]), strict=True) for _ in range(k)]


def _known(rng: np.random.Generator, patient: _Patient) -> dict[str, Any]:
    """Return a patient's metadata, with None for what was not recorded."""
    missing = _MISSING[patient.site.name]
    values: dict[str, Any] = {
        "age": patient.age,
        "density": patient.density,
        "implant": patient.implant,
        "previous_biopsy": patient.previous_biopsy,
        "family_history": patient.family_history,
    }
    return {name: None if rng.random() < missing.get(name, 0.0) else value for name, value in values.items()}


def _save(
    pixels: npt.NDArray[np.float32], path: Path, form: Form, site: _Site, row: Mapping[str, Any], seed: int
) -> None:
    """Write an image, with values from 0 to 1."""
    from PIL import Image

    if form == "png":
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path)
    elif form == "png16":
        Image.fromarray(np.round(pixels * 65535).astype(np.uint16)).save(path)
    else:
        _save_dicom(np.round(pixels * 4095).astype(np.uint16), path, site, row, seed)


def _save_dicom(values: npt.NDArray[np.uint16], path: Path, site: _Site, row: Mapping[str, Any], seed: int) -> None:
    """Write a DICOM file of 12-bit values; its identifiers depend on the seed and the names alone."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    def uid(*names: object) -> Any:
        return generate_uid(entropy_srcs=[f"headwater {KIND} {seed}", *map(str, names)])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid("image", row["id"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = uid("exam", row["exam"]), uid("series", row["id"])
    data.Modality, data.PresentationIntentType = "MG", "FOR PRESENTATION"
    data.PatientID = data.PatientName = row["patient"]
    data.PatientSex = "F"
    if row["age"] is not None:
        data.PatientAge = f"{row['age']:03d}Y"
    data.ImageLaterality, data.ViewPosition = row["laterality"], row["view"]
    data.Manufacturer, data.ManufacturerModelName = "Synthetic", site.device
    data.InstitutionName, data.BurnedInAnnotation = site.name, "NO"
    data.BreastImplantPresent = "YES" if row["implant"] else "NO"
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.Rows, data.Columns = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PhotometricInterpretation = "MONOCHROME1" if site.inverted else "MONOCHROME2"
    data.PresentationLUTShape = "INVERSE" if site.inverted else "IDENTITY"
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = (4095 - values if site.inverted else values).astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


def _logistic(score: float) -> float:
    return float(1 / (1 + np.exp(-score)))
