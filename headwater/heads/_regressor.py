"""The base class of heads that predict numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from headwater.errors import HeadError
from headwater.heads._classifier import is_plain, validated
from headwater.heads.base import Head, Input, take

Floats = NDArray[np.float64]


class Regressor(RegressorMixin, Head):  # type: ignore[misc]
    """A head that predicts one or several numbers per row.

    Attributes
    ----------
    several_ : bool
        Whether it was fitted on two-dimensional targets, and so predicts two dimensions.
    n_features_in_ : int
        Columns of X.
    """

    several_: bool
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def fit(self, X: Input, y: Any) -> Self:
        """Fit on all rows.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, d)``.
        y
            Numbers of shape ``(n_samples,)`` or ``(n_samples, n_outputs)``.

        Raises
        ------
        HeadError
            When a feature or a target is not finite; the message names rows.
        """
        return self._fitted(X, y)

    def _fitted(self, X: Input, y: Any, rows: NDArray[np.int64] | None = None, **options: Any) -> Self:
        """Fit on some rows, or on all, with options of `fit_many`."""
        if is_plain(X):
            X, y = validated(self, X, y, multi_output=True, y_numeric=True)
        (fitted,) = self.fit_many(X, np.asarray(y), [(np.arange(X.shape[0]) if rows is None else rows, {})], **options)
        self.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
        return self

    def predict(self, X: Input) -> NDArray[np.floating[Any]]:
        """Return numbers of shape ``(n_samples,)``, or ``(n_samples, n_outputs)`` for two-dimensional targets.

        Raises
        ------
        HeadError
            When X has another number of columns than in fitting.
        """
        check_is_fitted(self)
        if is_plain(X):
            X = validated(self, X, reset=False)
        if X.shape[1] != self.n_features_in_:
            raise HeadError(f"X has {X.shape[1]} features, but this head was fitted on {self.n_features_in_}.")
        outputs = self._outputs(X)
        return outputs if self.several_ else outputs[:, 0]

    @classmethod
    def predict_many(
        cls, heads: Sequence[Self], X: Input, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.floating[Any]]]:
        """Return ``head.predict(X[rows])`` for each head with its rows."""
        return [head.predict(take(X, part)) for head, part in zip(heads, rows, strict=True)]

    @abstractmethod
    def _outputs(self, X: Input) -> Floats:
        """Return predictions of shape ``(n_samples, n_outputs)``."""


def as_targets(y: NDArray[Any]) -> tuple[Floats, bool]:
    """Return targets as float64 of shape ``(n_samples, n_outputs)``, and whether they had two dimensions.

    Raises
    ------
    HeadError
        When targets are not finite numbers.
    """
    try:
        values = np.asarray(y, np.float64)
    except (TypeError, ValueError) as error:
        raise HeadError(f"targets must be numbers: {error}.") from error
    several = values.ndim == 2
    values = values if several else values.reshape(-1, 1)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise HeadError(f"targets are not finite in {len(bad)} rows, the first being {bad[:5].tolist()}.")
    return values, several
