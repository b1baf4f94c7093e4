"""Predictions of runs as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate.metrics import Task


def truth_of(table: pl.DataFrame, classes: Sequence[str], task: Task) -> NDArray[np.int64]:
    """Return class numbers ``(n,)``, or 0/1 ``(n, n_labels)``."""
    if task == "multilabel":
        return np.array([[name in row for name in classes] for row in table["label"].to_list()], np.int64)
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[str(value)] for value in table["label"].to_list()], np.int64)


def scores_of(table: pl.DataFrame, classes: Sequence[str]) -> NDArray[np.float64]:
    """Return the scores of each class, of shape ``(n, n_classes)``."""
    return table.select([f"score_{name}" for name in classes]).to_numpy().astype(np.float64)


def codes_of(column: pl.Series) -> NDArray[np.int64]:
    """Return a number for each value of a column, of shape ``(n,)``."""
    codes: NDArray[np.int64] = np.unique(column.cast(pl.String).to_numpy().astype(str), return_inverse=True)[1]
    return codes
