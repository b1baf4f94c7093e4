"""Tests and intervals of differences that respect folds and patients.

docs/evaluation.md says which to use. Functions with ``groups`` treat rows of one group (a patient) as dependent, and
groups as independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.errors import InputError
from headwater.evaluate.intervals import LEVEL, Evidence, Interval, share_interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_MOST_EXACT = 300  # most folds for the exact distribution of signed ranks
_MOST_ARRANGEMENTS = 50_000
_N_DRAWN = 20_000


class Comparison(NamedTuple):
    """The result of a test.

    Attributes
    ----------
    statistic
        The test statistic.
    p
        Two-sided p value.
    least_p
        The least attainable p for data of this size, if it matters; else 0.
    """

    statistic: float
    p: float
    least_p: float = 0.0


class AUCs(NamedTuple):
    """Areas under the ROC curve of r models on the same rows.

    Attributes
    ----------
    auc : float64 array of shape (r,)
        With folds, the mean over the folds with both classes.
    covariance : float64 array of shape (r, r)
    left_out : int64 array of shape (r,)
        Number of each model's folds that lack a class and are not used.
    pairs : int64 array of shape (r,)
        Number of disjoint pairs of a positive and a negative group within folds, which are independent trials.
    groups : int64 array of shape (2,)
        Number of groups with positives, and with negatives.
    """

    auc: Floats
    covariance: Floats
    left_out: Integers
    pairs: Integers
    groups: Integers

    def interval(self, model: int = 0, level: float = LEVEL) -> Interval:
        """Return the confidence interval of a model's AUC, on the logit scale; see `share_interval`."""
        evidence = Evidence(tuple(self.groups.tolist()), (int(self.pairs[model]),))
        return share_interval(float(self.auc[model]), float(self.covariance[model, model] ** 0.5), evidence, level)


# Tests on rows: two or more models on the same test rows


def delong(
    truth: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None, folds: ArrayLike | None = None
) -> AUCs:
    """Estimate the AUC of each model and their covariance, without resampling.

    With folds, each fold's scores come from another fit, so scores are compared only within a fold: the AUC is the mean
    over folds, and its variance is combined from the folds. A fold with only one group of a class gives no variance; it
    is assumed to be as variable as the others.

    Parameters
    ----------
    truth : bool array of shape (n_samples,)
        Which rows are positive.
    scores : float array of shape (r, n_samples)
        Scores of r models.
    groups : array of shape (n_samples,), optional
        Groups of correlated rows. By default rows are independent.
    folds : array of shape (n_samples,) or (r, n_samples), optional
        The fold that tested each row, for all models or for each. By default all rows are one test set.

    Raises
    ------
    InputError
        When no fold has at least two groups with positives, or none at least two with negatives.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; for groups Obuchowski, Biometrics 53, 1997, section 2, with
    ``n / (n - 1)`` of each class's groups in its covariance between the classes too. LeDell, Petersen and van der Laan,
    Electronic Journal of Statistics 9, 2015, for the mean over folds.

    Examples
    --------
    >>> delong([0, 0, 1, 1], [[0.1, 0.4, 0.35, 0.8]]).auc
    array([0.75])

    The same order in both folds, but scores of the second are higher:

    >>> found = delong([0, 1, 0, 1, 0, 1, 0, 1], [[1, 2, 1, 2, 5, 6, 5, 6]], folds=[0, 0, 0, 0, 1, 1, 1, 1])
    >>> found.auc, found.pairs
    (array([1.]), array([4]))
    """
    positive, values = np.asarray(truth, bool), np.atleast_2d(np.asarray(scores, np.float64))
    if np.isnan(values).any():
        raise InputError("scores are NaN: a model did not converge.")
    n = len(positive)
    cluster = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    fold = np.zeros(n, np.int64) if folds is None else np.unique(np.asarray(folds), return_inverse=True)[1]
    fold_of = np.broadcast_to(fold.reshape(-1, n), values.shape)
    found = [_mean_auc(row, positive, cluster, own) for row, own in zip(values, fold_of, strict=True)]
    of_groups = np.stack([np.bincount(cluster, weights=one.influence) for one in found])
    return AUCs(
        np.array([one.auc for one in found]),
        np.asarray(of_groups @ of_groups.T, np.float64),
        np.array([one.left_out for one in found]),
        np.array([one.pairs for one in found]),
        np.array([len(np.unique(cluster[positive])), len(np.unique(cluster[~positive]))]),
    )


