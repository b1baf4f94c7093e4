"""Confidence intervals of proportions, such as an AUC or an accuracy, that are valid near 0 and 1 too.

Percentile and normal intervals are too narrow there: if all patients are classified correctly, so are all in every
resample. Intervals are therefore computed on the logit scale from a standard error. A proportion of exactly 0 or 1 gets
an exact bound, from the probability that so many independent groups are all correct.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.evaluate.measured import Task

_WIDEST = 5.0  # half an interval, in values, above which a log scale says nothing
LEVEL = 0.95
"""Default level of confidence intervals."""

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Interval(NamedTuple):
    """The two ends of a confidence interval; NaN if there is none."""

    low: float
    high: float


Scale = Literal["share", "signed", "positive", "below one", "any", "biased"]
"""The scale on which an interval is symmetric; see `scaled_interval`."""


SCALES: Mapping[str, Scale] = {
    **dict.fromkeys(("kappa", "kappa_quadratic", "pearson", "spearman"), "signed"),
    **dict.fromkeys(("log_loss", "brier", "mae", "rmse", "mae_grades", "rps", "calibration_slope"), "positive"),
    **dict.fromkeys(("calibration_intercept", "calibration_in_the_large"), "any"),
    "r2": "below one",
    "ece": "biased",
}
"""The scale of each metric that is no proportion; the Brier score of two classes is one."""


class Evidence(NamedTuple):
    """The sample sizes behind a metric, and the scale of its interval.

    Attributes
    ----------
    groups
        Number of independent groups in each of its parts: of all rows for an accuracy, of each class for an AUC.
    chances
        Number of independent trials: groups, or for an AUC disjoint pairs of a positive and a negative group. One entry
        for each class or label that it is a mean over.
    scale
        ``"share"`` for proportions.
    """

    groups: tuple[int, ...]
    chances: tuple[int, ...]
    scale: Scale = "share"

    @property
    def n(self) -> float:
        """Effective number of groups of the standard error, at least 2: the harmonic mean over parts."""
        return max(2.0, float(len(self.groups) / (1 / np.array(self.groups, np.float64)).sum()))


def share_interval(value: float, error: float, evidence: Evidence, level: float = LEVEL) -> Interval:
    """Return the confidence interval of a proportion.

    Between 0 and 1 it is ``logit(value) ± t * n / (n - 1) * error / (value * (1 - value))``, transformed back, with t
    of n - 1 degrees of freedom for the n groups of the evidence. The factor n / (n - 1) is that of the jackknife: with
    few groups the standard error is too small, above all if errors come in clusters.

    For a proportion of 1 the lower end is that of Clopper and Pearson for n of n correct, ``(alpha / 2) ** (1 / n)``,
    where n is the evidence's chances (averaged over classes or labels): n disjoint pairs are all ranked correctly with
    probability ``auc ** n``. A proportion of 0 is treated symmetrically.

    Parameters
    ----------
    value
        From 0 to 1.
    error
        Its standard error.
    evidence
        Sample sizes behind it.
    level
        Confidence level, between 0 and 1.

    References
    ----------
    Clopper and Pearson, Biometrika 26, 1934. Pepe, The Statistical Evaluation of Medical Tests, 2003, chapter 5 (the
    logit of an AUC).

    Examples
    --------
    >>> [round(end, 3) for end in share_interval(0.979, 0.012, Evidence((20, 20), (20,)))]
    [0.928, 0.994]
    >>> [round(end, 3) for end in share_interval(1.0, 0.0, Evidence((10, 30), (10,)))]
    [0.692, 1.0]
    """
    from scipy.special import expit, logit, stdtrit  # scipy.stats takes a second to import

    require_level(level)
    if np.isnan(value) or not evidence.groups:
        return Interval(float("nan"), float("nan"))
    if value > 1 - 1e-12 or value < 1e-12:
        bound = float(np.mean(((1 - level) / 2) ** (1 / np.maximum(np.array(evidence.chances, np.float64), 1))))
        return Interval(bound, 1.0) if value > 0.5 else Interval(0.0, 1 - bound)
    n = evidence.n
    half = stdtrit(n - 1, (1 + level) / 2) * n / (n - 1) * error / (value * (1 - value))
    return Interval(float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def scaled_interval(drawn: Floats, evidence: Evidence, level: float = LEVEL) -> Interval:
    """Return the interval of any metric from its resamples, on the scale of its evidence.

    ``"share"``: see `share_interval`. ``"signed"``, such as kappa and correlations, from -1 to 1: as a share, after
    ``(1 + value) / 2``. ``"positive"``, such as losses: value and standard error on a log scale, with the same t
    (if they are too uncertain for that, as for ``"any"``).
    ``"below one"``, such as r2: one minus the value is positive. ``"any"``: value ± t times the standard error.
    ``"biased"``, the calibration error, which is too high in small samples and again in their resamples: the reversed
    percentile interval, which removes that bias once, within 0 and 1.

    Parameters
    ----------
    drawn : float64 array of shape (1 + n_draws,)
        The value, then its resampled values, whose standard deviation is its standard error.
    evidence
        Sample sizes, and the scale.

    References
    ----------
    Davison and Hinkley, Bootstrap methods and their application, 1997, sections 2.2.1 (basic interval) and 5.2.
    """
    from scipy.special import stdtrit

    require_level(level)
    value, kept = float(drawn[0]), drawn[1:][~np.isnan(drawn[1:])]
    if np.isnan(value) or len(kept) < 2 or not evidence.groups:
        return Interval(float("nan"), float("nan"))
    error = float(kept.std(ddof=1))
    if max(evidence.groups) < 2 and not (evidence.scale == "share" and value in (0.0, 1.0)):
        return Interval(float("nan"), float("nan"))  # one group does not show how much groups vary
    if evidence.scale == "share":
        return share_interval(value, error, evidence, level)
    if evidence.scale == "signed":
        if error == 0 and abs(value) < 1:  # such as kappa where all predictions are of one class
            return Interval(float("nan"), float("nan"))
        found = share_interval((1 + value) / 2, error / 2, evidence, level)
        return Interval(2 * found.low - 1, 2 * found.high - 1)
    if evidence.scale == "below one":
        found = scaled_interval(1 - drawn, evidence._replace(scale="positive"), level)
        return Interval(1 - found.high, 1 - found.low)
    if evidence.scale == "biased":
        low, high = np.quantile(2 * value - kept, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1)))
    half = float(stdtrit(evidence.n - 1, (1 + level) / 2)) * evidence.n / (evidence.n - 1) * error
    if evidence.scale == "positive" and half < _WIDEST * value:
        return Interval(float(value * np.exp(-half / value)), float(value * np.exp(half / value)))
    low = value - half
    return Interval(max(low, 0.0) if evidence.scale == "positive" and kept.min() >= 0 else low, value + half)


def mean_share_interval(
    right: Bools, chosen: Bools, groups: Rows, folds: Sequence[Rows], level: float = LEVEL
) -> Interval:
    """Return the confidence interval of a proportion as a mean over folds, such as a sensitivity or a coverage.

    The standard error is that of sums over groups (a linearised ratio), combined over folds.

    Parameters
    ----------
    right : bool array of shape (n,)
        The numerator: which rows are correct.
    chosen : bool array of shape (n,)
        The denominator: positive rows for a sensitivity, all rows for a coverage.
    groups : int64 array of shape (n,)
        Independent groups.
    folds
        The rows of each fold.
    level
        Confidence level.

    References
    ----------
    Cochran, Sampling Techniques, 1977, section 3.12 (proportions in clusters).

    Examples
    --------
    >>> right = np.arange(40) % 10 > 0
    >>> [round(end, 3) for end in mean_share_interval(right, right | True, np.arange(40), [np.arange(40)])]
    [0.748, 0.965]
    """
    parts = [rows[chosen[rows]] for rows in folds]
    parts = [rows for rows in parts if len(rows)]
    if not parts:
        return Interval(float("nan"), float("nan"))
    counts = np.array([len(np.unique(groups[rows])) for rows in parts])
    known = counts > 1
    if not known.any():
        return Interval(float("nan"), float("nan"))
    others = (1 / counts).sum() / (1 / counts[known]).sum()  # scaling for folds with unknown variance
    off = np.zeros(len(right))
    shares = [right[rows].mean() for rows in parts]
    for rows, share, n in zip(parts, shares, counts, strict=True):
        off[rows] += (right[rows] - share) / len(rows) / len(parts) * (others * n / max(n - 1, 1)) ** 0.5
    error = float((np.bincount(groups, weights=off) ** 2).sum() ** 0.5)
    n_groups = (_n_groups(chosen, groups),)
    return share_interval(float(np.mean(shares)), error, Evidence(n_groups, n_groups), level)


def independent_difference(first: float, of_first: Interval, second: float, of_second: Interval) -> Interval:
    """Return the interval of a difference, first minus second, from the intervals of two independent numbers.

    References
    ----------
    Zou and Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008,
    equations 3 and 4.

    Examples
    --------
    >>> [round(end, 3) for end in independent_difference(0.9, Interval(0.8, 0.95), 0.7, Interval(0.6, 0.8))]
    [0.059, 0.312]
    """
    change = first - second
    low = change - np.hypot(first - of_first.low, of_second.high - second)
    high = change + np.hypot(of_first.high - first, second - of_second.low)
    return Interval(float(low), float(high))


def evidence_of(
    task: Task, truth: NDArray[Any], groups: Rows, folds: Sequence[Rows], scores: Floats | None = None
) -> dict[str, Evidence]:
    """Return the evidence of each metric of a task.

    Parameters
    ----------
    truth
        Class numbers ``(n,)``, 0/1 of shape ``(n, n_labels)``, or times and events ``(n, 2)``.
    groups : int64 array of shape (n,)
        Independent groups.
    folds
        The rows of each fold.
    scores : float64 array of shape (n, n_classes), optional
        Of a binary task, for the precision, whose denominator is the rows predicted positive.

    Returns
    -------
    dict of str to Evidence
        Names that end in ``_`` stand for metrics at any sensitivity or specificity; see `evidence_for`.
    """
    if not len(truth):
        return {}
    every = _counted((len(np.unique(groups)),))
    of_scale = {name: every._replace(scale=scale) for name, scale in SCALES.items()}
    if task == "regression":
        return of_scale
    if task == "survival":
        return dict.fromkeys(("c_index", "c_index_uno"), _ordered(truth[:, 1] > 0, groups, folds))
    if task == "multilabel":
        positive: NDArray[np.bool_] = truth > 0
        some: NDArray[np.bool_] = np.asarray(positive.any(1))
        not_all: NDArray[np.bool_] = np.asarray((~positive).any(1))
        labels = [_ranked(positive[:, c], ~positive[:, c], groups, folds) for c in range(truth.shape[1])]
        of_label = _counted(tuple(_n_groups(positive[:, c], groups) for c in range(truth.shape[1])))
        of_some = _counted((_n_groups(some, groups),))
        means = ("auc_macro", "average_precision")
        return {
            **of_scale,
            "auc_micro": _ranked(some, not_all, groups, folds),
            **{f"{name}{end}": _mean_of(labels) for name in means for end in ("", "_present")},
            **{f"{top}f1_micro": of_some for top in ("", "top3_")},
            **{f"{top}f1_macro{end}": of_label for top in ("", "top3_") for end in ("", "_present")},
            **dict.fromkeys(("hamming", "top3_hamming", "top3_1", "top3_2", "top3_3"), every),
        }
    classes = np.unique(truth)
    of_class = _counted(tuple(_n_groups(truth == c, groups) for c in classes))
    ranked = [_ranked(truth == c, truth != c, groups, folds) for c in classes]
    found = {
        **of_scale,
        **dict.fromkeys(("accuracy", "f1_weighted"), every),
        **dict.fromkeys(("balanced_accuracy", "f1_macro"), of_class),
    }
    if task == "binary":
        of_positive, of_negative = (_counted((_n_groups(truth == c, groups),)) for c in (1, 0))
        called = np.ones(len(truth), bool) if scores is None else np.asarray(scores[:, 1] > scores[:, 0])
        return {
            **found,
            **dict.fromkeys(("recall", "f1", "sensitivity_at_"), of_positive),
            **dict.fromkeys(("specificity", "specificity_at_"), of_negative),
            **dict.fromkeys(("auc", "average_precision", "auc_above_"), ranked[-1]),
            "precision": _counted((_n_groups(called, groups),)),
            "brier": every,
        }
    if task == "ordinal":
        cuts = [_ranked(truth >= c, truth < c, groups, folds) for c in classes[1:]]
        return {
            **found,
            "off_by_two": every,
            "balanced_accuracy_present": of_class,
            **dict.fromkeys(("auc_cuts", "auc_cuts_present"), _mean_of(cuts)),
        }
    means = ("auc", "average_precision")
    return {
        **found,
        **dict.fromkeys(("precision", "recall", "balanced_accuracy_present", "f1_macro_present"), of_class),
        "f1_micro": every,
        **{f"{name}{end}": _mean_of(ranked) for name in means for end in ("", "_present")},
        "auc_macro": _mean_of(ranked),
        "auc_micro": _ranked(np.ones(len(truth), bool), np.ones(len(truth), bool), groups, folds),
    }


def evidence_for(metric: str, of: Mapping[str, Evidence]) -> Evidence | None:
    """Return the evidence of a metric, also of one at any sensitivity or specificity; None if there is none."""
    if metric in of:
        return of[metric]
    return next((found for name, found in of.items() if name.endswith("_") and metric.startswith(name)), None)


def require_level(level: float) -> None:
    """Refuse an invalid confidence level."""
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, such as 0.95, but is {level}.")


def _n_groups(chosen: NDArray[np.bool_], groups: Rows) -> int:
    return len(np.unique(groups[chosen]))


def _counted(groups: tuple[int, ...]) -> Evidence:
    there = tuple(n for n in groups if n)
    return Evidence(there, there)


def _ranked(positive: NDArray[np.bool_], negative: NDArray[np.bool_], groups: Rows, folds: Sequence[Rows]) -> Evidence:
    sides = (_n_groups(positive, groups), _n_groups(negative, groups))
    pairs = sum(min(_n_groups(side[rows], groups[rows]) for side in (positive, negative)) for rows in folds)
    return Evidence(sides, (min(pairs, *sides),)) if all(sides) else Evidence((), ())


def _ordered(event: NDArray[np.bool_], groups: Rows, folds: Sequence[Rows]) -> Evidence:
    """Return the evidence of a concordance: groups with an event, and disjoint pairs of such a group and another."""
    n = _n_groups(event, groups)
    pairs = sum(min(_n_groups(event[rows], groups[rows]), len(np.unique(groups[rows])) // 2) for rows in folds)
    return Evidence((n,), (max(1, min(pairs, n)),)) if n else Evidence((), ())


def _mean_of(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(tuple(n for one in parts for n in one.groups), tuple(n for one in parts for n in one.chances))
