"""What a run's predictions say, as numbers: true classes, scores, groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray


def truth_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[np.int64]:
    """Return class numbers ``(n,)``, or 0/1 ``(n, n_labels)``."""
    if task == "multilabel":
        return np.array([[name in row for name in classes] for row in table["label"].to_list()], np.int64)
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[str(value)] for value in table["label"].to_list()], np.int64)


def scores_of(table: pl.DataFrame, classes: Sequence[str]) -> NDArray[np.float64]:
    """Return scores, of shape ``(n, n_classes)``."""
    return table.select([f"score_{name}" for name in classes]).to_numpy().astype(np.float64)


def codes_of(column: pl.Series) -> NDArray[np.int64]:
    """Return a number for each value of a column."""
    codes: NDArray[np.int64] = np.unique(column.cast(pl.String).to_numpy().astype(str), return_inverse=True)[1]
    return codes


def interval_words(low: float | None, high: float | None, sign: str = "") -> str:
    """Write an interval, where there is one."""
    return "–" if low is None or high is None else f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def p_words(p: float | None, least: float | None = None) -> str:
    """Write a p value; one that could hardly have been smaller says so."""
    if p is None or p != p:
        return "–"
    word = "<0.001" if p < 0.001 else f"{p:.3f}"
    return f"{word} (least {least:.2g})" if least is not None and least > 0.01 else word
