"""Find tissue on the thumbnail of a slide."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

GLASS, TISSUE = 0.05, 0.16
"""Saturation below which all pixels are glass, and above which all are tissue, wherever Otsu's threshold lies: it would
divide noise on an empty slide, and pale from deep stain on one without glass."""
DARK = 0.2
"""Brightness of the brightest channel below which a pixel belongs to a black border or a black pen."""
PEN = 0.1
"""How much red must lie below green, of 1, in a saturated pixel for it to be blue or green ink: stains of tissue, pink,
purple and brown, have more red than green, and pale blue counterstains hardly less."""
PEN_SATURATION = 0.35


def tissue_mask(thumbnail: Image.Image) -> NDArray[np.bool_]:
    """Return where there is tissue, of shape ``(height, width)``.

    Glass is grey or white, so tissue is where the saturation is above Otsu's threshold, within limits. Black borders
    and black pens are too dark, and marks of blue, green and pure red pens have colours that no stain of tissue has;
    both are left out before the threshold is computed. Single pixels are removed and small gaps closed.

    Parameters
    ----------
    thumbnail
        The slide in mode RGB, some 500 to 4,000 pixels long.

    References
    ----------
    Otsu, A threshold selection method from gray-level histograms, 1979. Saturation as the channel: Lu et al.,
    Data-efficient and weakly supervised computational pathology on whole-slide images, 2021.

    Examples
    --------
    >>> picture = Image.new("RGB", (40, 40), (242, 241, 243))
    >>> picture.paste((200, 120, 170), (10, 10, 30, 30))
    >>> mask = tissue_mask(picture)
    >>> bool(mask[20, 20]), bool(mask[2, 2]), float(mask.mean().round(2))
    (True, False, 0.25)
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    pixels = np.asarray(thumbnail.filter(ImageFilter.MedianFilter(3)))
    red, green, blue = (pixels[..., i].astype(np.float32) / 255 for i in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    saturation = np.where(high > 0, (high - low) / np.maximum(high, 1e-6), 0)
    inked = (saturation > PEN_SATURATION) & (red < green - PEN)
    inked |= (saturation > 0.7) & (red > 0.6) & (np.abs(green - blue) < PEN)  # a red pen
    inked = ndimage.binary_dilation(inked, iterations=2)
    usable = ~inked & (high > DARK)
    if not usable.any():
        return np.zeros(usable.shape, np.bool_)
    levels = np.round(saturation * 255).astype(np.uint8)
    some = levels[usable]
    otsu = float(threshold_otsu(some)) / 255 if some.min() < some.max() else 0.0
    mask = usable & (saturation > min(max(otsu, GLASS), TISSUE))
    mask = ndimage.binary_closing(np.pad(mask, 3), iterations=2)[3:-3, 3:-3] & usable
    found: NDArray[np.bool_] = ndimage.binary_opening(mask, np.ones((2, 2), np.bool_))
    return found


def share_of_tissue(
    mask: NDArray[np.bool_], left: NDArray[np.floating[Any]], top: NDArray[np.floating[Any]], side: float
) -> NDArray[np.float32]:
    """Return the share of tissue in squares of a mask.

    Parameters
    ----------
    mask : bool array of shape (height, width)
    left, top : float arrays of shape (n,)
        Upper left corners in pixels of the mask, which need not be whole.
    side
        Side of the squares in pixels of the mask.

    Returns
    -------
    float32 array of shape (n,)
    """
    height, width = mask.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    x0, y0 = np.floor(left + 1e-6).astype(int), np.floor(top + 1e-6).astype(int)
    x0, y0 = np.minimum(x0, width - 1), np.minimum(y0, height - 1)
    x1 = np.clip(np.round(left + side).astype(int), x0 + 1, width)
    y1 = np.clip(np.round(top + side).astype(int), y0 + 1, height)
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    share: NDArray[np.float32] = (inside / ((x1 - x0) * (y1 - y0))).astype(np.float32)
    return share
