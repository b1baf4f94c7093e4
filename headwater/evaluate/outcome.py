"""What cross-validation found: folds with their scores, and the head for new cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate._labels import codes_in
from headwater.evaluate.metrics import Task, score, summarise
from headwater.evaluate.regression import as_outputs
from headwater.evaluate.search import Trial
from headwater.evaluate.splits import Split

Rows = NDArray[np.int64]
Params = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Scores of training rows, each row's by a head that saw neither it nor its group.

    What is fitted to scores (a calibrator, a threshold, the size of prediction sets) is fitted to these, so that test
    rows stay unseen. The heads are those of the inner folds, with the selected parameters: they saw somewhat fewer rows
    than the head that is reported.

    Attributes
    ----------
    rows : int64 array of shape (n,)
        Training rows that some inner fold tested. A row that every inner fold needs to train on is not among them.
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
    """One fold, reported.

    Attributes
    ----------
    split
        Its training and test rows.
    params
        The parameters that were selected inside the training rows.
    scores
        Class probabilities of the test rows, float64, of shape ``(n_test, n_classes)``; for regression what is
        predicted, of shape ``(n_test, n_outputs)``.
    metrics
        `headwater.evaluate.score` of them.
    inside
        Out-of-fold scores of the training rows, where inner folds were made.
    trials
        The settings that were tried on the inner folds, in order; none where no inner folds were made.
    head
        The head that was fitted on the training rows and gave the scores.
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
        """Log loss, or squared error, of the selected setting over the inner folds; None where none were made."""
        return min((trial.loss for trial in self.trials), default=None)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What cross-validation found.

    Attributes
    ----------
    task, classes
        Kind of task, and the classes in the order of the columns of scores, of which the last of two is the positive
        one; for regression the outputs' numbers.
    folds
        One for each split.
    head, params
        A head for new cases, fitted on all rows unless others were named, and the parameters selected on them. No
        reported number is its.
    selection
        How parameters were selected, in words and numbers that belong beside the result.
    inside
        Out-of-fold scores of the rows that `head` was fitted on, where inner folds were made.
    trials
        The settings that were tried on those inner folds, in order.
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
        """Return labels as columns of scores: class numbers ``(n,)``, 0/1 ``(n, n_labels)``, or ``(n, n_outputs)``."""
        if self.task == "regression":
            return as_outputs(y)
        if self.task == "multilabel":
            return y.astype(np.int64)
        return codes_in(y, self.classes)

    def in_order(self, classes: Sequence[Any], y: NDArray[Any]) -> Outcome:
        """Return it with the classes, and the columns of scores, in another order, and the metrics that follow from it.

        Of two classes the last is the positive one. Heads keep the order of their own ``classes_``.
        """
        names = np.asarray(classes)
        order = codes_in(names, self.classes)
        if (order == np.arange(len(order))).all():
            return self
        other = replace(self, classes=self.classes[order])

        def inside(rows: OutOfFold | None) -> OutOfFold | None:
            return None if rows is None else replace(rows, scores=rows.scores[:, order])

        folds = [rescored(fold, other, y, fold.scores[:, order], inside(fold.inside)) for fold in self.folds]
        return replace(other, folds=folds, inside=inside(self.inside))


def rescored(fold: Fold, outcome: Outcome, y: NDArray[Any], scores: Floats, inside: OutOfFold | None) -> Fold:
    """Return a fold with other scores, and with the metrics of those."""
    metrics = score(outcome.task, y[fold.split.test], scores, classes=outcome.classes)
    return replace(fold, scores=scores, metrics=metrics, inside=inside)
