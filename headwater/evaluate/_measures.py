"""Metrics as functions of validated arrays.

Truth and predictions are boolean, of shape (n_samples,) for one label and (n_samples, n_labels) for several; scores are
float64 of the same shape. Undefined values are NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

N_BINS = 15
"""Number of bins of the expected calibration error."""


def average_precision(truth: Bools, scores: Floats) -> float:
    """Compute the average precision: precision summed over steps of recall, with tied scores as one step."""
    n_positive = int(truth.sum())
    if n_positive == 0 or n_positive == len(truth):
        return float("nan")
    _, place = np.unique(-scores, return_inverse=True)  # highest score first
    gained = np.bincount(place, weights=truth)
    precision = np.cumsum(gained) / np.cumsum(np.bincount(place))
    return float(np.sum(precision * gained) / n_positive)


def macro(metric: Callable[[Bools, Floats], float], truth: Bools, scores: Floats) -> float:
    """Compute the mean of a metric over the labels."""
    return mean_of(np.array([metric(truth[:, label], scores[:, label]) for label in range(truth.shape[1])]))


def mean_of(values: Floats) -> float:
    """Compute a mean; NaN without values."""
    return float(values.mean()) if len(values) else float("nan")


def ece(codes: NDArray[np.int64], probabilities: Floats) -> float:
    """Compute the expected calibration error of the predicted class, in bins that include their upper edge."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == codes
    place, _ = ece_places(confidence)
    # |mean correct - mean confidence| of a bin, weighted by its share of the samples: the bin sizes cancel
    return float(np.abs(np.bincount(place, weights=correct - confidence)).sum() / len(codes))


def ece_places(confidence: Floats) -> tuple[NDArray[np.int64], int]:
    """Return the bin of each confidence, from 0, and the number of bins."""
    # Rounded, since 0.6 is an edge: float32, or computing 1 - 0.4, must not move it to the next bin.
    place = np.ceil((confidence * N_BINS).round(4)).astype(np.int64) - 1
    return np.maximum(place, 0), N_BINS
