"""Kaplan-Meier curves of groups by risk, the log-rank test between them, and their hazard ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater._survival import RiskSets
from headwater.evaluate.intervals import LEVEL, Interval
from headwater.evaluate.outcome import Outcome, OutOfFold

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]
NAMES = {2: ("low", "high"), 3: ("low", "middle", "high")}
CUTS = {2: "median", 3: "terciles"}
STEPS = 50
_FAR = 20.0  # a log hazard ratio beyond which there is no finite estimate


class Curve(NamedTuple):
    """A Kaplan-Meier curve: its values from each distinct time on, float64, of shape ``(n_times,)``.

    Attributes
    ----------
    times
        Distinct times of events and of censored rows, ascending.
    survival, low, high
        The probability of no event until then, and its confidence interval; NaN where there is none.
    at_risk
        Rows that were followed until just before.
    events
        Rows with the event then.
    """

    times: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: Rows
    events: Rows

    @property
    def median(self) -> float | None:
        """The first time at which survival is at most one half; None if it stays above."""
        return _first(self.times, self.survival <= 0.5)

    @property
    def median_interval(self) -> list[float | None]:
        """The times at which the ends of the interval fall to one half (Brookmeyer and Crowley, 1982)."""
        return [_first(self.times, self.low <= 0.5), _first(self.times, self.high <= 0.5)]


def _first(times: Floats, where: Bools) -> float | None:
    return float(times[where.argmax()]) if where.any() else None


def kaplan_meier(y: Floats, level: float = LEVEL) -> Curve:
    """Estimate survival by Kaplan and Meier, with Greenwood's variance on the scale of log(-log survival).

    Parameters
    ----------
    y : float64 of shape (n, 2)
        Times and events, of independent rows.
    level
        Confidence level of the interval at each time, not of the whole curve.

    References
    ----------
    Kaplan and Meier, Nonparametric estimation from incomplete observations, 1958. Kalbfleisch and Prentice, The
    Statistical Analysis of Failure Time Data, 2002, section 1.4 (the log-log interval).

    Examples
    --------
    >>> kaplan_meier(np.array([[1.0, 1], [2, 0], [3, 1], [4, 0]])).survival
    array([0.75 , 0.75 , 0.375, 0.375])
    """
    from scipy.special import ndtri  # scipy.stats takes a second to import

    times, place, counts = np.unique(y[:, 0], return_inverse=True, return_counts=True)
    events = np.bincount(place, weights=y[:, 1], minlength=len(times)).astype(np.int64)
    at_risk = np.cumsum(counts[::-1])[::-1].astype(np.int64)
    survival: Floats = np.cumprod(1 - events / at_risk, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(events / (at_risk * (at_risk - events)))
        half = ndtri((1 + level) / 2) * np.sqrt(variance) / np.abs(np.log(survival))
        low, high = survival ** np.exp(half), survival ** np.exp(-half)
    none = (survival == 1) | (survival == 0)
    low, high = np.where(none, np.nan, low), np.where(none, np.nan, high)
    return Curve(times, survival, low, high, at_risk, events)


class LogRank(NamedTuple):
    """The log-rank statistic, chi-squared with ``n_groups - 1`` degrees of freedom, and its p; NaN if undefined."""

    statistic: float
    p: float


def log_rank(y: Floats, groups: Rows) -> LogRank:
    """Test whether groups have the same hazard, by the log-rank test of two or more groups.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        Times and events, of independent rows.
    groups : int64 of shape (n,)
        Codes from 0.

    References
    ----------
    Mantel, Evaluation of survival data and two new rank order statistics, 1966; Peto and Peto, 1972.

    Examples
    --------
    >>> y = np.array([[1.0, 1], [2, 1], [3, 1], [4, 1], [5, 1], [6, 1]])
    >>> round(log_rank(y, np.array([0, 0, 0, 1, 1, 1])).p, 3)
    0.025
    """
    from scipy.special import chdtrc

    k = int(groups.max()) + 1
    times = np.unique(y[y[:, 1] > 0, 0])
    own = groups[:, None] == np.arange(k)
    at_risk = np.stack([_at_risk(y[mine, 0], times) for mine in own.T], axis=1).astype(np.float64)
    events = np.stack([_died(y[mine], times) for mine in own.T], axis=1).astype(np.float64)
    n, d = at_risk.sum(1), events.sum(1)
    share = at_risk / n[:, None]
    gap = (events - d[:, None] * share).sum(0)[1:]
    spread = d * (n - d) / np.maximum(n - 1, 1)
    variance = np.diag((spread[:, None] * share).sum(0)) - (spread[:, None] * share).T @ share
    variance = variance[1:, 1:]
    if k < 2 or np.linalg.matrix_rank(variance) < k - 1:
        return LogRank(float("nan"), float("nan"))
    statistic = float(gap @ np.linalg.solve(variance, gap))
    return LogRank(statistic, float(chdtrc(k - 1, statistic)))


def _at_risk(time: Floats, at: Floats) -> Rows:
    """Return how many times are not before each of ``at``."""
    return len(time) - np.searchsorted(np.sort(time), at, side="left")


def _died(y: Floats, at: Floats) -> Rows:
    """Return the number of events at each of ``at``."""
    time = np.sort(y[y[:, 1] > 0, 0])
    return np.searchsorted(time, at, side="right") - np.searchsorted(time, at, side="left")


class HazardRatio(NamedTuple):
    """A hazard ratio with its confidence interval; NaN without a finite estimate."""

    value: float
    interval: Interval


def hazard_ratio(y: Floats, high: Bools, clusters: Rows, level: float = LEVEL) -> HazardRatio:
    """Estimate the hazard ratio of two groups, by Cox's partial likelihood with Efron's treatment of ties.

    The interval is Lin and Wei's, whose variance is that of sums over clusters, so rows of one patient need not be
    independent; the variance has the factor ``n / (n - 1)`` for n clusters.

    Parameters
    ----------
    y : float64 of shape (n, 2)
        Times and events.
    high : bool of shape (n,)
        The group whose hazard is compared with that of the other rows.
    clusters : int64 of shape (n,)
        Independent groups of rows, such as patients.

    References
    ----------
    Lin and Wei, The robust inference for the Cox proportional hazards model, JASA 84, 1989.
    """
    from scipy.special import ndtri

    none = HazardRatio(float("nan"), Interval(float("nan"), float("nan")))
    if not (y[high, 1].any() and y[~high, 1].any()):
        return none
    sets = RiskSets.of(y)
    x, cluster = high[sets.order].astype(np.float64), clusters[sets.order]
    beta = 0.0
    for _ in range(STEPS):
        mean, _ = _means(sets, x, beta)
        information = float((mean * (1 - mean)).sum())
        if information < 1e-12 or abs(beta) > _FAR:
            return none
        step = float((x[sets.events] - mean).sum()) / information
        beta += float(np.clip(step, -2, 2))
        if abs(step) < 1e-10:
            break
    mean, inverse = _means(sets, x, beta)
    information = float((mean * (1 - mean)).sum())
    pulls = np.bincount(cluster, weights=_residuals(sets, x, beta, mean, inverse))
    n = len(np.unique(cluster))
    if n < 2:
        return HazardRatio(float(np.exp(beta)), Interval(float("nan"), float("nan")))
    half = float(ndtri((1 + level) / 2) * np.sqrt((pulls**2).sum() * n / (n - 1)) / information)
    return HazardRatio(float(np.exp(beta)), Interval(float(np.exp(beta - half)), float(np.exp(beta + half))))


def _means(sets: RiskSets, x: Floats, beta: float) -> tuple[Floats, Floats]:
    """Return the mean of x in the risk set of each event, weighted by hazards, and one over the sum of these."""
    weight = np.exp(beta * x)[None]
    total = sets.totals(weight)[0]
    return sets.totals(weight * x)[0] / total, 1 / total


def _residuals(sets: RiskSets, x: Floats, beta: float, mean: Floats, inverse: Floats) -> Floats:
    """Return each row's contribution to the derivative of the log partial likelihood, in the order of time."""
    until = [np.concatenate([[0.0], np.cumsum(part)])[sets.before] for part in (inverse, mean * inverse)]
    own = np.zeros(len(x))
    own[sets.events] = x[sets.events] - sets.tie_sums(mean[None])[0] / np.bincount(sets.tied)[sets.tied]
    for part, of_events in zip(until, (inverse, mean * inverse), strict=True):
        part[sets.events] -= sets.tie_sums((sets.share * of_events)[None])[0]
    expected: Floats = np.exp(beta * x) * (x * until[0] - until[1])
    return own - expected