def compare_aucs(found: AUCs, first: int = 0, second: int = 1) -> Comparison:
    """Test whether two models have the same AUC.

    If the difference has no variance (two AUCs of 0 or 1), p is that of a sign test: as many coin tosses as there are
    independent pairs of a positive and a negative group, all with the same outcome.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988, section 4: a normal statistic.
    """
    from scipy.stats import norm

    contrast = np.zeros(len(found.auc))
    contrast[[first, second]] = 1, -1
    variance = float(contrast @ found.covariance @ contrast)
    difference = float(contrast @ found.auc)
    if variance <= 1e-16:
        return _certain(difference, int(found.pairs[[first, second]].min()))
    z = difference / variance**0.5
    return Comparison(z, float(2 * norm.sf(abs(z))))


def mcnemar(first: ArrayLike, second: ArrayLike) -> Comparison:
    """Test whether two models have the same accuracy, on independent rows.

    Parameters
    ----------
    first, second : bool arrays of shape (n_samples,)
        Whether each model is correct.

    Returns
    -------
    Comparison
        The statistic is the number of rows that only the first gets right minus those that only the second gets right;
        p is exact, from the binomial distribution of the rows in which they differ.

    References
    ----------
    McNemar, Psychometrika 12, 1947.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_first + only_second
    if n == 0:
        return Comparison(0.0, 1.0, 1.0)
    p = float(binomtest(only_first, n).pvalue)
    return Comparison(float(only_first - only_second), p, min(1.0, 2.0 ** (1 - n)))


# Tests over folds: one number per fold for each model


def wilcoxon(first: ArrayLike, second: ArrayLike) -> Comparison:
    """Test whether two models differ over folds, by the signed ranks of their differences.

    Folds without a difference are left out; ties share their mean rank. p is exact, over all signs of the differences.
    ``least_p`` is the least attainable p of n folds: 0.0625 for five folds, which can never reach 0.05.

    Parameters
    ----------
    first, second : float arrays of shape (n_folds,)
        A metric of each model in each fold.

    Returns
    -------
    Comparison
        The statistic is the smaller of the two sums of ranks.

    References
    ----------
    Wilcoxon, Biometrics Bulletin 1, 1945. Streitberg and Röhmel, Statistical Software Newsletter 12, 1986: the exact
    distribution with ties, one difference after the other.

    Examples
    --------
    >>> found = wilcoxon([0.9, 0.8, 0.7, 0.9, 0.8], [0.8, 0.7, 0.6, 0.8, 0.7])
    >>> found.p, found.least_p
    (0.0625, 0.0625)
    """
    from scipy.stats import norm, rankdata

    difference = _paired(first, second).round(12)
    difference = difference[difference != 0]
    n = len(difference)
    if n == 0:
        return Comparison(0.0, 1.0, 1.0)
    doubled = (2 * rankdata(np.abs(difference))).astype(np.int64)  # whole numbers, with ties too
    above = int(doubled[difference > 0].sum())
    smaller = min(above, int(doubled.sum()) - above)
    least = 2.0 ** (1 - n)
    if n <= _MOST_EXACT:
        p = 2 * float(_signed_sums(doubled)[: smaller + 1].sum())
    else:
        spread = float(np.sqrt((doubled**2).sum() / 4))
        p = 2 * float(norm.cdf((smaller + 1 - doubled.sum() / 2) / spread))  # continuity correction
    return Comparison(smaller / 2, float(np.clip(p, least, 1)), least)


def _signed_sums(ranks: Integers) -> Floats:
    """Return the probability of each sum, from 0, of positive ranks under random signs."""
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1
    reached = 0
    for rank in ranks.tolist():
        moved = chance[: reached + 1] / 2
        chance[: reached + 1] = moved
        chance[rank : rank + reached + 1] += moved
        reached += rank
    return chance


def corrected_t(first: ArrayLike, second: ArrayLike, test_to_train: float) -> Comparison:
    """Test whether two procedures differ over folds, corrected for training rows that folds share.

    If all folds differ by the same amount, t is undefined, and p is that of a sign test with n equal outcomes.

    Parameters
    ----------
    first, second : float arrays of shape (n_folds,)
        A metric of each procedure in each fold.
    test_to_train
        Ratio of test rows to training rows of a fold: 1 / (k - 1) in k-fold cross-validation.

    References
    ----------
    Nadeau and Bengio, Inference for the generalization error, Machine Learning 52, 2003, section 5.3: the variance of
    the mean is taken as ``(1 / n + test_to_train)`` times that of the differences, with n - 1 degrees of freedom.
    """
    from scipy.stats import t as student

    difference = _paired(first, second)
    n = len(difference)
    error = _corrected_error(difference, test_to_train)
    if error <= 1e-12:
        return _certain(float(difference.mean()), n)
    statistic = float(difference.mean()) / error
    return Comparison(statistic, float(2 * student.sf(abs(statistic), n - 1)))


def corrected_t_interval(
    first: ArrayLike, second: ArrayLike, test_to_train: float, level: float = LEVEL
) -> tuple[float, float]:
    """Return the confidence interval of the difference that `corrected_t` tests, first minus second.

    Examples
    --------
    >>> [round(end, 3) for end in corrected_t_interval([0.9, 0.8, 0.85], [0.7, 0.75, 0.7], 0.5)]
    [-0.167, 0.433]
    """
    from scipy.stats import t as student

    difference = _paired(first, second)
    half = student.ppf((1 + level) / 2, len(difference) - 1) * _corrected_error(difference, test_to_train)
    return float(difference.mean() - half), float(difference.mean() + half)


def _corrected_error(difference: Floats, test_to_train: float) -> float:
    """Return the standard error of the mean of differences over folds."""
    n = len(difference)
    if n < 2:
        raise InputError("a t test over folds needs at least two folds.")
    return float(((1 / n + test_to_train) * difference.var(ddof=1)) ** 0.5)


class Ranks(NamedTuple):
    """The result of a comparison of many models.

    Attributes
    ----------
    test
        The test that they do not differ.
    mean_rank
        Mean ranks, of shape ``(n_models,)``; 1 is the best.
    p
        Two-sided p of each pair, of shape ``(n_models, n_models)``, corrected for the number of pairs.
    """

    test: Comparison
    mean_rank: Floats
    p: Floats


def friedman(values: ArrayLike) -> Ranks:
    """Compare many models over folds, or over data sets, by their ranks.

    p comes from permutations of the models within each fold: all permutations if there are few, else 20,000 random
    ones. ``least_p`` is the least attainable p.

    Parameters
    ----------
    values : float array of shape (n_folds, n_models)
        A metric; higher is better.

    References
    ----------
    Friedman, JASA 32, 1937; Nemenyi's post-hoc test, as in Demšar, JMLR 7, 2006, section 3.2.2.

    Examples
    --------
    >>> found = friedman([[0.9, 0.8, 0.7], [0.8, 0.7, 0.6]])
    >>> round(found.test.p, 4), round(found.test.least_p, 4)
    (0.1667, 0.1667)
    """
    from scipy.stats import rankdata, studentized_range

    table = np.asarray(values, np.float64)
    if table.ndim != 2 or table.shape[1] < 3 or len(table) < 2:
        raise InputError("the Friedman test needs at least three models and two folds.")
    if np.isnan(table).any():
        raise InputError("the Friedman test needs a number for every model in every fold.")
    n, k = table.shape
    ranks = rankdata(-table.round(12), axis=1)
    mean = ranks.mean(0)
    if (ranks == ranks[:, :1]).all():
        return Ranks(Comparison(0.0, 1.0, 1.0), mean, np.ones((k, k)))
    spread = ranks.var(axis=1, ddof=1).mean()
    test = Comparison(float(n * ((mean - mean.mean()) ** 2).sum() / spread), *_permuted(ranks))
    distance = np.abs(mean[:, None] - mean[None]) / (k * (k + 1) / (6 * n)) ** 0.5
    p = studentized_range.sf(distance * 2**0.5, k, np.inf)
    np.fill_diagonal(p, 1.0)
    return Ranks(test, mean, np.clip(p, 0, 1))


def _permuted(ranks: Floats) -> tuple[float, float]:
    """Return the permutation p of the ranks, and the least attainable p."""
    n, k = ranks.shape
    found = (ranks.sum(0) ** 2).sum() - 1e-9
    if math.factorial(k) ** (n - 1) <= _MOST_ARRANGEMENTS:  # the first fold can stay fixed
        every = np.array(list(permutations(range(k))))
        sums = ranks[:1]
        for row in ranks[1:]:
            sums = (sums[:, None] + row[every][None]).reshape(-1, k)
        squares = (sums**2).sum(1)
        return float((squares >= found).mean()), float((squares >= squares.max() - 1e-9).mean())
    drawn = np.random.default_rng(0).permuted(np.broadcast_to(ranks, (_N_DRAWN, n, k)), axis=2)
    n_as_far = int(((drawn.sum(1) ** 2).sum(1) >= found).sum())
    return (1 + n_as_far) / (1 + _N_DRAWN), 1 / (1 + _N_DRAWN)


# Corrections for many tests


def holm(p: ArrayLike) -> Floats:
    """Adjust p values to control the family-wise error rate.

    NaN, for tests that could not be made, stays NaN and is not counted.

    References
    ----------
    Holm, Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    return _adjusted(p, lambda ordered: np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)))


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjust p values to control the false discovery rate.

    NaN, for tests that could not be made, stays NaN and is not counted.

    References
    ----------
    Benjamini and Hochberg, JRSS B 57, 1995.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    from scipy.stats import false_discovery_control

    return _adjusted(p, false_discovery_control)


