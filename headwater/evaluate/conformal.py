"""Conformal prediction sets, which hold the true class with a given probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.evaluate._limits import limit_for_new

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


NEVER = 2.0
"""A least probability that no label reaches: the sets are empty, since rows without labels keep the risk low."""


@dataclass(frozen=True)
class PredictionSets:
    """A rule that gives each row its set of plausible classes.

    Attributes
    ----------
    least
        The least probability of each class to be in the set. Minus infinity for a class that is always in the set,
        because there were too few rows to exclude it.
    """

    least: tuple[float, ...]

    def __call__(self, scores: Floats) -> Bools:
        """Return which classes are in the set of each row, bool, of shape ``(n_samples, n_classes)``."""
        return scores >= np.array(self.least)

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return plain JSON values; null for a class that is always in the set."""
        return {"least": [None if np.isinf(p) else p for p in self.least]}


def fit_sets(
    truth: Integers, scores: Floats, alpha: float, *, per_class: bool = False, groups: NDArray[Any] | None = None
) -> PredictionSets:
    """Fit prediction sets that miss the true class in at most a share ``alpha`` of new rows.

    Split conformal prediction with the score ``1 - p(true class)``: if new rows and these are exchangeable, a set holds
    the true class with probability at least ``1 - alpha``, for any head [1]_. Among sets from the same probabilities
    these are the smallest on average, and may be empty [2]_.

    Parameters
    ----------
    truth : int64 array of shape (n_samples,)
        Class numbers.
    scores : float64 array of shape (n_samples, n_classes)
        Probabilities of rows that the head did not see.
    alpha
        Between 0 and 1.
    per_class
        Whether the coverage holds for each class separately [2]_.
    groups : array of shape (n_samples,), optional
        Groups of dependent rows, such as patients. The coverage then holds for rows of new groups, and each group has
        the same weight; see `headwater.evaluate._limits.limit_for_new`.

    References
    ----------
    .. [1] Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; also Romano, Sesia and Candès,
       Classification with valid and adaptive coverage, NeurIPS 2020, section 1.
    .. [2] Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error levels, JASA 114, 2019,
       theorem 1 and section 2.2.

    Examples
    --------
    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    >>> fit_sets(np.array([0, 0, 0, 1]), scores, 0.4).least
    (0.7, 0.7)
    """
    require_alpha(alpha)
    of_truth = scores[np.arange(len(truth)), truth]
    n_classes = scores.shape[1]
    every = [truth == c for c in range(n_classes)] if per_class else [np.ones(len(truth), bool)]
    least = [limit_for_new(of_truth[rows], 1 - alpha, None if groups is None else groups[rows]) for rows in every]
    return PredictionSets(tuple(least if per_class else least * n_classes))


def fit_label_sets(truth: Integers, scores: Floats, alpha: float, groups: NDArray[Any] | None = None) -> PredictionSets:
    """Fit sets of labels that miss, on average over new rows, at most a share ``alpha`` of a row's true labels.

    Conformal risk control of the false-negative rate: one threshold for all labels, the highest whose risk stays below
    ``alpha``. A row without any label misses none, so where most rows
    have none the sets may be empty.

    Parameters
    ----------
    truth : 0/1 array of shape (n_samples, n_labels)
    scores : float64 array of shape (n_samples, n_labels)
        Probabilities of rows that the head did not see.
    alpha
        Between 0 and 1.
    groups : array of shape (n_samples,), optional
        Groups of dependent rows, such as patients: the rate then holds for rows of new groups.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei and Schuster, Conformal risk control, ICLR 2024, theorem 1 and section 4.2.

    Examples
    --------
    >>> truth, scores = np.eye(3, dtype=int), np.array([[0.9, 0.1, 0.2], [0.3, 0.7, 0.1], [0.2, 0.2, 0.4]])
    >>> fit_label_sets(truth, scores, 0.5).least
    (0.7, 0.7, 0.7)
    """
    require_alpha(alpha)
    rows, columns = np.nonzero(truth)
    n_labels = truth.sum(1)
    without = np.flatnonzero(n_labels == 0)
    values = np.concatenate([scores[rows, columns], np.full(len(without), np.inf)])
    weights = np.concatenate([1 / n_labels[rows], np.ones(len(without))])
    of_row = np.arange(len(truth)) if groups is None else groups
    limit = limit_for_new(values, 1 - alpha, np.concatenate([of_row[rows], of_row[without]]), weights)
    limit = min(limit, NEVER)
    return PredictionSets((limit,) * scores.shape[1])


def label_coverage(truth: Integers, sets: Bools) -> dict[str, float]:
    """Compute the share of true labels that sets miss, mean over rows, and the size of the sets.

    Returns
    -------
    dict of str to float
        ``missed``, ``mean_size`` and ``empty``, the share of sets without any label. NaN without rows.

    Examples
    --------
    >>> label_coverage(np.array([[1, 1], [0, 1]]), np.array([[True, False], [True, True]]))
    {'missed': 0.25, 'mean_size': 1.5, 'empty': 0.0}
    """
    if len(truth) == 0:
        return dict.fromkeys(("missed", "mean_size", "empty"), float("nan"))
    sizes = sets.sum(1)
    return {
        "missed": float(missed_labels(truth, sets).mean()),
        "mean_size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
    }


def missed_labels(truth: Integers, sets: Bools) -> Floats:
    """Return the share of each row's true labels that its set lacks, of shape ``(n,)``; 0 for a row without labels."""
    found: Floats = ((truth > 0) & ~sets).sum(1) / np.maximum(truth.sum(1), 1)
    return found


def coverage(truth: Integers, sets: Bools) -> dict[str, float]:
    """Compute the coverage and size of prediction sets.

    Returns
    -------
    dict of str to float
        ``coverage``, ``mean_size``, and ``empty`` and ``single``, the shares of sets with no class and with one. NaN
        without rows.

    Examples
    --------
    >>> coverage(np.array([0, 1]), np.array([[True, False], [True, True]]))
    {'coverage': 1.0, 'mean_size': 1.5, 'empty': 0.0, 'single': 0.5}
    """
    if len(truth) == 0:
        return dict.fromkeys(("coverage", "mean_size", "empty", "single"), float("nan"))
    sizes = sets.sum(1)
    return {
        "coverage": float(sets[np.arange(len(truth)), truth].mean()),
        "mean_size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
        "single": float((sizes == 1).mean()),
    }


def require_alpha(alpha: float) -> None:
    """Refuse an error rate that is not between 0 and 1."""
    if not 0 < alpha < 1:
        raise InputError(f"--conformal {alpha:g}: must be between 0 and 1, such as 0.1 for sets with 90 % coverage.")
