"""The arithmetic of the metrics: each is a function of arrays that are already checked.

Truth and predictions are boolean, of shape (n_samples,) for one label and (n_samples, n_labels) for several; scores are
float64 of the same shape. What is undefined is NaN.
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
    """Sum precision over the steps of recall, equal scores being one step."""
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
    """Compute a mean; NaN of no values."""
    return float(values.mean()) if len(values) else float("nan")


def ece(codes: NDArray[np.int64], probabilities: Floats) -> float:
    """Compute the expected calibration error of the predicted class, in bins that include their upper edge."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == codes
    place, _ = ece_places(confidence)
    # |mean correct - mean confidence| of a bin, weighted with its share of the samples: the sizes cancel
    return float(np.abs(np.bincount(place, weights=correct - confidence)).sum() / len(codes))


def ece_places(confidence: Floats) -> tuple[NDArray[np.int64], int]:
    """Return the bin of each confidence, from 0, and how many bins there are."""
    # Rounded, since 0.6 is an edge: neither float32 nor taking 0.4 from 1 may carry it over.
    place = np.ceil((confidence * N_BINS).round(4)).astype(np.int64) - 1
    return np.maximum(place, 0), N_BINS
