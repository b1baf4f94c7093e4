"""Intervals by drawing patients again: of a metric, and of the difference between two models.

What is drawn are the groups of each fold's test rows, with replacement; a metric is then the mean over folds, as it is
reported. The interval of a share is made from the spread of the draws, see `headwater.evaluate.intervals`. All draws
are made at once: a draw is a weight for every row, so that most metrics are sums weighted by one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate import regression
from headwater.evaluate.intervals import Evidence, Interval, require_level, share_interval
from headwater.evaluate.metrics import Task

Floats = NDArray[np.float64]
ROWS_AT_ONCE = 4_000_000  # weights, of rows times draws
METRICS: Mapping[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss", "brier"),
    "multiclass": (
        *("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_loss"),
        *("balanced_accuracy_present", "f1_macro_present", "auc_present"),
    ),
    "multilabel": (
        *("auc_macro", "auc_micro", "f1_macro", "f1_micro", "hamming"),
        *("auc_macro_present", "f1_macro_present"),
    ),
    "regression": ("r2", "mae", "rmse", "pearson", "spearman"),
}
DEFAULT_METRIC: Mapping[Task, str] = {
    "binary": "auc",
    "multiclass": "auc",
    "multilabel": "auc_macro",
    "regression": "r2",
}
PRESENT = "_present"
"""What the name of a mean over the classes or labels that are tested ends in, where one over all may be undefined."""
LOWER_IS_BETTER = ("log_loss", "brier", "hamming", "ece", "mae", "rmse")


def default_metric(task: Task, means: Sequence[Mapping[str, float | None]]) -> str:
    """Return the metric that models are compared by, given the means that they report of each.

    The AUC, macro for labels, over the classes or labels that are tested where it is not defined over all; r2 of a
    regression.
    """
    name = DEFAULT_METRIC[task]
    if all(mean.get(name) is not None for mean in means) or name + PRESENT not in METRICS[task]:
        return name
    return name + PRESENT


@dataclass(frozen=True)
class FoldScores:
    """The tested rows of one fold, and what a model said of them.

    Attributes
    ----------
    truth
        Class numbers, int64, of shape ``(n,)``; or 0/1 of shape ``(n, n_labels)``; or numbers of shape
        ``(n, n_outputs)``.
    scores
        Probabilities, of shape ``(n, n_classes)`` or ``(n, n_labels)``; or what is predicted, ``(n, n_outputs)``.
    groups
        What is drawn, int64, of shape ``(n,)``; numbers from 0, the same in all folds.
    n_train
        How many rows the model was trained on; None where that is not known.
    """

    truth: NDArray[Any]
    scores: Floats
    groups: NDArray[np.int64]
    n_train: int | None = None


def bootstrap(
    task: Task,
    models: Sequence[Sequence[FoldScores]],
    *,
    n_draws: int = 2000,
    seed: int = 0,
    within_folds: bool = True,
) -> dict[str, Floats]:
    """Draw groups again and again, and measure every model on the same draws.

    Scores are compared within a fold alone: those of two folds are of two fits.

    Parameters
    ----------
    models
        For each model, its folds.
    within_folds
        Draw the groups of each fold by themselves; rows and groups of all models are then the same, in the same order.
        Otherwise groups are drawn from all folds together, which may differ between models and share groups.

    Returns
    -------
    dict of str to float64 array of shape (n_models, 1 + n_draws)
        For each metric its value, first as it is and then in each draw: the mean over the folds in which it is defined,
        NaN where it is in none.

    References
    ----------
    Efron and Tibshirani, An introduction to the bootstrap, 1993, chapters 6 and 8 (clusters are what is drawn).
    """
    rng = np.random.default_rng(seed)
    sums = _Sums(task, (len(models), 1 + n_draws))
    if within_folds:
        for fold in range(len(models[0])):
            groups = np.unique(models[0][fold].groups, return_inverse=True)[1]
            draws = _drawn(rng, int(groups.max()) + 1, n_draws)
            for m, model in enumerate(models):
                sums.add(m, model[fold], draws, groups)
    else:
        draws = _drawn(rng, 1 + max(int(fold.groups.max()) for model in models for fold in model), n_draws)
        for m, model in enumerate(models):
            for one in model:
                sums.add(m, one, draws, one.groups)
    return sums.means()


def fold_values(task: Task, models: Sequence[Sequence[FoldScores]]) -> dict[str, Floats]:
    """Return each metric of each model in each of its folds, of shape ``(n_models, n_folds)``; NaN where undefined."""
    each = [[_MEASURES[task](f.truth, f.scores, np.ones((1, len(f.truth)))) for f in model] for model in models]
    return {name: np.array([[float(of[name][0]) for of in model] for model in each]) for name in METRICS[task]}


def _drawn(rng: np.random.Generator, n_groups: int, n_draws: int) -> Floats:
    """Return how often each group counts, of shape ``(1 + n_draws, n_groups)``: first once, then as it is drawn."""
    return np.concatenate([np.ones((1, n_groups)), rng.multinomial(n_groups, [1 / n_groups] * n_groups, n_draws)])


class _Sums:
    """Sums of each metric over folds, of shape ``(n_models, 1 + n_draws)``, and how many folds have it."""

    def __init__(self, task: Task, shape: tuple[int, int]) -> None:
        self.task = task
        self.totals = {name: np.zeros(shape) for name in METRICS[task]}
        self.counts = {name: np.zeros(shape) for name in METRICS[task]}

    def add(self, model: int, fold: FoldScores, draws: Floats, groups: NDArray[np.int64]) -> None:
        """Add a fold of a model, whose rows count as often as their groups, by number, are drawn."""
        width = fold.scores.shape[1] if self.task == "multilabel" else 1  # whose weights are repeated
        step = max(1, ROWS_AT_ONCE // (len(groups) * width))
        for start in range(0, len(draws), step):
            some = slice(start, start + step)
            weights = draws[some][:, groups]
            there = np.asarray(weights.any(1))
            found = _MEASURES[self.task](fold.truth, fold.scores, weights[there])
            for name, values in found.items():
                here = np.full(len(there), np.nan)
                here[there] = values
                self.totals[name][model, some] += np.nan_to_num(here)
                self.counts[name][model, some] += ~np.isnan(here)

    def means(self) -> dict[str, Floats]:
        counts = {name: np.where(count > 0, count, np.nan) for name, count in self.counts.items()}
        return {name: total / counts[name] for name, total in self.totals.items()}


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of draws, float64, of shape ``(n_draws,)``; NaN where there are none.

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


def metric_interval(drawn: Floats, evidence: Evidence | None, level: float = 0.95) -> Interval:
    """Return the interval of a metric: of a share by `share_interval`, else the percentile interval.

    Parameters
    ----------
    drawn : float64 array of shape (1 + n_draws,)
        What `bootstrap` returns of a model: the value as it is, and in each draw, whose spread is its standard error.
    evidence
        What a share is measured on, from `evidence_of`; None for a metric that is no share.
    """
    if evidence is None:
        return Interval(*interval(drawn[1:], level))
    kept = drawn[1:][~np.isnan(drawn[1:])]
    error = float(kept.std(ddof=1)) if len(kept) > 1 else float("nan")
    return share_interval(float(drawn[0]), error, evidence, level)


def p_of_difference(differences: Floats) -> float:
    """Return the two-sided p of draws of a difference: twice the share on the other side of 0, never below 1 / draws.

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
    """A paired difference with its interval and its two-sided p, and the test that both are of."""

    value: float
    low: float
    high: float
    p: float
    test: str = "bootstrap"