def cuts(inside: OutOfFold, n_groups: int) -> Floats:
    """Return the risks at which out-of-fold risks of training rows divide into groups of equal size."""
    found: Floats = np.quantile(inside.scores[:, 0], np.arange(1, n_groups) / n_groups)
    return found


def grouped(risk: Floats, at: Floats) -> Rows:
    """Return the group of each risk, from 0; a risk equal to a cut is in the lower group."""
    return np.searchsorted(at, risk, side="left").astype(np.int64)


def of_outcome(
    outcome: Outcome, y: NDArray[Any], clusters: Rows, thresholds: Sequence[Floats], level: float = LEVEL
) -> dict[str, Any]:
    """Describe the groups by risk of all test rows, for ``metrics.json``; of several seeds, the folds of the first.

    Parameters
    ----------
    clusters : int64 of shape (n,)
        The independent group of each row of ``y``.
    thresholds
        The risks at which each fold's test rows are divided.
    """
    first = outcome.folds[0].split.seed
    folds = [(fold, at) for fold, at in zip(outcome.folds, thresholds, strict=True) if fold.split.seed == first]
    rows = np.concatenate([fold.split.test for fold, _ in folds])
    group = np.concatenate([grouped(fold.scores[:, 0], at) for fold, at in folds])
    found = describe(outcome.truth(y)[rows], group, clusters[rows], len(thresholds[0]) + 1, level)
    return {"thresholds": [at.tolist() for at in thresholds], **found}


