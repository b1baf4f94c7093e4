"""Render a synthetic mammogram: a compressed breast, its fibroglandular tissue, and a finding.

Lengths are fractions of the image's height until they are drawn; the chest wall is on the left. What is drawn is the
attenuation of the breast, from 0 (air) to about 1; a `Scanner` turns it into pixel values.

The tissue is noise whose power falls with the third power of the frequency, as measured in mammograms, passed through a
soft threshold that leaves the share of the breast that its density category has, and drawn out towards the nipple.

References
----------
Burgess, Jacobson and Judy, Human observer detection experiments with mammograms and power-law noise, Medical
Physics 28, 2001 (the exponent of the noise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]  # of shape (height, width)
View = Literal["CC", "MLO"]
Finding = Literal["none", "mass", "calcification"]

DENSE = {"A": 0.06, "B": 0.20, "C": 0.45, "D": 0.78}
"""Share of the breast, without skin and fat below it, that is fibroglandular tissue, by BI-RADS density."""
_FAT, _GLAND, _MUSCLE, _IMPLANT, _SKIN = 0.30, 0.34, 0.72, 0.95, 0.30
_EDGE = 0.05  # over which the breast becomes thinner towards the skin
_SUBCUTANEOUS = 0.035  # thickness of the fat below the skin


@dataclass(frozen=True, slots=True)
class Breast:
    """One breast, the same in both of its views.

    Parameters
    ----------
    density
        BI-RADS category, ``A`` (almost entirely fat) to ``D`` (extremely dense).
    implant
        Whether an implant lies behind the tissue.
    size
        Distance from the chest wall to the nipple.
    finding
        What is drawn in it.
    suspicion
        How malignant the finding looks, 0 to 1: a mass denser and with more and longer spicules; calcifications more,
        finer and closer together.
    depth, height
        Where the finding is: from the chest wall (0) to the nipple (1), and from the lower end (-1) to the upper (1).
    seed
        Of the tissue, with which both views are alike.
    """

    density: str
    implant: bool
    size: float
    finding: Finding
    suspicion: float
    depth: float
    height: float
    seed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scanner:
    """How a machine shows attenuation.

    Parameters
    ----------
    gamma
        Exponent of its curve: below 1 dark tissue is shown brighter.
    white, black
        Values of the densest tissue and of air, 0 to 1.
    blur
        Standard deviation of the point spread, in pixels of an image 320 high.
    noise
        Standard deviation of the noise.
    """

    gamma: float
    white: float
    black: float
    blur: float
    noise: float


def paint(
    rng: np.random.Generator, breast: Breast, view: View, height: int, width: int, scanner: Scanner
) -> npt.NDArray[np.float32]:
    """Render one view.

    Parameters
    ----------
    rng
        Random numbers of this view: its position and noise.
    breast, view, scanner
        What is drawn.
    height, width
        Of the image, in pixels.

    Returns
    -------
    float32 array of shape (height, width), 0 to 1, the chest wall on the left
    """
    from scipy import ndimage

    inside, muscle, nipple = _outline(rng, breast, view, height, width)
    depth = ndimage.distance_transform_edt(np.pad(inside, ((0, 0), (1, 0)), mode="edge"))[:, 1:] / height
    depth = depth.astype(np.float32)
    thickness = np.where(inside, 1 - np.exp(-depth / (_EDGE * 0.6)), 0).astype(np.float32)
    tissue = _tissue(breast, view, inside & (depth > _SUBCUTANEOUS) & (muscle < 0.5), nipple, height, width)
    image = thickness * (_FAT + _GLAND * tissue)
    image = image + thickness * muscle * np.maximum(_MUSCLE - image, 0)
    if breast.implant:
        image = np.maximum(image, _IMPLANT * _implant(inside, nipple, height, width))
    image += np.where(inside, _SKIN * np.exp(-((depth * height / 1.6 - 1) ** 2)), 0)  # a thin bright line
    place = _place(breast, view, inside, nipple, height)
    if breast.finding == "mass":
        image += thickness * _mass(breast, view, place, height, width)
    elif breast.finding == "calcification":
        image += thickness * _calcifications(breast, view, place, height, width)
    image = ndimage.gaussian_filter(image, scanner.blur * height / 320)
    shown = np.clip(image, 0, 1.2) ** scanner.gamma * (scanner.white - scanner.black) + scanner.black
    shown += scanner.noise * rng.standard_normal(shown.shape) * np.sqrt(0.2 + image)
    pixels: Field = np.clip(shown, 0, 1).astype(np.float32)
    return pixels


def _outline(
    rng: np.random.Generator, breast: Breast, view: View, height: int, width: int
) -> tuple[npt.NDArray[np.bool_], Field, tuple[float, float]]:
    """Return the breast as a mask, the pectoral muscle from 0 to 1, and the place of the nipple: row and column."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    reach = breast.size * (1 + rng.normal(0, 0.02))
    if view == "CC":
        middle, half, power = 0.5 + rng.normal(0, 0.015), min(0.47, 0.27 + 0.33 * reach), 2.1
        edge = reach * np.clip(1 - np.abs((y - middle) / half) ** power, 0, None) ** 0.56
        return x < edge, np.zeros_like(x), (middle * height, reach * height)
    middle, half = 0.60 + rng.normal(0, 0.015), min(0.40, 0.22 + 0.30 * reach)
    lower = np.clip(1 - np.abs((y - middle) / half) ** 2.1, 0, None) ** 0.56
    # above the nipple the breast goes over into the armpit, whose edge meets the upper border of the image
    armpit = 0.50 + 0.5 * np.clip(y / middle, 0, 1) ** 1.6
    edge = reach * np.where(y < middle, np.maximum(lower, armpit), lower)
    top, bottom = 0.40 * reach + 0.08 + rng.normal(0, 0.01), 0.68 + rng.normal(0, 0.03)
    line = top * (1 - y / bottom) + 0.03 * np.sin(np.pi * np.clip(y / bottom, 0, 1))
    muscle = 1 / (1 + np.exp(-np.clip((line - x) * height / 2.5, -30, 30)))
    return x < edge, np.where(y < bottom, muscle, 0).astype(np.float32), (middle * height, reach * height)


