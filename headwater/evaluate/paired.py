"""The difference between two models on the same test rows, with the appropriate test.

Fixed models on one test set are compared by resampling groups of test rows. Procedures that are trained anew in each
fold also vary with their training rows, which resampling test rows cannot show. They are compared over folds, by the
corrected resampled t-test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate.bootstrap import (
    N_DRAWS,
    Draws,
    FoldScores,
    MetricDifference,
    bootstrap,
    difference,
    fold_values,
    metric_interval,
)
from headwater.evaluate.intervals import LEVEL, Evidence, Interval, evidence_for, evidence_of
from headwater.evaluate.measured import Task
from headwater.evaluate.statistics import corrected_t, corrected_t_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Paired:
    """Metrics of models on the same rows.

    Attributes
    ----------
    task
        The task of all models.
    same_folds
        Whether their folds test the same rows.
    drawn
        Result of `headwater.evaluate.bootstrap.bootstrap` for the models.
    values
        Each metric in each fold, of shape ``(n_models, n_folds)``; empty if the models have one test set, or different
        folds.
    test_to_train : float64 array of shape (n_models,)
        Ratio of test rows to training rows, mean over folds.
    evidence
        Evidence of those metrics that are proportions, for each model.
    """

    task: Task
    same_folds: bool
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
        metrics: Iterable[str] | None = None,
        n_draws: int = N_DRAWS,
        seed: int = 0,
        same_folds: bool = True,
    ) -> Paired:
        """Evaluate models, each a sequence of folds; set ``same_folds`` if their folds test the same rows.

        By default all metrics that a run of the task reports are computed.
        """
        drawn = bootstrap(task, models, metrics=metrics, n_draws=n_draws, seed=seed, within_folds=same_folds)
        values = fold_values(task, models, drawn) if same_folds and len(models[0]) > 1 else {}
        ratios = np.array([test_to_train(model) for model in models])
        return cls(task, same_folds, drawn, values, ratios, [_evidence(task, model) for model in models])

    def of_some(
        self, chosen: Sequence[Sequence[NDArray[np.int64]]], models: Sequence[Sequence[FoldScores]], draws: Draws
    ) -> Paired:
        """Return the same metrics of some rows of each model's folds, from resamples of the groups of all rows."""
        drawn = bootstrap(
            self.task,
            models,
            metrics=self.drawn,
            n_draws=draws.n_draws,
            seed=draws.seed,
            within_folds=self.same_folds,
            some=chosen,
        )
        parts = [
            [FoldScores(f.truth[rows], f.scores[rows], f.groups[rows]) for f, rows in zip(model, of, strict=True)]
            for model, of in zip(models, chosen, strict=True)
        ]
        return replace(self, drawn=drawn, values={}, evidence=[_evidence(self.task, part) for part in parts])

    def interval(self, metric: str, model: int, level: float = LEVEL) -> Interval:
        """Return the interval of a metric of one model."""
        return metric_interval(self.drawn[metric][model], evidence_for(metric, self.evidence[model]), level)

    def folds(self, metric: str) -> Floats:
        """Return a metric, of shape ``(n_models, n_folds)``, in folds where all models have it; empty for one set."""
        if metric not in self.values:
            return np.zeros((len(self.test_to_train), 0))
        values = self.values[metric]
        return values[:, ~np.isnan(values).any(0)]

    def ratio(self, first: int, second: int) -> float:
        """Return the ratio of test rows to training rows of the model with fewer training rows."""
        return float(max(self.test_to_train[first], self.test_to_train[second]))

    def difference(self, metric: str, first: int, second: int, level: float = LEVEL) -> MetricDifference:
        """Return the difference of two models, by the corrected t-test over folds or by resampling groups.

        References
        ----------
        Nadeau and Bengio, Machine Learning 52, 2003; Efron and Tibshirani, 1993. docs/evaluation.md compares the tests'
        error rates.
        """
        folds = self.folds(metric)
        if folds.shape[1] < 2:
            return difference(self.drawn[metric][first], self.drawn[metric][second], level)
        a, b, ratio = folds[first], folds[second], self.ratio(first, second)
        low, high = corrected_t_interval(a, b, ratio, level)
        return MetricDifference(float((a - b).mean()), low, high, corrected_t(a, b, ratio).p, "corrected_t")


def test_to_train(folds: Sequence[FoldScores]) -> float:
    """Return the ratio of test rows to training rows, mean over folds.

    If a fold's number of training rows is unknown, it is taken as the test rows of all other folds.
    """
    sizes = np.array([len(fold.truth) for fold in folds], np.float64)
    trained = [rest if f.n_train is None else f.n_train for f, rest in zip(folds, sizes.sum() - sizes, strict=True)]
    return float(np.mean(sizes / np.maximum(trained, 1)))


def _evidence(task: Task, folds: Sequence[FoldScores]) -> dict[str, Evidence]:
    ends = np.cumsum([0, *(len(fold.truth) for fold in folds)])
    rows = [np.arange(start, end) for start, end in pairwise(ends)]
    truth, groups, scores = (
        np.concatenate([getattr(f, part) for f in folds]) for part in ("truth", "groups", "scores")
    )
    return evidence_of(task, truth, groups, rows, scores)