def describe(y: Floats, group: Rows, clusters: Rows, n_groups: int, level: float = LEVEL) -> dict[str, Any]:
    """Return curves, the log-rank test and the hazard ratio of the highest group against the lowest."""
    ends = (group == 0) | (group == n_groups - 1)
    ratio = hazard_ratio(y[ends], group[ends] == n_groups - 1, clusters[ends], level)
    present = np.unique(group, return_inverse=True)[1]
    test = log_rank(y, present) if present.max() else LogRank(float("nan"), float("nan"))
    independent = len(np.unique(clusters)) == len(clusters)
    return {
        "cut_at": CUTS[n_groups],
        "level": level,
        "rows_independent": independent,
        "groups": [_described(name, y[group == g], level) for g, name in enumerate(NAMES[n_groups])],
        "log_rank": {"statistic": _plain(test.statistic), "p": _plain(test.p)},
        "hazard_ratio": {
            "value": _plain(ratio.value),
            "low": _plain(ratio.interval.low),
            "high": _plain(ratio.interval.high),
            "of": "high against low",
        },
    }


def _described(name: str, y: Floats, level: float) -> dict[str, Any]:
    curve = kaplan_meier(y, level)
    return {
        "name": name,
        "n": len(y),
        "events": int(y[:, 1].sum()),
        "median": curve.median,
        "median_interval": curve.median_interval,
        "times": curve.times.tolist(),
        "survival": curve.survival.tolist(),
        "low": [_plain(value) for value in curve.low.tolist()],
        "high": [_plain(value) for value in curve.high.tolist()],
        "at_risk": curve.at_risk.tolist(),
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
