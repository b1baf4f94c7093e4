"""Bootstrap intervals by patient: of a metric, and of the difference between two models.

Groups of each fold's test rows are resampled with replacement; a metric is the mean over folds, as reported. The
interval of a proportion uses the standard error of the resamples, see `headwater.evaluate.intervals`. All resamples are
computed together: a resample is a weight for every group, so that most metrics are products with one weight matrix.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater._checks import require_whole
from headwater.evaluate._weightings import Weightings
from headwater.evaluate.intervals import LEVEL, Evidence, Interval, require_level, scaled_interval
from headwater.evaluate.measured import METRICS, Task, measured

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Found = TypeVar("Found")
ROWS_AT_ONCE = 1_000_000  # weights (rows times resamples) computed at once by a thread
N_DRAWS, LEAST_DRAWS = 2000, 100
"""Default number of resamples, and the least that intervals are read from."""
DEFAULT_METRIC: Mapping[Task, str] = {
    "binary": "auc",
    "multiclass": "auc",
    "multilabel": "auc_macro",
    "regression": "r2",
    "survival": "c_index",
    "ordinal": "kappa_quadratic",
}
PRESENT = "_present"
"""Suffix of a mean over only the classes or labels present in the test rows; a mean over all may be undefined."""


def default_metric(task: Task, means: Sequence[Mapping[str, float | None]]) -> str:
    """Return the default metric for comparing models, given the means they report.

    The AUC (macro for several labels), over the classes or labels present in the test rows if it is undefined over all;
    r2 for regression; c_index for survival; the quadratic kappa for grades.
    """
    name = DEFAULT_METRIC[task]
    if all(mean.get(name) is not None for mean in means) or name + PRESENT not in METRICS[task]:
        return name
    return name + PRESENT


def require_draws(n_draws: int) -> None:
    """Raise `InputError` for too few resamples."""
    require_whole("--draws", n_draws, LEAST_DRAWS)


@dataclass(frozen=True)
class FoldScores:
    """The test rows of one fold, and a model's scores of them.

    Attributes
    ----------
    truth
        Class numbers, int64, of shape ``(n,)``; or 0/1 of shape ``(n, n_labels)``; or numbers of shape
        ``(n, n_outputs)``.
    scores
        Probabilities, of shape ``(n, n_classes)`` or ``(n, n_labels)``; or predicted numbers, ``(n, n_outputs)``.
    groups
        Groups to resample, int64, of shape ``(n,)``; codes from 0, the same in all folds.
    n_train
        Number of training rows of the model; None if unknown.
    """

    truth: NDArray[Any]
    scores: Floats
    groups: NDArray[np.int64]
    n_train: int | None = None


def bootstrap(
    task: Task,
    models: Sequence[Sequence[FoldScores]],
    *,
    metrics: Iterable[str] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    within_folds: bool = True,
    some: Sequence[Sequence[NDArray[np.int64]]] | None = None,
) -> dict[str, Floats]:
    """Resample groups, and evaluate every model on the same resamples.

    Scores are compared only within a fold, since two folds have scores of two fits.

    Parameters
    ----------
    models
        For each model, its folds.
    metrics
        The metrics to compute. Default: all that a run of the task reports.
    within_folds
        Resample the groups of each fold separately; all models must then have the same rows and groups, in the same
        order. Otherwise groups are resampled from all folds together, and folds may differ between models.
    some
        For each model and fold, the rows to evaluate, such as those of a subgroup. Groups of all rows are resampled.

    Returns
    -------
    dict of str to float64 array of shape (n_models, 1 + n_draws)
        The value of each metric, first on the original rows and then on each resample: the mean over the folds in which
        it is defined, NaN if there are none.

    References
    ----------
    Efron and Tibshirani, An introduction to the bootstrap, 1993, chapters 6 and 8 (cluster bootstrap).
    """
    rng = np.random.default_rng(seed)
    means = FoldMeans((len(models), 1 + n_draws))
    names = METRICS[task] if metrics is None else tuple(metrics)
    measure = metrics_measure(task, names, models[0][0].scores.shape[1])
    for one in resamples(rng, models, n_draws, within_folds):
        if some is not None:
            one = one.at(some[one.model][one.number])
        if len(one.fold.truth):
            means.add(one.model, measure(one.fold, one.weights), one.times)
    return means.values(names)


class Draws(NamedTuple):
    """How intervals are made: their level, the number of resamples, and the seed."""

    level: float = LEVEL
    n_draws: int = N_DRAWS
    seed: int = 0


class Resampled(NamedTuple):
    """A fold of a model, both by number, with the weightings of its rows: first each once, then the resamples.

    ``times`` says how often the fold counts in each, of shape ``(1 + n_draws,)``: of a fold with a single group, as
    often as that group was drawn. By default each fold counts once.
    """

    model: int
    number: int
    fold: FoldScores
    weights: Weightings
    times: Floats | None = None

    def at(self, rows: NDArray[np.int64]) -> Resampled:
        """Return some of its rows, with the same weights."""
        fold = FoldScores(self.fold.truth[rows], self.fold.scores[rows], self.fold.groups[rows])
        return self._replace(fold=fold, weights=Weightings(self.weights.of_groups, self.weights.groups[rows]))


def resamples(
    rng: np.random.Generator, models: Sequence[Sequence[FoldScores]], n_draws: int, within_folds: bool
) -> Iterator[Resampled]:
    """Yield each fold of each model with its resamples; see `bootstrap`.

    If some fold has a single group, which does not show how much groups vary, groups are resampled from all folds
    together.
    """
    divisible = all(len(np.unique(fold.groups)) > 1 for fold in models[0])
    if within_folds and (divisible or len(models[0]) == 1):
        for fold in range(len(models[0])):
            groups = np.unique(models[0][fold].groups, return_inverse=True)[1]
            weights = Weightings(drawn_groups(rng, int(groups.max()) + 1, n_draws), groups)
            for m, model in enumerate(models):
                yield Resampled(m, fold, model[fold], weights)
    else:
        draws = drawn_groups(rng, 1 + max(int(fold.groups.max()) for model in models for fold in model), n_draws)
        for m, model in enumerate(models):
            for number, one in enumerate(model):
                alone = len(np.unique(one.groups)) == 1
                times = draws[:, int(one.groups[0])] if alone else None
                yield Resampled(m, number, one, Weightings(draws, one.groups), times)


def _in_threads(function: Callable[[int], Found], starts: Sequence[int]) -> Iterator[Found]:
    """Yield what a function returns for each start, in their order; NumPy computes some at a time."""
    n_threads = min(len(starts), len(os.sched_getaffinity(0)))
    if n_threads == 1:
        yield from map(function, starts)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(function, starts)


Measure = Callable[[FoldScores, Weightings], Mapping[str, Floats]]


def in_parts(measure: Measure, width: int = 1) -> Measure:
    """Return a measure that is computed for some weightings at a time, in threads, so that memory stays bounded.

    A weighting in which no row counts has NaN. ``width`` is the number of entries that a row counts as.
    """

    def of_all(fold: FoldScores, weights: Weightings) -> Mapping[str, Floats]:
        step = max(1, ROWS_AT_ONCE // (len(fold.truth) * width))
        out: dict[str, Floats] = {}

        def part(start: int) -> tuple[slice, Bools, Mapping[str, Floats]]:
            some = weights.some(slice(start, start + step))
            there = np.asarray(some.total > 0)
            return slice(start, start + step), there, measure(fold, some.some(there)) if there.any() else {}

        for place, there, found in _in_threads(part, range(0, len(weights), step)):
            for name, values in found.items():
                out.setdefault(name, np.full(len(weights), np.nan))[place][there] = values
        return out

    return of_all


def metrics_measure(task: Task, names: Sequence[str], width: int) -> Measure:
    """Return the measure of metrics, in parts; ``width`` is the number of score columns."""

    def measure(fold: FoldScores, weights: Weightings) -> Mapping[str, Floats]:
        return measured(task, fold.truth, fold.scores, weights, names)

    return in_parts(measure, width if task in ("multiclass", "multilabel") else 1)  # for micro means, all columns


class FoldMeans:
    """Means over folds of numbers that some folds lack, of shape ``(n_models, 1 + n_draws)`` for each name."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._sums: dict[str, Floats] = {}
        self._counts: dict[str, Floats] = {}

    def add(self, model: int, found: Mapping[str, Floats], times: Floats | None = None) -> None:
        """Add a fold of a model, as often as it counts; NaN counts for nothing."""
        for name, values in found.items():
            sums, counts = (of.setdefault(name, np.zeros(self._shape)) for of in (self._sums, self._counts))
            there = ~np.isnan(values)
            often = there if times is None else np.where(there, times, 0)
            sums[model] += np.where(there, values, 0) * often
            counts[model] += often

    def values(self, names: Iterable[str]) -> dict[str, Floats]:
        """Return the means; NaN where no fold has a number."""
        with np.errstate(invalid="ignore"):
            none = np.zeros(self._shape)
            return {name: self._sums.get(name, none) / self._counts.get(name, none) for name in names}


