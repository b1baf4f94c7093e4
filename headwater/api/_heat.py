"""Relevance of tokens as a picture over the image that they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOR, AGAINST = np.array([215.0, 48.0, 39.0]), np.array([69.0, 117.0, 180.0])  # red and blue, apart for most eyes
STRONGEST = 0.65  # how far the most relevant token hides the image
LEAST_SIDE = 448  # pixels of the picture's shorter side


def as_grid(relevance: NDArray[np.floating[Any]]) -> NDArray[np.float64] | None:
    """Return the relevance of a square grid's tokens as a matrix; None when they make none.

    Examples
    --------
    >>> as_grid(np.arange(4.0)).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    side = math.isqrt(len(relevance))
    return relevance.astype(np.float64).reshape(side, side) if side * side == len(relevance) else None


def seen_region(preprocessing: Mapping[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of an image that an encoder looks at: left, top, right, bottom, in pixels.

    Encoders of timm crop the centre to ``crop_pct`` of the shorter side, those of open_clip to a square, those of
    transformers to ``crop_size`` of ``size``, unless their settings say that they squash the whole image.

    Examples
    --------
    >>> seen_region({"crop_pct": 0.5, "crop_mode": "center"}, 200, 100)
    (75.0, 25.0, 125.0, 75.0)
    >>> seen_region({"resize_mode": "squash"}, 200, 100)
    (0.0, 0.0, 200.0, 100.0)
    """
    short = float(min(width, height))
    if preprocessing.get("crop_mode", "center") == "center" and "crop_pct" in preprocessing:
        side = short * min(float(preprocessing["crop_pct"]), 1.0)
    elif preprocessing.get("resize_mode") == "shortest":
        side = short
    elif preprocessing.get("do_center_crop") and "shortest_edge" in (preprocessing.get("size") or {}):
        crop = preprocessing.get("crop_size") or {}
        side = short * min(float(crop.get("height", 1)) / float(preprocessing["size"]["shortest_edge"]), 1.0)
    else:
        return 0.0, 0.0, float(width), float(height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def heat_map(image: Image.Image, grid: NDArray[np.float64], region: tuple[float, float, float, float]) -> Image.Image:
    """Return the image, grey, under what speaks for the class (red) and against it (blue)."""
    scale = max(1.0, LEAST_SIDE / min(image.size))
    size = round(image.width * scale), round(image.height * scale)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), np.float64)
    left, top, right, bottom = (round(edge * scale) for edge in region)
    most = np.abs(grid).max() or 1.0
    small = Image.fromarray((grid / most).astype(np.float32))
    smooth = np.asarray(small.resize((right - left, bottom - top), Image.Resampling.BICUBIC), np.float64)
    strength = np.zeros(grey.shape)
    strength[top:bottom, left:right] = smooth.clip(-1, 1)
    colour = np.where(strength[..., None] > 0, FOR, AGAINST)
    alpha = STRONGEST * np.abs(strength)[..., None]
    return Image.fromarray((grey[..., None] * (1 - alpha) + colour * alpha).round().astype(np.uint8))
