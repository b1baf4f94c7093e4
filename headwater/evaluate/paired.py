"""Two models on the same test rows: how far they are apart, tested as what they are.

Two models that are fixed, and tested on one set of rows, are compared as other patients would compare them: groups are
drawn again. Two procedures that were trained anew in each fold would also give other models on other training rows,
which no resampling of test rows sees: their folds are compared, by the corrected t test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate.bootstrap import (
    FoldScores,
    MetricDifference,
    bootstrap,
    difference,
    fold_values,
    metric_interval,
)
from headwater.evaluate.intervals import Evidence, Interval, evidence_of
from headwater.evaluate.metrics import Task
from headwater.evaluate.statistics import corrected_t, corrected_t_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Paired:
    """Models on the same rows, measured together.

    Attributes
    ----------
    drawn
        What `headwater.evaluate.bootstrap.bootstrap` returns of them.
    values
        Each metric in each fold, of shape ``(n_models, n_folds)``; none where the models have one test set, or folds
        of their own.
    test_to_train : float64 array of shape (n_models,)
        Test rows for each training row, mean over folds.
    evidence
        What the shares among the metrics are measured on, for each model.
    """

    drawn: dict[str, Floats]
    values: dict[str, Floats]
    test_to_train: Floats
    evidence: Sequence[dict[str, Evidence]]

    @classmethod
    def of(
        cls,
        task: Task,
        models: Sequence[Sequence[FoldScores]],
        *,
        n_draws: int = 2000,
        seed: int = 0,
        same_folds: bool = True,
    ) -> Paired:
        """Measure models, each of which is a sequence of folds; ``same_folds`` when these test the same rows."""
        drawn = bootstrap(task, models, n_draws=n_draws, seed=seed, within_folds=same_folds)
        values = fold_values(task, models) if same_folds and len(models[0]) > 1 else {}
        ratios = np.array([test_to_train(model) for model in models])
        return cls(drawn, values, ratios, [_evidence(task, model) for model in models])

    def interval(self, metric: str, model: int, level: float = 0.95) -> Interval:
        """Return the interval of a metric of one model."""
        return metric_interval(self.drawn[metric][model], self.evidence[model].get(metric), level)

    def folds(self, metric: str) -> Floats:
        """Return a metric in the folds where all models have it, of shape ``(n_models, n_folds)``; none for one set."""
        if metric not in self.values:
            return np.zeros((len(self.test_to_train), 0))
        values = self.values[metric]
        return values[:, ~np.isnan(values).any(0)]

    def ratio(self, first: int, second: int) -> float:
        """Return the test rows for each training row, of the model that was trained on fewer."""
        return float(max(self.test_to_train[first], self.test_to_train[second]))

    def difference(self, metric: str, first: int, second: int, level: float = 0.95) -> MetricDifference:
        """Return how far one model is above another: by the corrected t over folds, or by drawing groups again.

        References
        ----------
        Nadeau and Bengio, Machine Learning 52, 2003; Efron and Tibshirani, 1993. Which has its size, and which has not,
        is in docs/evaluation.md.
        """
        folds = self.folds(metric)
        if folds.shape[1] < 2:
            return difference(self.drawn[metric][first], self.drawn[metric][second], level)
        a, b, ratio = folds[first], folds[second], self.ratio(first, second)
        low, high = corrected_t_interval(a, b, ratio, level)
        return MetricDifference(float((a - b).mean()), low, high, corrected_t(a, b, ratio).p, "corrected_t")


def test_to_train(folds: Sequence[FoldScores]) -> float:
    """Return the test rows for each training row, mean over folds.

    Where a fold does not say how many rows it was trained on, these are the tested rows of all other folds.
    """
    sizes = np.array([len(fold.truth) for fold in folds], np.float64)
    trained = [rest if f.n_train is None else f.n_train for f, rest in zip(folds, sizes.sum() - sizes, strict=True)]
    return float(np.mean(sizes / np.maximum(trained, 1)))


def _evidence(task: Task, folds: Sequence[FoldScores]) -> dict[str, Evidence]:
    ends = np.cumsum([0, *(len(fold.truth) for fold in folds)])
    rows = [np.arange(start, end) for start, end in pairwise(ends)]
    truth, groups = (np.concatenate(parts) for parts in zip(*((f.truth, f.groups) for f in folds), strict=True))
    return evidence_of(task, truth, groups, rows)
