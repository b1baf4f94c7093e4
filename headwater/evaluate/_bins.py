"""Bins of confidence, for calibration errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BINS = 15
"""Number of bins of the expected calibration error."""


def ece_places(confidence: Floats) -> tuple[NDArray[np.int64], int]:
    """Return the bin of each confidence, from 0, and the number of bins; bins include their upper edge."""
    # Rounded, since 0.6 is an edge: float32, or computing 1 - 0.4, must not move it to the next bin.
    place = np.ceil((confidence * N_BINS).round(4)).astype(np.int64) - 1
    return np.maximum(place, 0), N_BINS
