"""The outcome of cross-validation: folds with their scores, and the head for new cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater._survival import as_survival
from headwater.evaluate._labels import codes_in
from headwater.evaluate.metrics import Task, score, summarise
from headwater.evaluate.regression import as_outputs
from headwater.evaluate.search import Trial, best_of
from headwater.evaluate.splits import Split

Rows = NDArray[np.int64]
Params = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Out-of-fold scores of training rows: each row is scored by a head that saw neither it nor its group.

    Calibrators, thresholds and prediction sets are fitted on these, so that test rows stay unseen. The heads are those
    of the inner folds, with the selected parameters; they saw fewer rows than the head that is reported.

    Attributes
    ----------
    rows : int64 array of shape (n,)
        Training rows that some inner fold tested; excludes rows that every inner fold needs for training.
    fold : int64 array of shape (n,)
        The inner fold that tested each.
    scores : float64 array of shape (n, n_classes)
        Class probabilities, or predicted numbers.
    """

    rows: Rows
    fold: Rows
    scores: Floats


@dataclass(frozen=True, eq=False)
class Fold:
    """The results of one fold.

    Attributes
    ----------
    split
        Its training and test rows.
    params
        The parameters selected inside the training rows.
    scores
        Class probabilities of the test rows, float64, of shape ``(n_test, n_classes)``; for regression predicted
        numbers, of shape ``(n_test, n_outputs)``.
    metrics
        Their metrics, by `headwater.evaluate.score`.
    inside
        Out-of-fold scores of the training rows, if inner folds were made.
    trials
        The settings tried on the inner folds, in order; empty without inner folds.
    head
        The head fitted on the training rows, which gave the scores.
    """

    split: Split
    params: Params
    scores: Floats
    metrics: Mapping[str, float]
    inside: OutOfFold | None = None
    trials: Sequence[Trial] = ()
    head: Any = None

    @property
    def inner_loss(self) -> float | None:
        """Log loss, or squared error, of the selected setting over the inner folds; None without inner folds."""
        best = best_of(self.trials)
        return None if best is None else best.loss


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of cross-validation.

    Attributes
    ----------
    task, classes
        Kind of task, and the classes in the order of the columns of scores, with the positive one of two last; for
        regression the indices of outputs.
    folds
        One for each split.
    head, params
        A head for new cases, fitted on all rows unless specified otherwise, and the parameters selected on them. No
        reported metric is for this head.
    selection
        How parameters were selected, to report with the results.
    inside
        Out-of-fold scores of the rows that `head` was fitted on, if inner folds were made.
    trials
        The settings tried on those inner folds, in order.
    """

    task: Task
    classes: NDArray[Any]
    folds: Sequence[Fold]
    head: Any
    params: Params
    selection: Mapping[str, Any]
    inside: OutOfFold | None = None
    trials: Sequence[Trial] = ()

    @property
    def mean(self) -> dict[str, float | None]:
        """Mean of each metric over the folds; see `headwater.evaluate.summarise`."""
        return summarise([fold.metrics for fold in self.folds])[0]

    @property
    def std(self) -> dict[str, float | None]:
        """Standard deviation of each metric over the folds."""
        return summarise([fold.metrics for fold in self.folds])[1]

    def truth(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return labels as arrays: class numbers ``(n,)``, 0/1 ``(n, n_labels)``, or numbers ``(n, n_outputs)``.

        For survival, times and events, ``(n, 2)``.
        """
        if self.task == "regression":
            return as_outputs(y)
        if self.task == "survival":
            return as_survival(y)
        if self.task == "multilabel":
            return y.astype(np.int64)
        return codes_in(y, self.classes)

    def in_order(self, classes: Sequence[Any], y: NDArray[Any]) -> Outcome:
        """Return the outcome with classes and score columns in another order, and with recomputed metrics.

        The last of two classes is the positive one. Heads keep the order of their own ``classes_``.
        """
        names = np.asarray(classes)
        order = codes_in(names, self.classes)
        if (order == np.arange(len(order))).all():
            return self
        return self._reordered(order, self.task, y)

    def as_grades(self, grades: Sequence[Any], y: NDArray[Any]) -> Outcome:
        """Return the outcome of classes as one of grades, from the lowest to the highest, with its metrics."""
        return self._reordered(codes_in(np.asarray(grades), self.classes), "ordinal", y)

    def _reordered(self, order: Rows, task: Task, y: NDArray[Any]) -> Outcome:
        other = replace(self, task=task, classes=self.classes[order])

        def inside(rows: OutOfFold | None) -> OutOfFold | None:
            return None if rows is None else replace(rows, scores=rows.scores[:, order])

        folds = [rescored(fold, other, y, fold.scores[:, order], inside(fold.inside)) for fold in self.folds]
        return replace(other, folds=folds, inside=inside(self.inside))


def rescored(fold: Fold, outcome: Outcome, y: NDArray[Any], scores: Floats, inside: OutOfFold | None) -> Fold:
    """Return a fold with other scores, and recomputed metrics."""
    metrics = score(outcome.task, y[fold.split.test], scores, classes=outcome.classes)
    return replace(fold, scores=scores, metrics=metrics, inside=inside)
