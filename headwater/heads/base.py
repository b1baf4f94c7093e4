"""What every head can do beyond a scikit-learn estimator: be fitted many times at once, and be saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from headwater.heads.tokens import Ragged

Fit = tuple[NDArray[np.int64], Mapping[str, Any]]
Input = Any  # an array-like of features, or a dict of them by name
SearchSpace = Mapping[str, tuple[Any, ...]]
State = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class Head(BaseEstimator):  # type: ignore[misc]
    """A small model on features: arrays in, class probabilities or numbers out.

    A head is a scikit-learn classifier or regressor. X is a NumPy array or any array-like that has ``shape``,
    ``dtype``, ``array[rows]`` and ``blocks()``; a head over several inputs takes a dict of them.

    Attributes
    ----------
    takes_inputs
        Whether X may be a dict of inputs; others are given them side by side.
    takes_tokens
        Whether rows of an input may be matrices; others are given one vector a row.
    least_inputs
        How many inputs it needs.
    search_space
        For each parameter that is worth searching, where: ``("log", low, high)``, ``("uniform", low, high)``,
        ``("int", low, high)``, ``("log-int", low, high)``, ends included, or ``("choice", (value, ...))``.
    takes_texts
        Whether it has a parameter ``texts``, what the text side of the images' encoder says of each class.
    seeds_together
        Whether fits of several seeds are faster in one `fit_many` than one seed after the other.
    transductive
        Whether rows that are predicted together help each other, so that predictions depend on the company.
    """

    takes_inputs: ClassVar[bool] = False
    takes_tokens: ClassVar[bool] = False
    least_inputs: ClassVar[int] = 1
    search_space: ClassVar[SearchSpace] = {}
    takes_texts: ClassVar[bool] = False
    seeds_together: ClassVar[bool] = False
    transductive: ClassVar[bool] = False

    def fit_many(
        self, X: Input, y: NDArray[Any], fits: Sequence[Fit], *, groups: NDArray[Any] | None = None
    ) -> list[Self]:
        """Fit copies of this head on parts of the rows, each with settings of its own.

        Parameters
        ----------
        X
            Features of shape ``(n_samples, ...)``.
        y
            Labels of shape ``(n_samples,)``, or 0/1 of shape ``(n_samples, n_labels)``; of a regressor numbers,
            ``(n_samples,)`` or ``(n_samples, n_outputs)``.
        fits
            For each fit, its training rows (int64) and the parameters that differ from this head's. Row arrays that
            are shared between fits should be the same object.
        groups
            Of shape ``(n_samples,)``: what a head must keep whole when it holds out some of its training rows, to stop
            by or to calibrate on.

        Returns
        -------
        list
            A fitted head for each fit, in order.
        """
        return [clone(self).set_params(**params).fit(take(X, rows), y[rows]) for rows, params in fits]

    @abstractmethod
    def fit(self, X: Input, y: NDArray[Any]) -> Self:
        """Fit on all rows."""

    @abstractmethod
    def default_grid(self) -> list[dict[str, Any]]:
        """Return the settings to choose among when the user names none."""

    @abstractmethod
    def to_state(self) -> State:
        """Return a fitted head as plain JSON values and arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a head from `to_state`."""


def take(X: Input, rows: NDArray[np.int64]) -> Input:
    """Return the rows of an input, or of each of several."""
    if is_several(X):
        return {name: part[rows] for name, part in X.items()}
    return X[rows]


def is_several(X: Input) -> bool:
    """Whether X is a dict of inputs; one kind of sparse matrix, which has a shape, is a dict as well."""
    return isinstance(X, Mapping) and not hasattr(X, "shape")


def n_rows(X: Input) -> int:
    """Return the number of rows of an input, or of several alike."""
    part = next(iter(X.values())) if is_several(X) else X
    return len(part) if isinstance(part, Ragged) else int(part.shape[0])


def blocks(X: Any, rows: int = 8192) -> Iterator[tuple[slice, Any]]:
    """Yield ``(rows, values)`` over an array or array-like, in order."""
    if hasattr(X, "blocks"):
        yield from X.blocks()
        return
    for start in range(0, X.shape[0], rows):
        yield slice(start, min(start + rows, X.shape[0])), X[start : start + rows]