def _adjusted(p: ArrayLike, of_ascending: Callable[[Floats], Floats]) -> Floats:
    values = np.asarray(p, np.float64)
    if values.ndim != 1 or (values < 0).any() or (values > 1).any():
        raise InputError("p values must be numbers from 0 to 1.")
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    out = np.full(len(values), np.nan)
    out[order] = np.minimum(of_ascending(values[order]), 1.0)
    return out


# Shared


class _MeanAUC(NamedTuple):
    """The mean AUC of one model over its folds; its variance is the sum of squared sums of ``influence`` by group."""

    auc: float
    influence: Floats
    left_out: int
    pairs: int


def _mean_auc(scores: Floats, positive: NDArray[np.bool_], cluster: Integers, fold: Integers) -> _MeanAUC:
    parts = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    both = [rows for rows in parts if positive[rows].any() and not positive[rows].all()]
    sides = (positive, ~positive)
    n_groups = np.array([[len(np.unique(cluster[rows[side[rows]]])) for rows in both] for side in sides])
    if not both or not (n_groups > 1).any(1).all():
        here, there = n_groups.max(1) if both else [len(np.unique(cluster[side])) for side in sides]
        where = "" if len(parts) == 1 else " of one fold"
        raise InputError(
            f"an interval of the AUC needs at least two groups of each class{where}, but there are {here} with "
            f"positives and {there} with negatives."
        )
    influence = np.zeros(len(scores))
    aucs = []
    for rows in both:
        # the share of the other class that each row is ranked correctly against; ties count half
        wins = _placements(scores[rows], positive[rows])
        aucs.append(wins[positive[rows]].mean())
        influence[rows] = (wins - aucs[-1]) / len(both)
    for side, counts in zip(sides, n_groups, strict=True):
        known = counts > 1
        others = (1 / counts).sum() / (1 / counts[known]).sum()  # scaling for folds with unknown variance
        for rows, count in zip(both, counts, strict=True):
            of_class = rows[side[rows]]
            influence[of_class] *= (others * count / max(count - 1, 1)) ** 0.5 / len(of_class)
    return _MeanAUC(float(np.mean(aucs)), influence, len(parts) - len(both), int(n_groups.min(0).sum()))


