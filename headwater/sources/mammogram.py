"""Preprocessing of mammograms: remove the background, crop to the breast, and mirror to one side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

BACKGROUND = 40
"""Pixels darker than this, of 255, count as air."""
LOOKED_AT = 256  # pixels on the longer side of the copy in which the breast is searched


def dark_to_zero(image: Image.Image, threshold: int = BACKGROUND) -> Image.Image:
    """Set pixels whose lightest channel is below ``threshold`` to 0."""
    pixels = np.array(image)
    pixels[pixels.max(2) < threshold] = 0
    return Image.fromarray(pixels)


def breast_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the largest bright region, in pixels; the whole image if there is none.

    Half of Otsu's threshold, on a smaller copy, separates bright pixels from air. Labels and markers are smaller
    regions.

    References
    ----------
    Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops

    scale = max(1.0, max(image.size) / LOOKED_AT)
    small = image.convert("L").resize((max(1, round(image.width / scale)), max(1, round(image.height / scale))))
    grey = np.asarray(small)
    whole = (0, 0, image.width, image.height)
    if grey.min() == grey.max():
        return whole
    # half of Otsu's threshold, since most of a breast is much darker than its densest part; air is darker still
    regions = regionprops(label(grey > threshold_otsu(grey) / 2))
    if not regions:
        return whole
    top, left, bottom, right = max(regions, key=lambda region: region.area).bbox
    return (
        int(left * scale),
        int(top * scale),
        min(image.width, int(np.ceil(right * scale))),
        min(image.height, int(np.ceil(bottom * scale))),
    )


def facing_left(image: Image.Image) -> Image.Image:
    """Mirror an image whose right half is brighter, so that the chest wall is on the left."""
    columns: npt.NDArray[np.float64] = np.asarray(image.convert("L"), np.float64).sum(0)
    half = len(columns) // 2
    if columns[len(columns) - half :].sum() > columns[:half].sum():
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image