def fold_values(
    task: Task, models: Sequence[Sequence[FoldScores]], metrics: Iterable[str] | None = None
) -> dict[str, Floats]:
    """Return metrics of each model in each of its folds, of shape ``(n_models, n_folds)``; NaN where undefined."""
    names = METRICS[task] if metrics is None else tuple(metrics)
    each = [[measured(task, f.truth, f.scores, None, names) for f in model] for model in models]
    return {name: np.array([[float(of[name][0]) for of in model] for model in each]) for name in names}


def drawn_groups(rng: np.random.Generator, n_groups: int, n_draws: int) -> Floats:
    """Return the weights of groups, of shape ``(1 + n_draws, n_groups)``: first 1, then counts in each resample.

    A resample has one group less than there are, so that its variance is unbiased for few groups too.

    References
    ----------
    Rao and Wu, Resampling inference with complex survey data, JASA 83, 1988.
    """
    n = max(n_groups - 1, 1)
    return np.concatenate([np.ones((1, n_groups)), rng.multinomial(n, [1 / n_groups] * n_groups, n_draws)])


def interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values, float64, of shape ``(n_draws,)``; NaN without values.

    References
    ----------
    Efron and Tibshirani, 1993, section 13.3.
    """
    require_level(level)
    kept = values[~np.isnan(values)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def metric_interval(drawn: Floats, evidence: Evidence | None, level: float = LEVEL) -> Interval:
    """Return the interval of a metric: by `scaled_interval`, or without evidence the percentile interval.

    Parameters
    ----------
    drawn : float64 array of shape (1 + n_draws,)
        From `bootstrap`, for one model.
    evidence
        The evidence of the metric, from `evidence_of`.
    """
    return Interval(*interval(drawn[1:], level)) if evidence is None else scaled_interval(drawn, evidence, level)


def p_of_difference(differences: Floats) -> float:
    """Return the two-sided bootstrap p of a difference: twice the share beyond 0, never below 1 / resamples.

    References
    ----------
    Efron and Tibshirani, 1993, section 15.4, by inverting the percentile interval.
    """
    kept = differences[~np.isnan(differences)]
    n = len(kept)
    if n == 0:
        return float("nan")
    tail = min((kept <= 0).sum(), (kept >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (n + 1)))


@dataclass(frozen=True)
class MetricDifference:
    """A paired difference with its interval and two-sided p, and the test that gives both."""

    value: float
    low: float
    high: float
    p: float
    test: str = "bootstrap"


def difference(first: Floats, second: Floats, level: float = LEVEL) -> MetricDifference:
    """Return the difference between two models, first minus second, both given as rows of the result of `bootstrap`.

    Groups are resampled, and models are fixed. For procedures that are trained anew in each fold, see
    `headwater.evaluate.paired.Paired`.
    """
    change = first - second
    low, high = interval(change[1:], level)
    return MetricDifference(float(change[0]), low, high, p_of_difference(change[1:]))
