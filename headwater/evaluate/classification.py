"""Metrics of classification, under many weightings of the rows at once.

For the metrics of a run each row has weight 1; a bootstrap has one weighting for each resample. Weights have shape
``(draws, n)``, results ``(draws,)``; undefined values are NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

LEAST = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to at least this, so that one error does not make a loss infinite."""
MOST_CELLS = 64
"""Largest number of cells of a confusion matrix for which all weightings are summed by one matrix product."""


def of_classes(truth: Codes, scores: Floats, weights: Floats) -> dict[str, Floats]:
    """Compute the metrics of a binary or multiclass task.

    Parameters
    ----------
    truth : int64 array of shape (n,)
        The true class, as a column of ``scores``.
    scores : float64 array of shape (n, n_classes)
        Probabilities.
    weights : float64 array of shape (draws, n)
        How often each row counts.

    Returns
    -------
    dict of str to float64 array of shape (draws,)
        ``precision``, ``recall`` and ``f1`` are those of the last class (binary), or macro means (multiclass).
    """
    k = scores.shape[1]
    confusion = _confusion(truth, scores.argmax(1), k, weights)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    of_truth, of_predicted = confusion.sum(2), confusion.sum(1)
    total = weights.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = right / of_truth
        f1 = np.where(of_truth > 0, 2 * right / (of_truth + of_predicted), np.nan)
        hits = np.where(of_predicted > 0, right / of_predicted, 0)
        precision = np.where(of_truth > 0, hits, np.nan)
    loss = -np.log(np.clip(scores[np.arange(len(truth)), truth], LEAST, 1))
    out: dict[str, Floats] = {
        "accuracy": right.sum(1) / total,
        "balanced_accuracy": recall.mean(1),
        "f1_macro": f1.mean(1),
        "log_loss": weights @ loss / total,
    }
    if k == 2:
        out |= {"precision": precision[:, 1], "recall": recall[:, 1], "f1": f1[:, 1]}
        out["auc"] = auc(truth == 1, scores[:, 1], weights)
        out["brier"] = weights @ (scores[:, 1] - truth) ** 2 / total
        return out
    each = np.stack([auc(truth == c, scores[:, c], weights) for c in range(k)], axis=1)
    return out | {
        "precision": precision.mean(1),
        "recall": recall.mean(1),
        "auc": each.mean(1),
        "auc_present": mean_of_present(each),
        "balanced_accuracy_present": mean_of_present(recall),
        "f1_macro_present": mean_of_present(f1),
    }


def of_labels(truth: NDArray[Any], scores: Floats, weights: Floats) -> dict[str, Floats]:
    """Compute the metrics of a multilabel task.

    Parameters
    ----------
    truth : 0/1 or bool array of shape (n, n_labels)
    scores : float64 array of shape (n, n_labels)
        Probabilities; a label above 0.5 is predicted.
    weights : float64 array of shape (draws, n)
        How often each row counts.

    Returns
    -------
    dict of str to float64 array of shape (draws,)
    """
    positive = truth > 0
    predicted = scores > 0.5
    f1, f1_micro = f1_of_labels(positive, predicted, weights)
    each = np.stack([auc(positive[:, c], scores[:, c], weights) for c in range(scores.shape[1])], axis=1)
    repeated = np.repeat(weights, scores.shape[1], axis=1)
    return {
        "auc_macro": each.mean(1),
        "auc_micro": auc(positive.ravel(), scores.ravel(), repeated),
        "f1_macro": f1.mean(1),
        "f1_micro": f1_micro,
        "hamming": weights @ (positive != predicted).mean(1) / weights.sum(1),
        "auc_macro_present": mean_of_present(each),
        "f1_macro_present": mean_of_present(np.where(np.isnan(each), np.nan, f1)),
    }


def f1_of_labels(positive: Bools, predicted: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Compute F1 of each label, of shape ``(draws, n_labels)``, and over all entries together, ``(draws,)``."""
    both = weights @ (positive & predicted)
    of_truth, of_predicted = weights @ positive, weights @ predicted
    with np.errstate(divide="ignore", invalid="ignore"):
        f1: Floats = np.where(of_truth > 0, 2 * both / (of_truth + of_predicted), np.nan)
        there = of_truth.sum(1) > 0
        micro: Floats = np.where(there, 2 * both.sum(1) / (of_truth.sum(1) + of_predicted.sum(1)), np.nan)
    return f1, micro


def mean_of_present(each: Floats) -> Floats:
    """Return the mean over the defined classes or labels, the second axis; NaN if none is defined."""
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(there, each, 0).sum(1) / there.sum(1)
    return means


def _confusion(truth: Codes, predicted: Codes, k: int, weights: Floats) -> Floats:
    """Return the weight of each pair of true and predicted class, of shape ``(draws, k, k)``."""
    cell = truth * k + predicted
    if k * k <= MOST_CELLS:
        cells = weights @ np.eye(k * k)[cell]
    else:
        cells = np.stack([np.bincount(cell, weights=row, minlength=k * k) for row in weights])
    found: Floats = cells.reshape(-1, k, k)
    return found


def auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Compute the area under the ROC curve, the probability that a positive scores above a negative; ties count half.

    NaN if a class has no weight.
    """
    order = np.argsort(scores)
    ordered, truth, w = scores[order], positive[order], weights[:, order]
    of_positive, of_negative = np.where(truth, w, 0.0), np.where(truth, 0.0, w)
    firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(firsts) < len(ordered):  # equal scores are one step
        of_positive, of_negative = (np.add.reduceat(part, firsts, axis=1) for part in (of_positive, of_negative))
    below = np.cumsum(of_negative, axis=1)
    total = below[:, -1].copy()
    below -= of_negative / 2
    pairs = of_positive.sum(1) * total
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(pairs > 0, (of_positive * below).sum(1) / pairs, np.nan)
    return found
