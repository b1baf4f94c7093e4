"""Render a synthetic field of tissue stained with haematoxylin and eosin.

Lengths are in micrometres (µm) until they are drawn. The two stains are optical densities (OD), which add; the
transmitted light is ``10 ** -OD``.

Centres of epithelial structures are placed on a jittered grid. The signed distance to their (bent, stretched)
outlines divides the field into stroma, epithelium, and the inside of the epithelium, usually a lumen. Each of the
three has its own material. Nuclei are placed last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]  # of shape (size, size)
Angles = npt.NDArray[np.floating]  # in radians, of shape (size, size) or (n,)
Points = npt.NDArray[np.float64]  # of shape (n, 2): x and y

UM_PER_PIXEL_AT_40X = 4.2


@dataclass(frozen=True, slots=True)
class Architecture:
    """The layout of the epithelium in a kind of tissue.

    Parameters
    ----------
    spacing, radius, lining
        Distance of the structures, their radius, and the thickness of their epithelium, in µm. A lining
        thicker than the radius leaves no lumen: the structure is a solid nest.
    stretch
        How much longer than wide the structures are.
    bend
        How irregular their outlines are: 0 for smooth, 1 for ragged.
    inside, outside
        The material within the lining, and around the structures: ``"lumen"``, ``"stroma"``, ``"myxoid"``
        (pale and loose) or ``"pool"`` (pale blue-grey, without fibres).
    stromal_cells
        Density of nuclei in the stroma, relative to ordinary stroma.
    """

    spacing: float
    radius: float
    lining: float
    stretch: float = 1.0
    bend: float = 0.3
    inside: str = "lumen"
    outside: str = "stroma"
    stromal_cells: float = 1.0


@dataclass(frozen=True, slots=True)
class Stain:
    """One laboratory's stain and scanner.

    Parameters
    ----------
    haematoxylin, eosin
        Optical densities of the pure stains in red, green and blue; shape (3,).
    white
        Light that empty glass transmits, in red, green and blue, 0 to 1; shape (3,).
    blur
        Standard deviation of the scanner's point spread, in pixels.
    """

    haematoxylin: npt.NDArray[np.float64]
    eosin: npt.NDArray[np.float64]
    white: npt.NDArray[np.float64]
    blur: float


# Optical density of (haematoxylin, eosin) in each material, and how strongly fibres show in it.
_MATERIALS = {
    "lumen": (0.01, 0.02, 0.0),
    "stroma": (0.05, 0.45, 1.0),
    "myxoid": (0.07, 0.27, 0.8),
    "pool": (0.13, 0.10, 0.12),
}
_EPITHELIUM = (0.16, 0.42)


def paint(
    rng: np.random.Generator, size: int, magnification: int, atypia: float, architecture: Architecture, stain: Stain
) -> npt.NDArray[np.uint8]:
    """Render one field of tissue.

    Parameters
    ----------
    rng
        Random number generator.
    size
        Width and height in pixels.
    magnification
        Magnification of the objective; a pixel is ``168 / magnification`` µm wide.
    atypia
        How abnormal the nuclei are, 0 to 1: larger, darker, more crowded and more varied.
    architecture
        Layout of the epithelium.
    stain
        Stain of the laboratory.

    Returns
    -------
    ndarray of shape (size, size, 3), uint8
    """
    from scipy import ndimage

    um = UM_PER_PIXEL_AT_40X * 40 / magnification
    distance, downhill = _outlines(rng, size, um, architecture)
    fibres, along = _fibres(rng, size, um)

    soft = max(um, 0.8)  # borders of materials are a pixel, or 0.8 µm, wide
    epithelium = _step(-distance, soft) * _step(distance + architecture.lining, soft)
    enclosed = _step(-distance - architecture.lining, soft)
    surround = 1 - _step(-distance, soft)

    haematoxylin = epithelium * _EPITHELIUM[0]
    eosin = epithelium * _EPITHELIUM[1] * (1 + 0.25 * _noise(rng, size, 6 / um))
    for share, name in ((enclosed, architecture.inside), (surround, architecture.outside)):
        h, e, fibrous = _MATERIALS[name]
        haematoxylin += share * h
        eosin += share * e * np.clip(1 + fibrous * fibres, 0.15, 2.2)
    cleft = _step(distance, soft) * _step(2.5 - distance, soft) * (0.25 + 0.75 * atypia * rng.random())
    eosin *= 1 - 0.6 * cleft * np.clip(0.5 + _noise(rng, size, 20 / um), 0, 1)

    nuclei = np.zeros((size, size), np.float32)
    for stamp in (
        _epithelial_nuclei(rng, size, um, atypia, architecture, distance, downhill),
        _stromal_nuclei(rng, size, um, atypia, architecture, distance, along),
    ):
        _stamp(rng, nuclei, um, stamp)
    chromatin = 1 + (0.16 + 0.2 * atypia) * _noise(rng, size, max(1.3 / um, 1.0))
    inside_nucleus = np.clip(nuclei * 1.6, 0, 1)
    haematoxylin = haematoxylin * (1 - 0.5 * inside_nucleus) + nuclei * chromatin
    eosin *= 1 - 0.55 * inside_nucleus

    thickness = 1 + 0.10 * _noise(rng, size, size / 3)
    density = np.stack([haematoxylin * thickness, eosin * thickness])
    density = ndimage.gaussian_filter(density, (0, stain.blur, stain.blur))
    light = stain.white * 10 ** -np.tensordot(density, np.stack([stain.haematoxylin, stain.eosin]), axes=(0, 0))
    light += rng.normal(0, 0.008, light.shape)
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(light * 255), 0, 255).astype(np.uint8)
    return pixels


def _outlines(rng: np.random.Generator, size: int, um: float, shape: Architecture) -> tuple[Field, Angles]:
    """Compute each pixel's signed distance in µm to the nearest outline (negative within a structure).

    Also returns the direction of steepest descent of this distance.
    """
    from scipy.spatial import cKDTree

    extent = size * um
    y, x = np.mgrid[:size, :size].reshape(2, -1) * um
    wobble = shape.bend * shape.radius * 0.8
    x = x + wobble * _noise(rng, size, 1.2 * shape.radius / um).ravel()
    y = y + wobble * _noise(rng, size, 1.2 * shape.radius / um).ravel()
    turn = rng.uniform(0, np.pi)
    pixels = np.column_stack([x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)])
    pixels[:, 0] /= shape.stretch

    low, high = pixels.min(0) - 2 * shape.spacing, pixels.max(0) + 2 * shape.spacing
    centres = _strew(rng, low, high, shape.spacing, jitter=0.38)
    radii = shape.radius * rng.lognormal(0, 0.15 + 0.25 * shape.bend, len(centres))
    radii[rng.random(len(centres)) < 0.12 * (extent > shape.spacing)] = -np.inf  # gaps
    between, nearest = cKDTree(centres).query(pixels, k=2)
    distance = (between - radii[nearest]).min(axis=1).clip(-1e3, 1e3).reshape(size, size).astype(np.float32)
    along_y, along_x = np.gradient(distance)
    return distance, np.arctan2(-along_y, -along_x)


def _fibres(rng: np.random.Generator, size: int, um: float) -> tuple[Field, Angles]:
    """Return the density of wavy collagen fibres, with mean 0, and their direction."""
    from scipy import ndimage

    # Streaks along the rows of a canvas larger than the field, then rotated and bent.
    canvas = rng.standard_normal((3 * size // 2, 3 * size // 2), np.float32)
    widths = (max(1.6 / um, 0.7), 0.6)
    lengths = (float(np.clip(16 / um, 3, 18)), float(np.clip(7 / um, 2, 18)))
    coarse, fine = (ndimage.gaussian_filter(canvas, sigma, mode="wrap", truncate=2.5) for sigma in zip(widths, lengths))
    streaks = 0.20 * coarse / coarse.std() + 0.17 * fine / fine.std()

    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32) - size / 2
    wave = min(60 / um, size / 2)
    bend = 0.22 * wave * _noise(rng, size, wave)
    u = x * np.cos(turn) + y * np.sin(turn)
    v = y * np.cos(turn) - x * np.sin(turn) + bend
    field = ndimage.map_coordinates(streaks, [v, u], order=1, mode="wrap")
    slope_y, slope_x = np.gradient(v)
    return field, np.arctan2(-slope_x, slope_y)


@dataclass(frozen=True, slots=True)
class _Nuclei:
    """Nuclei to be drawn: positions and half-axes in µm, angles in radians; one row each."""

    centres: Points
    axes: Points
    angles: Angles
    darkness: npt.NDArray[np.float64]
    raggedness: float
    rim: float  # how much darker the rim is than the middle, 0 to 1


def _epithelial_nuclei(
    rng: np.random.Generator,
    size: int,
    um: float,
    atypia: float,
    shape: Architecture,
    distance: Field,
    downhill: Angles,
) -> _Nuclei:
    radius = 3.1 + 1.5 * atypia
    gap = radius * (2.35 - 0.45 * atypia)
    extent = size * um
    points = _strew(rng, np.full(2, -gap), np.full(2, extent + gap), gap * 0.8, jitter=0.25 + 0.15 * atypia)
    if shape.lining < shape.radius:  # not a solid nest: nuclei form one or two rows
        row = rng.choice([0.35, 0.75], len(points), p=[0.75, 0.25]) * shape.lining
        where = _at(points, um, size)
        shift = distance[where] + row + rng.normal(0, 0.5 + 1.5 * atypia, len(points))
        close = np.abs(shift) < 0.75 * shape.lining
        step = np.column_stack([np.cos(downhill[where]), np.sin(downhill[where])]) * shift[:, None]
        points = (points + step)[close]
    depth = -distance[_at(points, um, size)]
    points = points[(depth > 0.5) & (depth < shape.lining)]
    points = _apart(points, gap * (0.86 - 0.12 * atypia))

    spread = 0.08 + 0.24 * atypia
    radii = radius * np.exp(spread * rng.standard_normal(len(points)).clip(-2, 2))
    elongation = rng.uniform(1.0, 1.35 + 0.25 * atypia, len(points))
    angles = downhill[_at(points, um, size)] + rng.normal(0, 0.25 + 1.2 * atypia, len(points))
    return _Nuclei(
        points,
        np.column_stack([radii * np.sqrt(elongation), radii / np.sqrt(elongation)]),
        angles,
        rng.normal(0.52 + 0.13 * atypia, 0.05 + 0.10 * atypia, len(points)).clip(0.25, 1.1),
        raggedness=0.03 + 0.15 * atypia,
        rim=0.25 + 0.3 * atypia,
    )


def _stromal_nuclei(
    rng: np.random.Generator,
    size: int,
    um: float,
    atypia: float,
    shape: Architecture,
    distance: Field,
    along: Angles,
) -> _Nuclei:
    extent = size * um
    points = _strew(rng, np.full(2, -9.0), np.full(2, extent + 9), 15 / np.sqrt(shape.stromal_cells), jitter=0.5)
    depth = distance[_at(points, um, size)]
    if shape.outside in ("stroma", "myxoid"):
        points = points[depth > 2]
    elif shape.inside == "stroma":
        points = points[depth < -shape.lining - 1]
    else:
        points = points[rng.random(len(points)) < 0.03]
    # Spindles along the fibres; here and there a small, dark, round lymphocyte.
    round_one = rng.random(len(points)) < 0.10 + 0.18 * atypia * rng.random()
    length = np.where(round_one, 2.6, rng.uniform(4.0, 7.0, len(points)))
    width = np.where(round_one, 2.4, rng.uniform(0.9, 1.6, len(points)))
    return _Nuclei(
        points,
        np.column_stack([length, width]),
        along[_at(points, um, size)] + rng.normal(0, 0.2, len(points)),
        np.where(round_one, 0.85, 0.55) * rng.normal(1, 0.08, len(points)),
        raggedness=0.03,
        rim=0.1,
    )


def _stamp(rng: np.random.Generator, canvas: Field, um: float, nuclei: _Nuclei) -> None:
    """Draw all nuclei onto a canvas at once; where two overlap, the darker one is visible."""
    n_nuclei, size = len(nuclei.centres), len(canvas)
    if n_nuclei == 0:
        return
    axes = np.maximum(nuclei.axes / um, 0.45).astype(np.float32)  # half-axes in pixels
    reach = int(np.ceil(axes.max() * 1.15)) + 1
    offsets = np.arange(-reach, reach + 1)
    centres = nuclei.centres / um
    corner = np.floor(centres).astype(int)
    rows = corner[:, 1, None, None] + offsets[:, None]
    columns = corner[:, 0, None, None] + offsets[None, :]
    # From here on, all is of shape (n_nuclei, 2 * reach + 1, 2 * reach + 1).
    dy = (rows - centres[:, 1, None, None]).astype(np.float32)
    dx = (columns - centres[:, 0, None, None]).astype(np.float32)
    angles = nuclei.angles.astype(np.float32)[:, None, None]
    u = (dx * np.cos(angles) + dy * np.sin(angles)) / axes[:, 0, None, None]
    v = (dy * np.cos(angles) - dx * np.sin(angles)) / axes[:, 1, None, None]
    from_centre = np.hypot(u, v)
    lobes = rng.integers(2, 4, (n_nuclei, 1, 1)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (n_nuclei, 1, 1)).astype(np.float32)
    from_centre *= 1 + np.float32(nuclei.raggedness) * np.cos(lobes * np.arctan2(v, u) + phase)
    edge = np.sqrt(axes.prod(axis=1))[:, None, None]  # pixels from centre to rim
    cover = np.clip((1 - from_centre) * edge / np.float32(max(1.0, 0.5 / um)) + 0.5, 0, 1)
    shade = 1 - np.float32(nuclei.rim) * (1 - np.minimum(from_centre, 1) ** 2)
    ink = cover * shade * nuclei.darkness.astype(np.float32)[:, None, None]

    rows, columns = np.broadcast_arrays(rows, columns)
    seen = (ink > 0) & (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    np.maximum.at(canvas, (rows[seen], columns[seen]), ink[seen])


def _strew(
    rng: np.random.Generator, low: npt.ArrayLike, high: npt.ArrayLike, spacing: float, *, jitter: float
) -> Points:
    """Place points over a rectangle: a hexagonal grid, each point moved by ``jitter`` of the spacing."""
    (x0, y0), (x1, y1) = np.asarray(low, float), np.asarray(high, float)
    y, x = np.meshgrid(np.arange(y0, y1, spacing * 0.87), np.arange(x0, x1, spacing), indexing="ij")
    x[1::2] += spacing / 2
    points = np.column_stack([x.ravel(), y.ravel()])
    return points + rng.normal(0, jitter * spacing / 1.5, points.shape)


def _apart(points: Points, distance: float) -> Points:
    """Drop the later of any two points that are closer than ``distance``."""
    from scipy.spatial import cKDTree

    if len(points) == 0:
        return points
    pairs = cKDTree(points).query_pairs(distance, output_type="ndarray")
    keep = np.ones(len(points), bool)
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if keep[first]:
            keep[second] = False
    return points[keep]


def _at(points: Points, um: float, size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the pixel (row, column) of each point; points outside get the nearest border pixel."""
    pixels = np.clip(points / um, 0, size - 1).astype(np.intp)
    return pixels[:, 1], pixels[:, 0]


def _noise(rng: np.random.Generator, size: int, scale: float) -> Field:
    """Draw a smooth random field of mean 0 and variance about 1 that varies over ``scale`` pixels."""
    from PIL import Image

    scale = min(max(scale, 1.0), size / 2)
    n_knots = int(np.ceil(size / scale)) + 3
    knots = Image.fromarray(rng.standard_normal((n_knots, n_knots)).astype(np.float32))
    field = np.asarray(knots.resize((size, size), Image.Resampling.BICUBIC, (1, 1, 1 + size / scale, 1 + size / scale)))
    return field * np.float32(1.3)


def _step(values: Field, width: float) -> Field:
    """Rise from 0 to 1 as ``values`` go from ``-width / 2`` to ``width / 2``."""
    step: Field = np.clip(values / width + 0.5, 0, 1)
    return step