def difference(first: Floats, second: Floats, level: float = 0.95) -> MetricDifference:
    """Return how far the first of two models is above the second, both being rows of what `bootstrap` returns.

    What is drawn are groups, and the models stay as they are: of procedures that were trained anew in each fold, see
    `headwater.evaluate.paired.Paired`.
    """
    change = first - second
    low, high = interval(change[1:], level)
    return MetricDifference(float(change[0]), low, high, p_of_difference(change[1:]))


# Metrics for many weightings of the same rows: weights have shape (draws, n), results (draws,)


def _of_classes(truth: NDArray[np.int64], scores: Floats, weights: Floats) -> dict[str, Floats]:
    k = scores.shape[1]
    predicted = scores.argmax(1)
    cells = weights @ np.eye(k * k)[truth * k + predicted]
    confusion = cells.reshape(-1, k, k)  # (draws, truth, predicted)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    of_truth, of_predicted = confusion.sum(2), confusion.sum(1)
    missing = (of_truth == 0).any(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = right / of_truth
        f1 = 2 * right / (of_truth + of_predicted)
    least = np.finfo(np.float64).eps
    loss = -np.log(np.clip(scores[np.arange(len(truth)), truth], least, 1))
    total = weights.sum(1)
    out = {
        "accuracy": right.sum(1) / total,
        "balanced_accuracy": np.where(missing, np.nan, recall.mean(1)),
        "f1_macro": np.where(missing, np.nan, f1.mean(1)),
        "log_loss": weights @ loss / total,
    }
    if k == 2:
        out["auc"] = _auc(truth == 1, scores[:, 1], weights)
        out["brier"] = weights @ (scores[:, 1] - truth) ** 2 / total
    else:
        each = np.stack([_auc(truth == c, scores[:, c], weights) for c in range(k)], axis=1)
        out["auc"] = each.mean(1)
        out["auc_present"] = _mean_of_present(each)
        out["balanced_accuracy_present"] = _mean_of_present(recall)
        out["f1_macro_present"] = _mean_of_present(np.where(of_truth > 0, f1, np.nan))
    return out


def _of_labels(truth: NDArray[np.int64], scores: Floats, weights: Floats) -> dict[str, Floats]:
    predicted = scores > 0.5
    positive = truth > 0
    both = weights @ (positive & predicted)
    of_truth, of_predicted = weights @ positive, weights @ predicted
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(of_truth > 0, 2 * both / (of_truth + of_predicted), np.nan)
        f1_micro = 2 * both.sum(1) / (of_truth.sum(1) + of_predicted.sum(1))
    each = np.stack([_auc(positive[:, c], scores[:, c], weights) for c in range(scores.shape[1])], axis=1)
    repeated = np.repeat(weights, scores.shape[1], axis=1)
    return {
        "auc_macro": each.mean(1),
        "auc_micro": _auc(positive.ravel(), scores.ravel(), repeated),
        "f1_macro": f1.mean(1),
        "f1_micro": f1_micro,
        "hamming": weights @ (positive != predicted).mean(1) / weights.sum(1),
        "auc_macro_present": _mean_of_present(each),
        "f1_macro_present": _mean_of_present(np.where(np.isnan(each), np.nan, f1)),
    }


def _mean_of_present(each: Floats) -> Floats:
    """Return the mean over classes or labels, the second axis, of those that are defined; NaN where none is."""
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(there, each, 0).sum(1) / there.sum(1)
    return means


def _of_numbers(truth: Floats, predicted: Floats, weights: Floats) -> dict[str, Floats]:
    each = [regression.weighted(t, p, weights) for t, p in zip(truth.T, predicted.T, strict=True)]
    return {name: np.mean([of_output[name] for of_output in each], axis=0) for name in METRICS["regression"]}


_MEASURES: Mapping[str, Any] = {
    "binary": _of_classes,
    "multiclass": _of_classes,
    "multilabel": _of_labels,
    "regression": _of_numbers,
}


def _auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the AUC under each weighting, ties counted half; NaN where a class has no weight."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    w, truth = weights[:, order], positive[order]
    negative = np.cumsum(np.where(truth, 0, w), axis=1)
    starts = np.searchsorted(ordered, ordered, side="left")
    ends = np.searchsorted(ordered, ordered, side="right") - 1
    padded = np.concatenate([np.zeros((len(w), 1)), negative], axis=1)
    below = (padded[:, starts] + negative[:, ends]) / 2
    of_positive = np.where(truth, w, 0)
    pairs = of_positive.sum(1) * negative[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs > 0, (of_positive * below).sum(1) / pairs, np.nan)
