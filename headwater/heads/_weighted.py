"""Heads that accept sample weights, as in scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from headwater.heads._settings import weights_of_rows


class TakesWeights:
    """Mixin with ``fit`` for heads whose `fit_many` takes sample weights; list it before the class with ``_fitted``."""

    if TYPE_CHECKING:

        def _fitted(self, X: Any, y: Any, rows: Any = None, **options: Any) -> Self: ...

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on all rows.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, d)``.
        y
            Labels of shape ``(n_samples,)``, or 0/1 of shape ``(n_samples, n_labels)``; for a regressor numbers, of
            shape ``(n_samples,)`` or ``(n_samples, n_outputs)``.
        sample_weight
            Weight of each row, of shape ``(n_samples,)``, at least 0. Default: 1. Rows of weight 0 are ignored;
            standardisation gives all others equal weight.

        Raises
        ------
        HeadError
            When there is one class only, a feature or a target is not finite (the message names rows), or weights are
            invalid.
        """
        if sample_weight is None:
            return self._fitted(X, y)
        weight = weights_of_rows(sample_weight, len(np.asarray(y)))
        return self._fitted(X, y, np.flatnonzero(weight), sample_weight=weight)
