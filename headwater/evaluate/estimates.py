"""Confidence intervals of the numbers that a run reports: of its metrics, of each class, and of each subgroup.

Groups such as patients are resampled, and models stay fixed: an interval says how far other patients from the same
source would move the number. It does not say how far other training patients would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError
from headwater.evaluate._weightings import Weightings
from headwater.evaluate.bootstrap import (
    N_DRAWS,
    FoldMeans,
    FoldScores,
    Measure,
    bootstrap,
    fold_values,
    in_parts,
    interval,
    metric_interval,
    resamples,
)
from headwater.evaluate.classification import mean_of_present
from headwater.evaluate.fold_means import json_safe, natural, summary
from headwater.evaluate.intervals import LEVEL, Evidence, Interval, Scale, evidence_for, evidence_of
from headwater.evaluate.measured import METRICS, OF_EACH_CLASS, Task, each_class
from headwater.evaluate.ordinal import GradeRows
from headwater.evaluate.outcome import Outcome
from headwater.evaluate.statistics import delong

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Ends = list[float] | None
GAPS: Mapping[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "balanced_accuracy", "recall", "specificity", "f1_macro", "auc", "log_loss"),
    "multiclass": ("accuracy", "balanced_accuracy_present", "f1_macro_present", "auc", "auc_present", "log_loss"),
    "multilabel": ("auc_macro", "auc_macro_present", "auc_micro", "f1_macro", "f1_micro", "hamming"),
    "regression": METRICS["regression"],
    "ordinal": ("accuracy", "mae_grades", "off_by_two", "kappa_quadratic", "auc_cuts", "auc_cuts_present", "rps"),
    "survival": METRICS["survival"],
}
"""The metrics whose gap between a subgroup and the rest is reported."""
SIZES = ("mean_size",)
"""Means of rows that are no shares."""
MOST_WEIGHTS, LEAST_DRAWS = 40_000_000, 200
"""Rows times resamples of a run's intervals, above which fewer resamples are drawn, but no fewer than the second."""


