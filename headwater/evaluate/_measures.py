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


def of_each_label(truth: Bools, predicted: Bools) -> tuple[Floats, Floats, Floats]:
    """Compute precision, recall and F1 of each label, of shape (n_labels,); NaN for a label that no row has."""
    n_hits = np.sum(truth & predicted, axis=0).astype(np.float64)
    n_true = np.where(truth.any(axis=0), truth.sum(axis=0), np.nan)
    n_predicted = predicted.sum(axis=0)
    precision = np.where(np.isnan(n_true), np.nan, n_hits / np.maximum(n_predicted, 1))
    return precision, n_hits / n_true, 2 * n_hits / (n_true + n_predicted)


def f1_micro(truth: Bools, predicted: Bools) -> float:
    """Compute F1 over all entries together, as of one label."""
    return float(of_each_label(truth.reshape(-1, 1), predicted.reshape(-1, 1))[2][0])


def auc(truth: Bools, scores: Floats) -> float:
    """Compute the area under the ROC curve: how often a positive is above a negative, equal scores counting half."""
    n_positive = int(truth.sum())
    n_negative = len(truth) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    return float((ranks[truth].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


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
