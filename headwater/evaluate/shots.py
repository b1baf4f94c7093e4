"""Few-shot draws: a few training rows of each class, drawn again and again."""

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
    """Draw some of the training rows of each split, several times; its test rows stay.

    Rows of a class are drawn from as many groups as possible: none gives a second row before each group that has the
    class gave one.

    Parameters
    ----------
    splits
        As `make_splits` made them; their seed is that of the draws.
    y : array of shape (n_samples,)
        Classes.
    groups : array of shape (n_samples,), optional
        Of which rows are alike, such as patients.
    shots
        Rows of each class.
    n_draws
        How often.

    Returns
    -------
    list of Split
        ``n_draws`` for each of `splits`, in their order.

    Raises
    ------
    SplitError
        When the training rows of a fold have fewer rows of a class.

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
                f"but --shots {shots} needs as many of each: ask for fewer shots."
            )
        for draw in range(n_draws):
            rng = np.random.default_rng([split.seed, split.fold, draw])
            shuffled = rng.permutation(split.train)
            rows = [_from_many_groups(shuffled[codes[shuffled] == c], units)[:shots] for c in range(len(classes))]
            drawn.append(replace(split, train=np.sort(np.concatenate(rows)), draw=draw))
    return drawn


def _from_many_groups(rows: Rows, units: Rows) -> Rows:
    """Return rows in an order in which each group gives its first row before any gives its second."""
    order = np.argsort(units[rows], kind="stable")
    ordered = units[rows][order]
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return rows[np.argsort(turn, kind="stable")]
