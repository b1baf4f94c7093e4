"""Training rows held out for early stopping."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_ROWS = 20  # with fewer rows, nothing is held out


def rows_to_stop_by(codes: NDArray[Any], groups: NDArray[Any] | None, share: float, seed: int) -> NDArray[np.int64]:
    """Return the rows to hold out, in whole groups and stratified by class if possible.

    Parameters
    ----------
    codes
        Class numbers, of shape ``(n,)``, or 0/1 of shape ``(n, n_labels)``.
    groups
        Groups, of shape ``(n,)``; None for independent rows.
    share
        Approximate share of the rows.

    Returns
    -------
    int64, sorted; empty if there are too few rows or groups, or if a class would have no training rows left.
    """
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedGroupKFold, StratifiedKFold

    none = np.zeros(0, np.int64)
    n_units = len(codes) if groups is None else len(np.unique(groups))
    n_folds = round(1 / share) if share > 0 else 0
    if n_folds < 2 or len(codes) < LEAST_ROWS or n_units < n_folds:
        return none
    empty = np.empty((len(codes), 0))
    if codes.ndim == 2 or np.bincount(codes)[np.unique(codes)].min() < n_folds:
        splitter: Any = ShuffleSplit if groups is None else GroupShuffleSplit
        kept, held = next(splitter(1, test_size=share, random_state=seed).split(empty, None, groups))
    else:
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about rare classes
            kept, held = next(splitter(n_folds, shuffle=True, random_state=seed).split(empty, codes, groups))
    if codes.ndim == 1 and len(np.unique(codes[kept])) < len(np.unique(codes)):
        return none
    return np.sort(held).astype(np.int64)


class RowsToStopBy:
    """The rows to hold out of each fit's rows, found once for fits on the same rows; see `rows_to_stop_by`.

    Parameters
    ----------
    codes, groups
        Of all rows.
    """

    def __init__(self, codes: NDArray[Any], groups: NDArray[Any] | None) -> None:
        self._codes, self._groups = codes, groups
        self._found: dict[tuple[int, float, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __call__(self, rows: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
        """Return places within ``rows``; fits on the same rows should pass the same array object."""
        key = id(rows), share, seed
        if key not in self._found:
            groups = None if self._groups is None else self._groups[rows]
            self._found[key] = rows, rows_to_stop_by(self._codes[rows], groups, share, seed)  # keeps the id taken
        return self._found[key][1]
