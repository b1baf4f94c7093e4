"""The scale of images: microns a pixel in a manifest, and those that an encoder was trained on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl

from headwater._words import any_of
from headwater.embed.known import known_of
from headwater.sources import Manifest

COLUMNS = ("mpp", "microns_per_pixel")
TOLERANCE = 0.1
"""Relative difference of two scales that are taken as equal: scanners differ by less."""


def warn_of_scale(table: Manifest, encoder: str) -> str | None:
    """Return a warning if images have other microns a pixel than a known encoder was trained on; None if not.

    Parameters
    ----------
    table
        The manifest; a column ``mpp`` or ``microns_per_pixel`` has the scale of each image.
    encoder
        The encoder's spec.
    """
    known = known_of(encoder)
    column = next((name for name in table.table.columns if name.lower() in COLUMNS), None)
    if known is None or not known.mpp or column is None:
        return None
    scales = table.table[column].cast(pl.Float64, strict=False).drop_nulls().to_numpy()
    scales = scales[np.isfinite(scales) & (scales > 0)]
    fits = np.any([np.abs(scales - mpp) <= TOLERANCE * mpp for mpp in known.mpp], axis=0)
    other = Counter(f"{value:.3g}" for value in scales[~fits])
    if not other:
        return None
    found = any_of([word for word, _ in other.most_common(3)])
    ours = any_of([f"{mpp:g}" for mpp in known.mpp])
    return (
        f"{other.total():,} of {len(scales):,} images have {found} microns a pixel (column {column!r}), but "
        f"{known.name} is meant for {ours}. Cut tiles at that scale, or choose another encoder (headwater encoders)."
    )
