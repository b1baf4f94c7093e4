"""Many weightings of the same rows, such as the resamples of a bootstrap, and rankings under all of them at once.

A group's rows share one weight, so sums over rows become sums over groups: a metric that is a function of sums costs
one matrix product, however many rows a group has. Results have one entry per weighting, of shape ``(draws,)``.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_ROUNDING = 1e-9


class Weightings:
    """Weights of groups of rows.

    Parameters
    ----------
    of_groups : float64 array of shape (draws, n_groups)
        How often each group counts.
    groups : int64 array of shape (n,)
        The group of each row.
    """

    def __init__(self, of_groups: Floats, groups: Integers) -> None:
        self.of_groups = of_groups
        self.groups = groups

    @classmethod
    def of_rows(cls, weights: Floats) -> Weightings:
        """Return weightings in which each row is its own group; weights have shape ``(draws, n)``."""
        return cls(weights, np.arange(weights.shape[1]))

    @classmethod
    def once(cls, n: int) -> Weightings:
        """Return the one weighting in which each of ``n`` rows counts once."""
        return cls(np.ones((1, 1)), np.zeros(n, np.int64))

    def __len__(self) -> int:
        return len(self.of_groups)

    def some(self, draws: slice | Bools) -> Weightings:
        """Return some of the weightings."""
        return Weightings(self.of_groups[draws], self.groups)

    @cached_property
    def total(self) -> Floats:
        """The sum of all weights, of shape ``(draws,)``."""
        sizes = np.bincount(self.groups, minlength=self.of_groups.shape[1])
        return self.of_groups @ sizes.astype(np.float64)

    def sums(self, columns: NDArray[np.floating] | Bools) -> Floats:
        """Return weighted sums over rows: ``(n,)`` becomes ``(draws,)``, and ``(n, c)`` becomes ``(draws, c)``."""
        n_groups = self.of_groups.shape[1]
        if columns.ndim == 1:
            return self.of_groups @ np.bincount(self.groups, weights=columns, minlength=n_groups)
        of_group = [np.bincount(self.groups, weights=column, minlength=n_groups) for column in columns.T]
        return self.of_groups @ np.stack(of_group, axis=1)

    def rows(self, order: Integers) -> Floats:
        """Return the weights of rows in an order, of shape ``(draws, len(order))``."""
        return np.take(self.of_groups, self.groups[order], axis=1)


class Ranked:
    """Positive and negative rows ranked by their scores, the highest first; equal scores are one step.

    Each property has shape ``(draws,)`` and is NaN for a weighting without positives or without negatives.
    """

    def __init__(self, positive: Bools, scores: Floats, weights: Weightings) -> None:
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        self._ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
        self._ties = len(self._ends) < len(order)
        self._order, self._truth, self._weights = order, positive[order], weights

    @cached_property
    def _steps(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Weight of positives and of negatives in each step, and cumulated, each of shape ``(draws, steps)``."""
        weights = self._weights.rows(self._order)
        gained = weights * self._truth
        passed = np.subtract(weights, gained, out=weights)
        if self._ties:
            firsts = np.concatenate([[0], self._ends[:-1] + 1])
            gained, passed = (np.add.reduceat(part, firsts, axis=1) for part in (gained, passed))
        return gained, passed, np.cumsum(gained, axis=1), np.cumsum(passed, axis=1)

    @cached_property
    def _totals(self) -> tuple[Floats, Floats]:
        *_, positives, negatives = self._steps
        return positives[:, -1], negatives[:, -1]

    def _defined(self, values: Floats) -> Floats:
        positives, negatives = self._totals
        found: Floats = np.where((positives > 0) & (negatives > 0), values, np.nan)
        return found

    @cached_property
    def auc(self) -> Floats:
        """The area under the ROC curve, the probability that a positive scores above a negative; ties count half."""
        gained, passed, _, negatives = self._steps
        n_positive, n_negative = self._totals
        above = np.einsum("ij,ij->i", gained, negatives) - np.einsum("ij,ij->i", gained, passed) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._defined(1 - above / (n_positive * n_negative))

    @cached_property
    def average_precision(self) -> Floats:
        """Precision summed over the steps of recall."""
        gained, _, positives, negatives = self._steps
        called = positives + negatives
        precision = np.divide(positives, called, out=called, where=called > 0)  # 0 where nothing counts yet
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._defined(np.einsum("ij,ij->i", precision, gained) / self._totals[0])

    def sensitivity(self, specificity: float) -> Floats:
        """Return the highest sensitivity of a threshold that reaches a specificity on these rows."""
        *_, positives, negatives = self._steps
        n_positive, n_negative = self._totals
        allowed = (1 - specificity) * n_negative * (1 + _ROUNDING)
        n_steps = np.count_nonzero(negatives <= allowed[:, None], axis=1)
        reached = np.where(n_steps > 0, _at(positives, np.maximum(n_steps - 1, 0)), 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._defined(reached / n_positive)

    def specificity(self, sensitivity: float) -> Floats:
        """Return the highest specificity of a threshold that reaches a sensitivity on these rows."""
        *_, positives, negatives = self._steps
        n_positive, n_negative = self._totals
        needed = sensitivity * n_positive * (1 - _ROUNDING)
        first = np.count_nonzero(positives < needed[:, None], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._defined(1 - _at(negatives, np.minimum(first, positives.shape[1] - 1)) / n_negative)

    def partial_auc(self, specificity: float) -> Floats:
        """Return the area under the ROC curve above a specificity, scaled so that chance is 0.5 and 1 is perfect.

        References
        ----------
        McClish, Analyzing a portion of the ROC curve, Medical Decision Making 9, 1989.
        """
        n_positive, n_negative = self._totals
        end = ((1 - specificity) * n_negative)[:, None]
        *_, negatives = self._steps
        n_steps = 1 + int(np.count_nonzero(negatives < end, axis=1).max(initial=0))  # all further steps lie beyond it
        gained, passed, positives, negatives = (part[:, :n_steps] for part in self._steps)
        width = np.minimum(negatives, end) - np.minimum(negatives - passed, end)
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(passed > 0, width / passed, 0)
            area = (width * (positives - gained + part * gained / 2)).sum(1) / (n_positive * n_negative)
        most = 1 - specificity
        least = most**2 / 2
        return self._defined((1 + (area - least) / (most - least)) / 2)


def _at(values: Floats, place: Integers) -> Floats:
    """Return one column of each row."""
    found: Floats = np.take_along_axis(values, place[:, None], axis=1)[:, 0]
    return found
