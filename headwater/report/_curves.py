"""Curves as arrays: ROC and precision-recall curves of each fold with their mean, and Kaplan-Meier curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Kind = Literal["roc", "precision-recall"]
GRID: Floats = np.linspace(0, 1, 201)


@dataclass(frozen=True, eq=False)
class Spread:
    """The curve of each fold, and their mean.

    Attributes
    ----------
    folds
        For each fold with positives and negatives, its points: x and y, float64.
    mean, std : float64, of shape (201,)
        Mean and standard deviation of the folds' curves at each x of `GRID`; std is NaN with one fold.
    areas
        The AUC, or average precision, of each fold.
    """

    folds: Sequence[tuple[Floats, Floats]]
    mean: Floats
    std: Floats
    areas: Floats


def spread(kind: Kind, truths: Sequence[Bools], scores: Sequence[Floats]) -> Spread | None:
    """Return the curves of folds; None if no fold has both positives and negatives.

    Parameters
    ----------
    truths, scores
        For each fold, which of its rows are positive, and their scores, of shape ``(n,)``.

    References
    ----------
    Fawcett, An introduction to ROC analysis, 2006, section 8.1 (vertical averaging). Davis and Goadrich, The
    relationship between precision-recall and ROC curves, 2006: precision-recall curves must not be interpolated
    linearly.
    """
    both = [(t, s) for t, s in zip(truths, scores, strict=True) if t.any() and not t.all()]
    if not both:
        return None
    curve, on_grid, area = _KINDS[kind]
    folds = [curve(t, s) for t, s in both]
    sampled = np.stack([on_grid(x, y) for x, y in folds])
    std = sampled.std(0, ddof=1) if len(folds) > 1 else np.full(len(GRID), np.nan)
    return Spread(folds, sampled.mean(0), std, np.array([area(t, s) for t, s in both]))


def _roc(truth: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Return false and true positive rates, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve

    x, y, _ = roc_curve(truth, scores, drop_intermediate=False)
    return x, y


def _roc_on_grid(x: Floats, y: Floats) -> Floats:
    """Return true positive rates at each false positive rate of the grid; 0 at 0, where curves start."""
    out: Floats = np.interp(GRID, x, y)
    out[0] = 0.0
    return out


def _precision_recall(truth: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Return recall and precision by ascending recall, without the point that scikit-learn adds at recall 0."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, scores)
    return recall[:-1][::-1], precision[:-1][::-1]


def _precision_on_grid(x: Floats, y: Floats) -> Floats:
    """Return the precision at the first threshold that reaches each recall of the grid."""
    place = np.searchsorted(x, GRID - 1e-12)
    out: Floats = y[np.minimum(place, len(y) - 1)]
    return out


def _auc(truth: Bools, scores: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


def _average_precision(truth: Bools, scores: Floats) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, scores))


_KINDS: dict[
    Kind,
    tuple[
        Callable[[Bools, Floats], tuple[Floats, Floats]],
        Callable[[Floats, Floats], Floats],
        Callable[[Bools, Floats], float],
    ],
] = {
    "roc": (_roc, _roc_on_grid, _auc),
    "precision-recall": (_precision_recall, _precision_on_grid, _average_precision),
}


class Steps(NamedTuple):
    """A survival curve with its interval, from time 0 on; NaN where there is no interval."""

    times: Floats
    survival: Floats
    low: Floats
    high: Floats


def at_steps(group: Mapping[str, Any]) -> Steps:
    """Return the steps of a group of the section ``kaplan_meier`` of ``metrics.json``.

    Examples
    --------
    >>> found = at_steps({"times": [2.0], "survival": [0.5], "low": [None], "high": [None]})
    >>> found.times, found.survival
    (array([0., 2.]), array([1. , 0.5]))
    """
    times = np.array([0.0, *group["times"]])
    parts = [np.array([1.0, *group[name]], np.float64) for name in ("survival", "low", "high")]
    return Steps(times, *parts)


def at_risk(group: Mapping[str, Any], time: float) -> int:
    """Return how many rows of a group were followed until just before a time.

    Examples
    --------
    >>> [at_risk({"times": [2.0, 5.0], "at_risk": [7, 3]}, time) for time in (0, 2, 3, 6)]
    [7, 7, 3, 0]
    """
    place = int(np.searchsorted(group["times"], time, side="left"))
    found: int = group["at_risk"][place] if place < len(group["times"]) else 0
    return found
