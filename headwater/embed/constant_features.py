"""Warnings for features that are nearly the same for all items, with a check of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._words import counted
from headwater.embed import Content, Encoder, keys_of
from headwater.errors import ImageError
from headwater.store import STORED, Data, Features

ALIKE = 0.9999
"""Mean cosine between items above which features count as nearly the same; 0.8 to 0.99 is usual for one tissue."""
SUSPECT = 0.9
"""Mean cosine above which the images are checked."""
LEAST_LEVELS = 32
"""Least difference between the darkest and the brightest level of images, of 255."""
MOST_ITEMS, MOST_IMAGES = 256, 8


def mean_cosine(X: NDArray[Any]) -> float:
    """Return the mean cosine between any two rows of ``X``, of shape ``(n, dim)``; NaN for fewer than two rows.

    Rows of zeros count as equal to each other and as orthogonal to all other rows.
    """
    rows = np.asarray(X, np.float64)
    norms = np.linalg.norm(rows, axis=1)
    zeros = norms == 0
    units = rows[~zeros] / norms[~zeros, None]
    n, n_zeros = len(rows), int(zeros.sum())
    total = float(np.sum(units.sum(0) ** 2)) - len(units) + n_zeros * (n_zeros - 1)
    return total / (n * (n - 1)) if n > 1 else float("nan")


def spread(n: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` of the numbers below ``n``, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.empty(0, np.int64)


@dataclass(frozen=True)
class Levels:
    """The darkest and the brightest level of images, 0 to 255, after the steps before the encoder."""

    darkest: int
    brightest: int
    n_images: int

    @property
    def narrow(self) -> bool:
        """Whether they differ by too few levels to show structure."""
        return self.brightest - self.darkest < LEAST_LEVELS

    def __str__(self) -> str:
        return f"levels of {counted(self.n_images, 'image')}: darkest {self.darkest}, brightest {self.brightest} of 255"

    def advice(self) -> str:
        """Say what to do when features are nearly the same."""
        if not self.narrow:
            return "The images differ. Try another --layer or --pooling, and check the weights."
        if self.brightest < LEAST_LEVELS:
            return (
                "The images are nearly black. If they hold 12-bit samples in 16-bit files, pass --step bits=12; "
                "if they are DICOM, --step window=minmax; otherwise check how they were exported."
            )
        if self.darkest > 255 - LEAST_LEVELS:
            return (
                "The images are nearly white. Transparent pixels become white: if there are any, export the images "
                "without transparency; otherwise check the exposure."
            )
        return "The images have hardly any contrast. Check how they were exported."


def levels_of(encoder: Encoder[Any], contents: Sequence[Content]) -> Levels | None:
    """Return the levels of some images, after the steps before the encoder; None if no image can be read."""
    found = []
    for i in spread(len(contents), MOST_IMAGES).tolist():
        try:
            found.append(np.array(encoder.image_of(contents[i]).getextrema()))
        except ImageError:
            continue
    return Levels(int(np.min(found)), int(np.max(found)), len(found)) if found else None


def warn_of_alike(features: Features, encoder: Encoder[Any], contents: Sequence[Content]) -> str | None:
    """Return a warning if the features of items are nearly the same, or their images have hardly any contrast."""
    rows = features.rows_of(keys_of(contents))
    stored = np.flatnonzero(np.where(rows >= 0, features.status[rows] == STORED, False))
    chosen = stored[spread(len(stored), MOST_ITEMS)]
    cosine = mean_cosine(features.pooled[np.sort(rows[chosen])])
    if not cosine > SUSPECT:
        return None
    of_images = features.spec.modality != "text"
    levels = levels_of(encoder, [contents[int(i)] for i in chosen]) if of_images else None
    if cosine < ALIKE and (levels is None or not levels.narrow):
        return None
    seen = "" if levels is None else f"; {levels}"
    advice = "Try another --layer or --pooling, and check the texts." if levels is None else levels.advice()
    return f"{features.name}: items are nearly the same (mean cosine {cosine:.4f}{seen}). {advice}"


def warnings_of_inputs(data: Data) -> list[str]:
    """Return a warning for each input whose vectors are nearly the same for all samples."""
    found = []
    for name, X in data.inputs.items():
        if len(getattr(X, "shape", ())) != 2:
            continue  # tokens, or bags
        there = np.flatnonzero(data.present[name]) if name in data.present else np.arange(len(X))
        cosine = mean_cosine(np.asarray(X[there[spread(len(there), MOST_ITEMS)]]))
        if cosine >= ALIKE:
            advice = (
                "Check the texts, and try another --layer or --pooling"
                if name.endswith("/text")
                else "Check the images: nearly black or white ones give such features. Embed 12-bit samples in 16-bit "
                "files with --step bits=12, and dark DICOM with --step window=minmax"
            )
            found.append(
                f"{name}: samples have nearly the same features (mean cosine {cosine:.4f}), so a head can hardly tell "
                f"them apart. {advice}"
            )
    return found