@dataclass(frozen=True, eq=False)
class Resampling:
    """How the intervals of a run are made.

    Attributes
    ----------
    groups : int64 array of shape (n,)
        The independent group of each row.
    level
        Confidence level.
    n_draws
        Number of resamples.
    seed
        Seed of the resamples.
    """

    groups: Rows
    level: float = LEVEL
    n_draws: int = N_DRAWS
    seed: int = 0

    @classmethod
    def of(cls, n: int, groups: NDArray[Any] | None = None, level: float = LEVEL) -> Resampling:
        """Return the resampling of ``n`` rows, by groups of any type, or row by row; fewer resamples of many rows."""
        codes = (
            np.arange(n) if groups is None else np.unique(np.asarray(groups).astype(np.str_), return_inverse=True)[1]
        )
        n_draws = int(np.clip(MOST_WEIGHTS // max(n, 1), LEAST_DRAWS, N_DRAWS))
        return cls(codes, level, n_draws)

    def at(self, rows: Rows) -> Resampling:
        """Return the resampling of some rows, such as the first of each unit."""
        return replace(self, groups=self.groups[rows])


class Estimates:
    """Intervals of the numbers of one outcome.

    Parameters
    ----------
    outcome
        Folds with their scores.
    y
        The labels of all rows.
    resampling
        How intervals are made.
    """

    def __init__(self, outcome: Outcome, y: NDArray[Any], resampling: Resampling) -> None:
        self.outcome, self.resampling = outcome, resampling
        truth = outcome.truth(y)
        self.rows = [fold.split.test for fold in outcome.folds]
        tested = zip(self.rows, outcome.folds, strict=True)
        self.folds = [FoldScores(truth[rows], fold.scores, resampling.groups[rows]) for rows, fold in tested]

    @cached_property
    def once(self) -> bool:
        """Whether each row is tested by one fold at most; seeds and draws test it again."""
        tested = np.concatenate(self.rows)
        return len(np.unique(tested)) == len(tested)

    def values(self, names: Iterable[str]) -> dict[str, float]:
        """Return metrics, the mean over folds."""
        found = fold_values(self.outcome.task, [self.folds], names)
        return {name: float(mean_of_present(values)[0]) for name, values in found.items()}

    def metrics(self, names: Sequence[str] | None = None) -> dict[str, Ends]:
        """Return the interval of each metric of the outcome, or of some."""
        names = METRICS[self.outcome.task] if names is None else names
        every = [np.arange(len(rows)) for rows in self.rows]
        drawn, evidence = self._drawn_of_some(every, names), self._evidence_of_some(every)
        found = {name: self._interval(drawn[name], evidence_for(name, evidence)) for name in names}
        if "auc" in found and self.outcome.task == "binary" and self.once and (of_delong := self._delong()) is not None:
            found["auc"] = of_delong
        return {name: ends_of(ends) for name, ends in found.items()}

    def classes(self, names: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Return precision, recall, F1 and AUC of each class or label, with intervals and the number of its rows."""
        task = self.outcome.task

        def measure(fold: FoldScores, weights: Weightings) -> Mapping[str, Floats]:
            every = each_class(task, fold.truth, fold.scores, weights)
            return {f"{c} {name}": found[name] for c, found in enumerate(every) for name in OF_EACH_CLASS}

        drawn = self._drawn(in_parts(measure, self.folds[0].scores.shape[1]))
        folds = [list(each_class(task, fold.truth, fold.scores)) for fold in self.folds]
        truth = np.concatenate([fold.truth for fold in self.folds])
        tested = np.unique(np.concatenate(self.rows), return_index=True)[1]
        out = {}
        for c, name in enumerate(names):
            is_class = truth[:, c] > 0 if task == "multilabel" else truth == c
            of_folds = [{m: float(found[c][m][0]) for m in OF_EACH_CLASS} for found in folds]
            out[str(name)] = {
                "support": int(is_class[tested].sum()),
                **summary(of_folds),
                "intervals": {
                    m: ends_of(self._interval(drawn[f"{c} {m}"], self._class_evidence(m, is_class, c)))
                    for m in OF_EACH_CLASS
                },
            }
        return out

    def cuts(self, names: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Return the AUC at each cut between grades, by the lowest grade above it, with the rows at or above it."""

        def measure(fold: FoldScores, weights: Weightings) -> Mapping[str, Floats]:
            each = GradeRows(fold.truth, fold.scores, weights).each_cut
            return {str(c): each[:, c] for c in range(each.shape[1])}

        drawn = self._drawn(in_parts(measure))
        truth = np.concatenate([fold.truth for fold in self.folds])
        groups = np.concatenate([fold.groups for fold in self.folds])
        folds = [np.arange(*part) for part in pairwise(np.cumsum([0, *map(len, self.rows)]))]
        tested = np.unique(np.concatenate(self.rows), return_index=True)[1]
        each = [GradeRows(fold.truth, fold.scores).each_cut[0] for fold in self.folds]
        out = {}
        for c, name in enumerate(names[1:]):
            reached = truth > c
            evidence = evidence_of("binary", reached.astype(np.int64), groups, folds)["auc"]
            out[str(name)] = {
                "support": int(reached[tested].sum()),
                **summary([{"auc": float(of_fold[c])} for of_fold in each]),
                "intervals": {"auc": ends_of(self._interval(drawn[str(c)], evidence))},
            }
        return out

    def levels(self, values: NDArray[Any]) -> dict[str, dict[str, Any]]:
        """Return the intervals of each level's metrics, and the gap of each metric between the level and the rest.

        A gap is the metric of the level's rows minus that of all other rows, each the mean over folds, with a
        percentile interval. Both are resampled together, so groups with rows on both sides are taken into account.
        """
        task = self.outcome.task
        names = METRICS[task]
        of_folds = [values[rows] for rows in self.rows]
        out: dict[str, dict[str, Any]] = {}
        for level in sorted(set(values.tolist()), key=natural):
            inside = [np.flatnonzero(of == level) for of in of_folds]
            here = self._drawn_of_some(inside, names)
            rest = self._drawn_of_some([np.flatnonzero(of != level) for of in of_folds], GAPS[task])
            gaps = {}
            for name in rest:
                gap = here[name] - rest[name]
                low, high = interval(gap[1:], self.resampling.level)
                gaps[name] = json_safe({"value": float(gap[0]), "low": low, "high": high})
            evidence = self._evidence_of_some(inside)
            intervals = {name: ends_of(self._interval(here[name], evidence_for(name, evidence))) for name in names}
            out[str(level)] = {"intervals": intervals, "gap": gaps}
        return out

    def means(self, values: Mapping[str, Sequence[Floats]]) -> dict[str, Ends]:
        """Return the interval of means of shares or sizes of rows, float64 of shape ``(n_test,)`` for each fold."""
        number = {id(fold): f for f, fold in enumerate(self.folds)}

        def measure(fold: FoldScores, weights: Weightings) -> Mapping[str, Floats]:
            total = weights.total
            with np.errstate(divide="ignore", invalid="ignore"):
                return {name: weights.sums(of_folds[number[id(fold)]]) / total for name, of_folds in values.items()}

        drawn = self._drawn(measure)
        n = (len(np.unique(np.concatenate([fold.groups for fold in self.folds]))),)
        found = {}
        for name in values:
            scale: Scale = "positive" if name in SIZES else "share"
            found[name] = ends_of(self._interval(drawn[name], Evidence(n, n, scale)))
        return found

    # How

    def _drawn(self, measure: Measure) -> dict[str, Floats]:
        """Return numbers on the rows and on each resample, the mean over folds, each of shape ``(1 + n_draws,)``."""
        how = self.resampling
        means = FoldMeans((1, 1 + how.n_draws))
        names: dict[str, None] = {}
        for one in resamples(np.random.default_rng(how.seed), [self.folds], how.n_draws, self.once):
            found = measure(one.fold, one.weights)
            names |= dict.fromkeys(found)
            means.add(0, found, one.times)
        return {name: values[0] for name, values in means.values(names).items()}

    def _drawn_of_some(self, chosen: Sequence[Rows], names: Sequence[str]) -> dict[str, Floats]:
        """Return metrics of some rows of each fold, from the resamples of all groups."""
        how = self.resampling
        found = bootstrap(
            self.outcome.task,
            [self.folds],
            metrics=names,
            n_draws=how.n_draws,
            seed=how.seed,
            within_folds=self.once,
            some=[chosen],
        )
        return {name: values[0] for name, values in found.items()}

    def _interval(self, drawn: Floats, evidence: Evidence | None) -> Interval:
        return metric_interval(drawn, evidence, self.resampling.level)

    def _evidence_of_some(self, chosen: Sequence[Rows]) -> dict[str, Evidence]:
        """Return the evidence of some rows of each fold."""
        parts = [
            (fold.truth[rows], fold.groups[rows], fold.scores[rows])
            for fold, rows in zip(self.folds, chosen, strict=True)
            if len(rows)
        ]
        if not parts:
            return {}
        ends = np.cumsum([0, *(len(truth) for truth, *_ in parts)])
        truth, groups, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return evidence_of(self.outcome.task, truth, groups, [np.arange(*part) for part in pairwise(ends)], scores)

    def _class_evidence(self, metric: str, is_class: NDArray[np.bool_], c: int) -> Evidence | None:
        """Return the evidence of a metric of one class against the rest, as of a binary task."""
        scores = np.concatenate([fold.scores for fold in self.folds])
        called = scores[:, c] > 0.5 if self.outcome.task == "multilabel" else scores.argmax(1) == c
        ends = np.cumsum([0, *map(len, self.rows)])
        groups = np.concatenate([fold.groups for fold in self.folds])
        as_binary = np.column_stack([~called, called]).astype(np.float64)
        folds = [np.arange(*part) for part in pairwise(ends)]
        return evidence_for(metric, evidence_of("binary", is_class.astype(np.int64), groups, folds, as_binary))

    def _delong(self) -> Interval | None:
        """Return DeLong's interval of the AUC; None if there are too few groups for it."""
        truth, groups, scores = (
            np.concatenate([getattr(fold, part) for fold in self.folds]) for part in ("truth", "groups", "scores")
        )
        fold_of = np.repeat(np.arange(len(self.rows)), [len(rows) for rows in self.rows])
        try:
            return delong(truth == 1, scores[:, 1], groups, fold_of).interval(level=self.resampling.level)
        except InputError:
            return None


def ends_of(found: Interval) -> Ends:
    """Return an interval as plain JSON values; None if there is none."""
    low, high = found
    return None if np.isnan(low) or np.isnan(high) else [float(low), float(high)]