def _tissue(
    breast: Breast, view: View, room: npt.NDArray[np.bool_], nipple: tuple[float, float], height: int, width: int
) -> Field:
    """Return how much of each place is fibroglandular tissue, about 0 to 1; none outside ``room``."""
    from scipy import ndimage

    rng = np.random.default_rng([*breast.seed, view == "MLO"])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    cloud = _power_noise(rng, height, width, 3.0)
    strands = _ridges(rng, height, width)
    # tissue lies behind the nipple, and its edge towards the fat is scalloped
    row, column = nipple[0] / height, nipple[1] / height
    away = np.hypot((y - row) / 0.30, (x - 0.62 * column) / (0.52 * column))
    wanted = cloud - 1.15 * away
    if not room.any():
        return np.zeros((height, width), np.float32)
    cut = np.quantile(wanted[room], 1 - DENSE[breast.density])
    soft = 1 / (1 + np.exp(-np.clip((wanted - cut) / 0.22, -30, 30)))
    detail = _power_noise(rng, height, width, 2.4)
    found = soft * (1 + 0.16 * detail) + 0.20 * strands * (1 - 0.5 * soft)
    near = ndimage.gaussian_filter(room.astype(np.float32), 0.008 * height)
    tissue: Field = np.clip(found * near, 0, 1.5).astype(np.float32)
    return tissue


def _power_noise(rng: np.random.Generator, height: int, width: int, exponent: float) -> Field:
    """Return noise with mean 0 and standard deviation 1 whose power falls with the frequency to this exponent."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    amplitude = np.maximum(frequency, 2.5 / height) ** (-exponent / 2)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) * amplitude
    noise = np.fft.irfft2(spectrum, s=(height, width))
    scaled: Field = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return scaled


def _ridges(rng: np.random.Generator, height: int, width: int) -> Field:
    """Return thin bright strands, 0 to 1, such as ducts and ligaments: the zero crossings of smooth noise."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(rng.standard_normal((height, width)), (0.018 * height, 0.035 * height))
    strands: Field = np.exp(-((noise / noise.std() / 0.10) ** 2)).astype(np.float32)
    return strands


