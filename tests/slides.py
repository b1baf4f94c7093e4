"""Whole slides made for tests: tiled pyramids of two kinds of tissue on glass."""

from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[2] / "shared" / "data" / "slides"
GLASS = 243


@cache
def pixels(width=1400, height=1000, kind="pink", seed=0):
    """Return uint8 pixels of a slide: an ellipse of tissue on glass, with a texture that differs at every place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.stack([18 * np.sin(x / 9 + seed), 15 * np.cos(y / 7), 12 * np.sin((x + y) / 5)], -1)
    colour = {"pink": (200, 120, 170), "purple": (120, 70, 150)}[kind]
    tissue = np.clip(wave + colour + rng.normal(0, 6, (height, width, 3)), 0, 255)
    inside = ((x - width / 2) / (width * 0.4)) ** 2 + ((y - height / 2) / (height * 0.4)) ** 2 < 1
    return np.where(inside[..., None], tissue, GLASS).astype(np.uint8)


def halved(image):
    """Return an image at half its size, as the mean of four pixels each."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    parts = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return parts.mean((1, 3)).round().astype(np.uint8)


def pyramid(path, image=None, *, mpp=0.25, n_levels=3, below=False, compression=None):
    """Write a tiled pyramidal TIFF, and return its levels; ``below`` puts them into sub-images, as OME-TIFF does."""
    import tifffile

    levels = [pixels() if image is None else image]
    while len(levels) < n_levels:
        levels.append(halved(levels[-1]))
    more = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    shared = {"tile": (256, 256), "photometric": "rgb", "compression": compression, "metadata": None}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels):
            own = {"subifds": n_levels - 1} if below and number == 0 else {}
            file.write(level, **shared, **own, **(more if number == 0 else {}), subfiletype=int(number > 0))
    return levels


class Mean:
    """An encoder that takes no time: the mean colours of sixteen parts of an image."""

    modalities = ("image",)

    def load(self, weights, device):
        pass

    def prepare(self, modality, image):
        return np.asarray(image.resize((4, 4), resample=4), np.float32).ravel() / 255

    def encode(self, modality, batch):
        return np.stack(batch)
