"""Metrics of grades: classes with an order, under many weightings of the rows at once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headwater.evaluate._weightings import Ranked
from headwater.evaluate.classification import ClassRows, mean_of_present, mean_over
from headwater.evaluate.regression import rank_correlation

Floats = NDArray[np.float64]
METRICS = (
    *("accuracy", "balanced_accuracy", "mae_grades", "off_by_two", "kappa", "kappa_quadratic", "spearman"),
    *("auc_cuts", "log_loss", "rps", "brier", "ece", "balanced_accuracy_present", "auc_cuts_present"),
)


class GradeRows(ClassRows):
    """Rows with one grade each, numbered from the lowest, and the metrics of their scores; see `ClassRows`.

    Errors in grades are those of the likeliest grade, which is also the one that a run predicts.
    """

    @cached_property
    def _off(self) -> Floats:
        """How many grades each prediction is off, of shape ``(n,)``."""
        off: Floats = np.abs(self.truth - self.predicted).astype(np.float64)
        return off

    @property
    def mae_grades(self) -> Floats:
        """Mean number of grades that predictions are off."""
        return self.weights.sums(self._off) / self.weights.total

    @property
    def off_by_two(self) -> Floats:
        """Share of predictions that are off by two grades or more."""
        return self.weights.sums(self._off >= 2) / self.weights.total

    @cached_property
    def spearman(self) -> Floats:
        """Rank correlation of the true and the expected grade."""
        expected = self.scores @ np.arange(self.k)
        return rank_correlation(self.truth.astype(np.float64), expected, self.weights.rows(np.arange(len(self.truth))))

    @cached_property
    def _beyond(self) -> Floats:
        return exceedance(self.scores)

    @cached_property
    def each_cut(self) -> Floats:
        """AUC at each cut, of grades at or above it against those below, of shape ``(draws, k - 1)``."""
        ranked = (Ranked(self.truth > c, self._beyond[:, c], self.weights) for c in range(self.k - 1))
        return np.stack([one.auc for one in ranked], axis=1)

    @property
    def auc_cuts(self) -> Floats:
        return mean_over(self.each_cut)

    @property
    def auc_cuts_present(self) -> Floats:
        return mean_of_present(self.each_cut)

    @cached_property
    def rps(self) -> Floats:
        """Ranked probability score: the squared error of ``P(grade at or above a cut)``, mean over cuts.

        References
        ----------
        Epstein, A scoring system for probability forecasts of ranked categories, J. Applied Meteorology 8, 1969.
        """
        reached = self.truth[:, None] > np.arange(self.k - 1)
        return self.weights.sums(((self._beyond - reached) ** 2).mean(1)) / self.weights.total


def exceedance(scores: Floats) -> Floats:
    """Return the probability of a grade at or above each cut, ``(n, k - 1)``, from those of grades, ``(n, k)``.

    Examples
    --------
    >>> exceedance(np.array([[0.5, 0.25, 0.25]])).tolist()
    [[0.5, 0.25]]
    """
    return np.ascontiguousarray(np.clip(scores[:, ::-1].cumsum(1)[:, ::-1][:, 1:], 0, 1))


def from_exceedance(beyond: Floats) -> Floats:
    """Return the probabilities of grades, ``(n, k)``, from those at or above each cut, which must not ascend."""
    ends = np.ones((len(beyond), 1))
    found: Floats = np.maximum(-np.diff(np.concatenate([ends, beyond, 0 * ends], axis=1), axis=1), 0)
    return found