def _implant(inside: npt.NDArray[np.bool_], nipple: tuple[float, float], height: int, width: int) -> Field:
    """Return an implant, 0 to 1: a smooth half oval at the chest wall."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot((y - nipple[0]) / (0.26 * height), x / (0.55 * nipple[1]))
    return np.where(inside, 1 / (1 + np.exp(np.clip((distance - 1) * 40, -30, 30))), 0).astype(np.float32)


def _place(
    breast: Breast, view: View, inside: npt.NDArray[np.bool_], nipple: tuple[float, float], height: int
) -> tuple[float, float]:
    """Return row and column of the finding, within the breast."""
    column = (0.22 + 0.55 * breast.depth) * nipple[1]
    row = nipple[0] + (-0.17 if view == "MLO" else 0.15) * breast.height * height
    return float(row), float(column)


def _mass(breast: Breast, view: View, place: tuple[float, float], height: int, width: int) -> Field:
    """Return a mass: an oval whose edge becomes ragged and spiculated with suspicion."""
    rng = np.random.default_rng([*breast.seed, 7, view == "MLO"])
    reach = round(0.15 * height)  # no spicule is longer
    rows, columns = (
        slice(max(0, round(at) - reach), min(end, round(at) + reach + 1))
        for at, end in zip(place, (height, width), strict=True)
    )
    y, x = np.mgrid[rows, columns].astype(np.float32)
    dy, dx = (y - place[0]) / height, (x - place[1]) / height
    angle = np.arctan2(dy, dx)
    distance = np.hypot(dy, dx * rng.uniform(0.8, 1.0))
    radius = rng.uniform(0.030, 0.042)
    lobes = sum(rng.normal(0, 1) / k * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(2, 7))
    outline = radius * (1 + (0.04 + 0.16 * breast.suspicion) * lobes)
    core = 1 / (1 + np.exp(-np.clip((outline - distance) / (0.003 + 0.004 * breast.suspicion), -30, 30)))
    spicules = np.zeros_like(distance)
    for _ in range(round(26 * breast.suspicion)):
        at, length = rng.uniform(-np.pi, np.pi), radius * rng.uniform(1.5, 3.2)
        off = np.abs((angle - at + np.pi) % (2 * np.pi) - np.pi) * distance
        spicules += (
            np.exp(-((off * height / 0.9) ** 2)) * np.clip(1 - distance / length, 0, 1) * (distance > radius / 2)
        )
    found = np.zeros((height, width), np.float32)
    found[rows, columns] = (0.15 + 0.13 * breast.suspicion) * core + 0.34 * np.clip(spicules, 0, 1.2)
    return found


def _calcifications(breast: Breast, view: View, place: tuple[float, float], height: int, width: int) -> Field:
    """Return calcifications: a few round and scattered ones, or with suspicion a cluster of many fine ones."""
    from scipy import ndimage

    rng = np.random.default_rng([*breast.seed, 8, view == "MLO"])
    n = round(4 + 40 * breast.suspicion)
    spread = 0.085 - 0.045 * breast.suspicion
    rows = place[0] + spread * height * rng.normal(0, 1, n)
    columns = place[1] + spread * height * rng.normal(0, 1, n)
    points = np.zeros((height, width), np.float32)
    size = 0.0045 - 0.0022 * breast.suspicion
    for row, column, bright in zip(rows, columns, rng.uniform(0.6, 1.0, n), strict=True):
        r, c = round(row), round(column)
        if 0 <= r < height and 0 <= c < width:
            points[r, c] = max(points[r, c], bright)
    blurred = ndimage.gaussian_filter(points, size * height)
    found: Field = (0.75 * blurred * (2 * np.pi * (size * height) ** 2)).astype(np.float32)
    return found
