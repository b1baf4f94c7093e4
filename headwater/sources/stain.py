"""Stain normalisation of histology images to a reference, so that images from different laboratories look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater.errors import ImageError

Floats = NDArray[np.float64]
WHITE = 240.0
"""Intensity of a fully transparent pixel, of 255."""
CLEAR = 0.15
"""Optical density below which a pixel counts as glass."""
LEAST = 50  # an image with fewer pixels of tissue is not changed


@dataclass(frozen=True, eq=False)
class Stains:
    """Haematoxylin and eosin: their colours, and their concentrations in the darkest tissue.

    Attributes
    ----------
    vectors
        Optical density of each in red, green and blue, of length 1, of shape ``(3, 2)``.
    most
        99th percentile of their concentrations, of shape ``(2,)``.
    """

    vectors: Floats
    most: Floats

    def numbers(self) -> list[float]:
        """Return the six numbers of the vectors, row by row, then the two concentrations."""
        return [*self.vectors.ravel().tolist(), *self.most.tolist()]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Stains:
        """Rebuild them from their numbers."""
        return cls(np.array(numbers[:6]).reshape(3, 2), np.array(numbers[6:]))

    @classmethod
    def typical(cls, found: Sequence[Stains]) -> Stains:
        """Return the mean colour and the median concentration of the stains of several images."""
        vectors = np.mean([one.vectors for one in found], axis=0)
        return cls(vectors / np.linalg.norm(vectors, axis=0), np.median([one.most for one in found], axis=0))


@dataclass(frozen=True, eq=False)
class Colours:
    """Mean and standard deviation of tissue in CIE L*a*b*, each of shape ``(3,)``."""

    mean: Floats
    std: Floats

    def numbers(self) -> list[float]:
        """Return the means, then the deviations."""
        return [*self.mean.tolist(), *self.std.tolist()]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Colours:
        """Rebuild them from their numbers."""
        return cls(np.array(numbers[:3]), np.array(numbers[3:]))

    @classmethod
    def typical(cls, found: Sequence[Colours]) -> Colours:
        """Return the median of the means and of the standard deviations of several images."""
        return cls(np.median([one.mean for one in found], axis=0), np.median([one.std for one in found], axis=0))


# The reference in the published code of the method, which other implementations use too.
MACENKO_REFERENCE = Stains(np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]), np.array([1.9705, 1.0308]))


def macenko_of(image: Image.Image) -> Stains:
    """Return the stains of an image.

    Raises
    ------
    ImageError
        When it has too little tissue to estimate them.

    References
    ----------
    Macenko et al., A method for normalizing histology slides for quantitative analysis, 2009.
    """
    found = _separated(np.asarray(image))
    if found is None:
        raise ImageError("too little tissue to estimate its stains")
    return found[0]


def macenko(image: Image.Image, to: Stains) -> Image.Image:
    """Return an image whose haematoxylin and eosin have the colours and concentrations of ``to``."""
    pixels = np.asarray(image)
    found = _separated(pixels)
    if found is None:
        return image
    stains, concentrations = found
    density = to.vectors @ (concentrations * (to.most / stains.most)[:, None])
    out = WHITE * np.exp(-density)
    return Image.fromarray(np.clip(out.T.reshape(pixels.shape), 0, 255).round().astype(np.uint8))


def _separated(pixels: NDArray[np.uint8]) -> tuple[Stains, Floats] | None:
    """Return the stains of an image, and the concentration of each in every pixel, of shape ``(2, n_pixels)``."""
    density = -np.log((pixels.reshape(-1, 3).astype(np.float64) + 1) / WHITE)
    tissue = density[(density >= CLEAR).all(1)]
    if len(tissue) < LEAST:
        return None
    _, vectors = np.linalg.eigh(np.cov(tissue.T))
    plane = vectors[:, 1:]
    flat = tissue @ plane
    angles = np.arctan2(flat[:, 1], flat[:, 0])
    low, high = np.percentile(angles, (1, 99))
    both: Floats = plane @ np.array([[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])
    both *= np.where(both.sum(0) > 0, 1, -1)
    both = both[:, np.argsort(-both[0])]  # haematoxylin absorbs more red than eosin
    if np.linalg.matrix_rank(both) < 2:
        return None
    concentrations = np.linalg.lstsq(both, density.T, rcond=None)[0]
    most = np.percentile(concentrations, 99, axis=1)
    return (Stains(both, most), np.asarray(concentrations, np.float64)) if (most > 0).all() else None


def reinhard_of(image: Image.Image) -> Colours:
    """Return the mean and standard deviation of the colours of an image's tissue.

    Raises
    ------
    ImageError
        When it has too little tissue to estimate them.

    References
    ----------
    Reinhard et al., Color transfer between images, 2001, here in CIE L*a*b*.
    """
    found = _tissue(np.asarray(image))
    if found is None:
        raise ImageError("too little tissue to estimate its colours")
    return found[2]


def reinhard(image: Image.Image, to: Colours) -> Image.Image:
    """Return an image whose tissue has the means and standard deviations of ``to``; glass is unchanged."""
    from skimage.color import lab2rgb

    found = _tissue(np.asarray(image))
    if found is None:
        return image
    lab, mask, own = found
    lab = lab.copy()
    lab[mask] = (lab[mask] - own.mean) / own.std * to.std + to.mean
    out = np.asarray(image).copy()
    out[mask] = (np.clip(lab2rgb(lab), 0, 1)[mask] * 255).round().astype(np.uint8)
    return Image.fromarray(out)


def _tissue(pixels: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.bool_], Colours] | None:
    from skimage.color import rgb2lab

    mask = np.asarray((-np.log((pixels.astype(np.float64) + 1) / WHITE) >= CLEAR).any(axis=2))
    if mask.sum() < LEAST:
        return None
    lab = np.asarray(rgb2lab(pixels), np.float64)
    std = lab[mask].std(0)
    return (lab, mask, Colours(lab[mask].mean(0), std)) if (std > 0).all() else None
