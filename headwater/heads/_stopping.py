"""Training rows held out for early stopping."""

from __future__ import annotations

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
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedKFold

    none = np.zeros(0, np.int64)
    n_units = len(codes) if groups is None else len(np.unique(groups))
    n_folds = round(1 / share) if share > 0 else 0
    if n_folds < 2 or len(codes) < LEAST_ROWS or n_units < n_folds:
        return none
    empty = np.empty((len(codes), 0))
    if codes.ndim == 2 or np.bincount(codes)[np.unique(codes)].min() < n_folds:
        splitter: Any = ShuffleSplit if groups is None else GroupShuffleSplit
        kept, held = next(splitter(1, test_size=share, random_state=seed).split(empty, None, groups))
    elif groups is not None:
        first = _first_fold(codes, groups, n_folds, seed)
        kept, held = np.flatnonzero(~first), np.flatnonzero(first)
    else:
        kept, held = next(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(empty, codes))
    if codes.ndim == 1 and len(np.unique(codes[kept])) < len(np.unique(codes)):
        return none
    return np.sort(held).astype(np.int64)


def _first_fold(codes: NDArray[Any], groups: NDArray[Any], n_folds: int, seed: int) -> NDArray[np.bool_]:
    """Return which rows are in the first fold of scikit-learn's ``StratifiedGroupKFold``, several times faster.

    One group after the other goes to the fold where it makes classes most even over folds; if several folds are as
    good, to the one with the fewest rows.
    """
    _, classes, n_of_class = np.unique(codes, return_inverse=True, return_counts=True)
    names, number = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(n_of_class)))
    np.add.at(counts, (number, classes), 1)
    shuffled = np.arange(len(names))
    np.random.RandomState(seed).shuffle(shuffled)  # scikit-learn's generator
    order = shuffled[np.argsort(-np.std(counts[shuffled], axis=1), kind="stable")]
    of_fold, fold_of, each = np.zeros((n_folds, len(n_of_class))), np.zeros(len(names), np.int64), np.arange(n_folds)
    for group in order:
        with_it = np.repeat(of_fold[None], n_folds, axis=0)  # of all folds, if the group goes to each
        with_it[each, each] += counts[group]
        uneven = np.std(with_it / n_of_class, axis=1).mean(axis=1).tolist()
        n_rows = of_fold.sum(axis=1).tolist()
        best = 0
        for fold in range(1, n_folds):
            as_good = abs(uneven[fold] - uneven[best]) <= 1e-8 + 1e-5 * abs(uneven[best])
            if uneven[fold] < uneven[best] or (as_good and n_rows[fold] < n_rows[best]):
                best = fold
        of_fold[best] += counts[group]
        fold_of[group] = best
    return np.asarray(fold_of[number] == 0)


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
