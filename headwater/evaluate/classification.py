"""Metrics of binary and multiclass predictions, under many weightings of the rows at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate._bins import ece_places
from headwater.evaluate._recalibration import Recalibration
from headwater.evaluate._weightings import Ranked, Weightings

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

LEAST = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to at least this, so that one error does not make a loss infinite."""


class ClassRows:
    """Rows with one class each, and the metrics of their scores, each of shape ``(draws,)``; undefined ones are NaN.

    Parameters
    ----------
    truth : int64 array of shape (n,)
        The true class, as a column of ``scores``.
    scores : float64 array of shape (n, n_classes)
        Probabilities; the class with the highest is predicted, for ties the earlier.
    weights
        The weightings. Without any, each row counts once.
    """

    def __init__(self, truth: Codes, scores: Floats, weights: Weightings | None = None) -> None:
        self.truth, self.scores = truth, scores
        self.weights = Weightings.once(len(truth)) if weights is None else weights
        self.k = scores.shape[1]
        self.predicted = scores.argmax(1)

    # Counts

    @cached_property
    def _counts(self) -> Floats:
        """Weight of right predictions, of true and of predicted rows of each class, ``(draws, 3, n_classes)``."""
        is_class, called = (codes[:, None] == np.arange(self.k) for codes in (self.truth, self.predicted))
        found = self.weights.sums(np.concatenate([is_class & called, is_class, called], axis=1))
        return found.reshape(-1, 3, self.k)

    @property
    def support(self) -> Floats:
        """Number of rows of each class, of shape ``(draws, n_classes)``."""
        return self._counts[:, 1]

    @cached_property
    def each_recall(self) -> Floats:
        """Recall of each class, of shape ``(draws, n_classes)``; NaN for a class without rows."""
        right, of_truth, _ = self._counts.transpose(1, 0, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = right / of_truth
        return found

    @cached_property
    def each_precision(self) -> Floats:
        """Precision of each class; 0 if it is never predicted, NaN for a class without rows."""
        right, of_truth, of_predicted = self._counts.transpose(1, 0, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(of_truth > 0, np.where(of_predicted > 0, right / of_predicted, 0), np.nan)
        return found

    @cached_property
    def each_f1(self) -> Floats:
        """F1 of each class; NaN for a class without rows."""
        right, of_truth, of_predicted = self._counts.transpose(1, 0, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(of_truth > 0, 2 * right / (of_truth + of_predicted), np.nan)
        return found

    @cached_property
    def _ranked(self) -> list[Ranked]:
        """Each class ranked against the rest; of two classes the last."""
        columns = [1] if self.k == 2 else range(self.k)
        return [Ranked(self.truth == c, self.scores[:, c], self.weights) for c in columns]

    @cached_property
    def each_auc(self) -> Floats:
        """AUC of each class against the rest."""
        return np.stack([ranked.auc for ranked in self._ranked] * (2 if self.k == 2 else 1), axis=1)

    @cached_property
    def each_average_precision(self) -> Floats:
        """Average precision of each class against the rest; of two classes that of the last."""
        return np.stack([ranked.average_precision for ranked in self._ranked], axis=1)

    # Metrics

    @cached_property
    def accuracy(self) -> Floats:
        right: Floats = self._counts[:, 0].sum(1)
        return right / self.weights.total

    @property
    def balanced_accuracy(self) -> Floats:
        return mean_over(self.each_recall)

    @property
    def balanced_accuracy_present(self) -> Floats:
        return mean_of_present(self.each_recall)

    @property
    def precision(self) -> Floats:
        return self.each_precision[:, 1] if self.k == 2 else mean_over(self.each_precision)

    @property
    def recall(self) -> Floats:
        return self.each_recall[:, 1] if self.k == 2 else mean_over(self.each_recall)

    @property
    def specificity(self) -> Floats:
        return self.each_recall[:, 0]

    @property
    def f1(self) -> Floats:
        return self.each_f1[:, 1]

    @property
    def f1_macro(self) -> Floats:
        return mean_over(self.each_f1)

    @property
    def f1_macro_present(self) -> Floats:
        return mean_of_present(self.each_f1)

    @property
    def f1_micro(self) -> Floats:
        return self.accuracy  # equal, since each row has one true and one predicted class

    @cached_property
    def f1_weighted(self) -> Floats:
        weighted: Floats = np.nansum(self.each_f1 * self.support, axis=1)
        return weighted / self.weights.total

    @cached_property
    def kappa(self) -> Floats:
        """Cohen's kappa: agreement beyond that of independent predictions with the same class shares."""
        _, of_truth, of_predicted = self._counts.transpose(1, 0, 2) / self.weights.total[:, None]
        by_chance = (of_truth * of_predicted).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(by_chance < 1, (self.accuracy - by_chance) / (1 - by_chance), np.nan)
        return found

    @cached_property
    def kappa_quadratic(self) -> Floats:
        """Cohen's kappa with quadratic weights: classes are grades in their order."""
        _, of_truth, of_predicted = self._counts.transpose(1, 0, 2) / self.weights.total[:, None]
        observed = self.weights.sums((self.truth - self.predicted) ** 2.0) / self.weights.total
        grades = np.arange(self.k)
        apart = (grades[:, None] - grades) ** 2.0
        expected = np.einsum("di,ij,dj->d", of_truth, apart, of_predicted)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(expected > 0, 1 - observed / expected, np.nan)
        return found

    @property
    def auc(self) -> Floats:
        return mean_over(self.each_auc)

    @property
    def auc_macro(self) -> Floats:
        return self.auc

    @property
    def auc_present(self) -> Floats:
        return mean_of_present(self.each_auc)

    @cached_property
    def auc_micro(self) -> Floats:
        entries = Weightings(self.weights.of_groups, np.repeat(self.weights.groups, self.k))
        truth = self.truth[:, None] == np.arange(self.k)
        return Ranked(truth.ravel(), self.scores.ravel(), entries).auc

    @property
    def average_precision(self) -> Floats:
        return mean_over(self.each_average_precision)

    @property
    def average_precision_present(self) -> Floats:
        return mean_of_present(self.each_average_precision)

    @cached_property
    def log_loss(self) -> Floats:
        loss = -np.log(np.clip(self.scores[np.arange(len(self.truth)), self.truth], LEAST, 1))
        return self.weights.sums(loss) / self.weights.total

    @cached_property
    def brier(self) -> Floats:
        """Squared error of the last of two classes, or summed over more classes, as Brier defined it."""
        if self.k == 2:
            squared = (self.scores[:, 1] - self.truth) ** 2
        else:
            squared = ((self.scores - (self.truth[:, None] == np.arange(self.k))) ** 2).sum(1)
        return self.weights.sums(squared) / self.weights.total

    @cached_property
    def ece(self) -> Floats:
        confidence = self.scores.max(1)
        place, n_bins = ece_places(confidence)
        off = np.zeros((len(place), n_bins))
        off[np.arange(len(place)), place] = (self.predicted == self.truth) - confidence
        # |mean correct - mean confidence| of a bin, weighted by its share of the rows: the bin sizes cancel
        error: Floats = np.abs(self.weights.sums(off)).sum(1)
        return error / self.weights.total

    @property
    def classes_present(self) -> Floats:
        return np.asarray(np.count_nonzero(self.support > 0, axis=1), np.float64)

    # Of two classes

    def sensitivity_at(self, specificity: float) -> Floats:
        """Return the sensitivity of the threshold that reaches a specificity on these rows."""
        return self._ranked[0].sensitivity(specificity)

    def specificity_at(self, sensitivity: float) -> Floats:
        """Return the specificity of the threshold that reaches a sensitivity on these rows."""
        return self._ranked[0].specificity(sensitivity)

    def partial_auc(self, specificity: float) -> Floats:
        """Return the AUC above a specificity, scaled so that chance is 0.5."""
        return self._ranked[0].partial_auc(specificity)

    @cached_property
    def _recalibration(self) -> Recalibration:
        return Recalibration(self.truth == 1, self.scores[:, 1], self.weights)

    @property
    def calibration_slope(self) -> Floats:
        return self._recalibration.slope

    @property
    def calibration_intercept(self) -> Floats:
        return self._recalibration.intercept

    @property
    def calibration_in_the_large(self) -> Floats:
        return self._recalibration.in_the_large

    def of_each_class(self) -> Iterator[Mapping[str, Floats]]:
        """Yield the metrics of each class against the rest: precision, recall, f1, auc and support."""
        for c in range(self.k):
            yield {
                "precision": self.each_precision[:, c],
                "recall": self.each_recall[:, c],
                "f1": self.each_f1[:, c],
                "auc": self.each_auc[:, c],
                "support": self.support[:, c],
            }


class LabelRows:
    """Rows with several labels each, and the metrics of their scores, each of shape ``(draws,)``.

    Parameters
    ----------
    truth : 0/1 or bool array of shape (n, n_labels)
    scores : float64 array of shape (n, n_labels)
        Probabilities; a label above 0.5 is predicted.
    weights
        The weightings. Without any, each row counts once.
    """

    n_top = 3

    def __init__(self, truth: NDArray[Any], scores: Floats, weights: Weightings | None = None) -> None:
        self.truth, self.scores = truth > 0, scores
        self.weights = Weightings.once(len(truth)) if weights is None else weights
        self.k = scores.shape[1]
        self.predicted = scores > 0.5

    @cached_property
    def support(self) -> Floats:
        """Number of rows that have each label, of shape ``(draws, n_labels)``."""
        return self.weights.sums(self.truth)

    @cached_property
    def _varied(self) -> NDArray[np.bool_]:
        """Whether some rows have a label and some have not, of shape ``(draws, n_labels)``."""
        return (self.support > 0) & (self.support < self.weights.total[:, None])

    def _f1(self, called: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return F1 of each label, of shape ``(draws, n_labels)``, and over all entries together, ``(draws,)``."""
        both, of_called = self.weights.sums(self.truth & called), self.weights.sums(called)
        with np.errstate(divide="ignore", invalid="ignore"):
            f1: Floats = np.where(self.support > 0, 2 * both / (self.support + of_called), np.nan)
            micro = 2 * both.sum(1) / (self.support.sum(1) + of_called.sum(1))
        return f1, np.where(self.support.sum(1) > 0, micro, np.nan)

    @cached_property
    def _f1_of_called(self) -> tuple[Floats, Floats]:
        return self._f1(self.predicted)

    @cached_property
    def _top(self) -> NDArray[np.bool_]:
        """The labels with the highest scores of each row."""
        highest = np.argsort(-self.scores, axis=1, kind="stable")[:, : self.n_top]
        top = np.zeros_like(self.truth)
        np.put_along_axis(top, highest, True, axis=1)
        return top

    @cached_property
    def _f1_of_top(self) -> tuple[Floats, Floats]:
        return self._f1(self._top)

    @cached_property
    def _ranked(self) -> list[Ranked]:
        return [Ranked(self.truth[:, c], self.scores[:, c], self.weights) for c in range(self.k)]

    @cached_property
    def each_auc(self) -> Floats:
        """AUC of each label, of shape ``(draws, n_labels)``."""
        return np.stack([ranked.auc for ranked in self._ranked], axis=1)

    @cached_property
    def each_average_precision(self) -> Floats:
        """Average precision of each label, of shape ``(draws, n_labels)``."""
        return np.stack([ranked.average_precision for ranked in self._ranked], axis=1)

    @property
    def auc_macro(self) -> Floats:
        return mean_over(self.each_auc)

    @property
    def auc_macro_present(self) -> Floats:
        return mean_of_present(self.each_auc)

    @cached_property
    def auc_micro(self) -> Floats:
        entries = Weightings(self.weights.of_groups, np.repeat(self.weights.groups, self.k))
        return Ranked(self.truth.ravel(), self.scores.ravel(), entries).auc

    @property
    def average_precision(self) -> Floats:
        return mean_over(self.each_average_precision)

    @property
    def average_precision_present(self) -> Floats:
        return mean_of_present(self.each_average_precision)

    @property
    def f1_micro(self) -> Floats:
        return self._f1_of_called[1]

    @property
    def f1_macro(self) -> Floats:
        return mean_over(self._f1_of_called[0])

    @property
    def f1_macro_present(self) -> Floats:
        return self._of_varied(self._f1_of_called[0])

    @property
    def hamming(self) -> Floats:
        return self._mean((self.truth != self.predicted).mean(1))

    @property
    def top3_f1_micro(self) -> Floats:
        return self._f1_of_top[1]

    @property
    def top3_f1_macro(self) -> Floats:
        return mean_over(self._f1_of_top[0])

    @property
    def top3_f1_macro_present(self) -> Floats:
        return self._of_varied(self._f1_of_top[0])

    @property
    def top3_hamming(self) -> Floats:
        return self._mean((self.truth != self._top).mean(1))

    @property
    def top3_1(self) -> Floats:
        return self._hits(1)

    @property
    def top3_2(self) -> Floats:
        return self._hits(2)

    @property
    def top3_3(self) -> Floats:
        return self._hits(3)

    def _hits(self, least: int) -> Floats:
        return self._mean(((self.truth & self._top).sum(1) >= least).astype(np.float64))

    def _mean(self, values: Floats) -> Floats:
        return self.weights.sums(values) / self.weights.total

    def _of_varied(self, each: Floats) -> Floats:
        """Return the mean over the labels that some rows have and some have not."""
        return mean_of_present(np.where(self._varied, each, np.nan))

    @property
    def labels_present(self) -> Floats:
        return np.asarray(np.count_nonzero(self._varied, axis=1), np.float64)

    def of_each_class(self) -> Iterator[Mapping[str, Floats]]:
        """Yield the metrics of each label: precision, recall, f1, auc and support."""
        both, called = self.weights.sums(self.truth & self.predicted), self.weights.sums(self.predicted)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = both / self.support
            precision = np.where(self.support > 0, np.where(called > 0, both / called, 0), np.nan)
        for c in range(self.k):
            yield {
                "precision": precision[:, c],
                "recall": recall[:, c],
                "f1": self._f1_of_called[0][:, c],
                "auc": self.each_auc[:, c],
                "support": self.support[:, c],
            }


def mean_over(each: Floats) -> Floats:
    """Return the mean over the classes or labels, the second axis; NaN if one is undefined."""
    means: Floats = each.mean(1)
    return means


def mean_of_present(each: Floats) -> Floats:
    """Return the mean over the defined classes or labels, the second axis; NaN if none is defined."""
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(there, each, 0).sum(1) / there.sum(1)
    return means