def _placements(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Return, for each row, the share of the other class that it is ranked correctly against; ties count half."""
    out = np.empty(len(scores))
    for side, sign in ((positive, 1), (~positive, -1)):
        others = np.sort(sign * scores[~side])
        own = sign * scores[side]
        below = np.searchsorted(others, own, side="left") + np.searchsorted(others, own, side="right")
        out[side] = below / (2 * len(others))
    return out


def _certain(difference: float, n: int) -> Comparison:
    """Return a sign test of a difference that is the same in all of ``n`` independent parts."""
    if abs(difference) < 1e-12:
        return Comparison(0.0, 1.0)
    least = min(1.0, 2.0 ** (1 - n))
    return Comparison(float(np.copysign(np.inf, difference)), least, least)


def _paired(first: ArrayLike, second: ArrayLike) -> Floats:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise InputError(f"two models need one number per fold each, but have shapes {a.shape} and {b.shape}.")
    if np.isnan(a).any() or np.isnan(b).any():
        raise InputError("a metric is undefined in some fold, but tests over folds need a number in each.")
    difference: Floats = a - b
    return difference


def pairs(n: int) -> Sequence[tuple[int, int]]:
    """Return all pairs of n indices, each once."""
    return [(i, j) for i in range(n) for j in range(i + 1, n)]
