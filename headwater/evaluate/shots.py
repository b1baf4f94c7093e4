"""Few-shot draws: repeated draws of a few training rows of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.errors import SplitError
from headwater.evaluate._labels import counted, encode
from headwater.evaluate.splits import Split

Rows = NDArray[np.int64]


def few_shots(
    splits: Sequence[Split], y: NDArray[Any], groups: NDArray[Any] | None, *, shots: int, n_draws: int = 1
) -> list[Split]:
    """Draw some of the training rows of each split, several times; test rows stay the same.

    Rows of a class are drawn from as many groups as possible: no group gives a second row before every group with the
    class has given one.

    Parameters
    ----------
    splits
        Splits from `make_splits`; their seed is used for the draws.
    y : array of shape (n_samples,)
        Classes.
    groups : array of shape (n_samples,), optional
        Groups of similar rows, such as patients.
    shots
        Number of rows per class.
    n_draws
        Number of draws.

    Returns
    -------
    list of Split
        ``n_draws`` for each of `splits`, in their order.

    Raises
    ------
    SplitError
        When a class has fewer training rows in a fold.

    Examples
    --------
    >>> split = Split(0, np.arange(6), np.arange(6, 8))
    >>> y = np.array(["benign", "malignant"] * 4)
    >>> [np.bincount(np.searchsorted(["benign", "malignant"], y[s.train])).tolist()
    ...  for s in few_shots([split], y, None, shots=2, n_draws=3)]
    [[2, 2], [2, 2], [2, 2]]
    """
    if shots < 1 or n_draws < 1:
        what, n = ("--shots", shots) if shots < 1 else ("--draws", n_draws)
        raise SplitError(f"{what} must be at least 1, but is {n}.")
    classes, codes = encode(y, "label")
    units = np.arange(len(y)) if groups is None else encode(groups, "groups")[1]
    drawn = []
    for split in splits:
        there = np.bincount(codes[split.train], minlength=len(classes))
        if there.min() < shots:
            rarest = int(there.argmin())
            raise SplitError(
                f"fold {split.fold} has {counted(int(there[rarest]), 'training row')} of class {classes[rarest]!s}, "
                f"but --shots {shots} needs that many of each class. Pass a smaller --shots."
            )
        for draw in range(n_draws):
            rng = np.random.default_rng([split.seed, split.fold, draw])
            shuffled = rng.permutation(split.train)
            rows = [_from_many_groups(shuffled[codes[shuffled] == c], units)[:shots] for c in range(len(classes))]
            drawn.append(replace(split, train=np.sort(np.concatenate(rows)), draw=draw))
    return drawn


def _from_many_groups(rows: Rows, units: Rows) -> Rows:
    """Order rows so that each group's first row comes before any group's second row."""
    order = np.argsort(units[rows], kind="stable")
    ordered = units[rows][order]
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return rows[np.argsort(turn, kind="stable")]
