"""Texts of samples that state the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate.splits import Split
from headwater.evaluate.stated import Stated, stated_in
from headwater.store import Data

READ = ("/text", "/pair")  # name endings of feature sets that encode texts


def texts_that_state(
    samples: Data,
    column: str | None,
    y: NDArray[Any],
    names: Sequence[Any],
    splits: Sequence[Split],
    groups: NDArray[Any] | None = None,
) -> Stated | None:
    """Measure how far the texts of samples state their labels; None without texts.

    Parameters
    ----------
    samples
        Samples, with a table that holds the texts.
    column
        The column of texts.
    y
        Their labels: classes, 0/1 for several labels, or numbers.
    names
        Names of classes, labels or outputs, in the order of `numpy.unique` or of columns.
    splits
        Splits of the samples.
    groups
        Their groups, such as the patient.
    """
    if column is None or column not in samples.table.columns:
        return None
    texts = samples.table[column].cast(pl.String)
    there = texts.is_not_null().to_numpy()
    if there.sum() < 2:
        return None
    place = np.cumsum(there) - 1
    inside = [
        Split(s.fold, place[s.train[there[s.train]]], place[s.test[there[s.test]]], s.seed, s.draw) for s in splits
    ]
    codes = y if y.ndim == 2 or y.dtype.kind == "f" else np.unique(y, return_inverse=True)[1]
    words, of = [str(name) for name in names], None if groups is None else groups[there]
    return stated_in(texts.drop_nulls().to_list(), codes[there], words, inside, groups=of)
