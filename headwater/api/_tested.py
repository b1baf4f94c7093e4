"""What a run's predictions say, as numbers: the truth, scores, groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

REPEATS = ("seed", "draw", "fold")


def names_key(task: str) -> str:
    """Return what ``metrics.json`` calls the columns of scores of a task."""
    return "outputs" if task == "regression" else "classes"


def names_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's classes, labels or outputs."""
    return [str(name) for name in metrics[names_key(metrics["task"])]]


def output_ends(names: Sequence[str]) -> list[str]:
    """Return what ``label`` and ``predicted`` end in, for each output of a regression.

    Examples
    --------
    >>> output_ends(["age"]), output_ends(["age", "weight"])
    ([''], ['_age', '_weight'])
    """
    return [f"_{name}" for name in names] if len(names) > 1 else [""]


def label_columns(names: Sequence[str], task: str) -> list[str]:
    """Return the columns of a run's predictions that hold the truth."""
    return [f"label{end}" for end in output_ends(names)] if task == "regression" else ["label"]


def truth_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[Any]:
    """Return class numbers ``(n,)``, 0/1 ``(n, n_labels)``, or numbers ``(n, n_outputs)``."""
    if task == "regression":
        return table.select(label_columns(classes, task)).to_numpy().astype(np.float64)
    if task == "multilabel":
        return np.array([[name in row for name in classes] for row in table["label"].to_list()], np.int64)
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[str(value)] for value in table["label"].to_list()], np.int64)


def scores_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[np.float64]:
    """Return scores, of shape ``(n, n_classes)``; of a regression what is predicted, ``(n, n_outputs)``."""
    if task == "regression":
        return table.select([f"predicted{end}" for end in output_ends(classes)]).to_numpy().astype(np.float64)
    return table.select([f"score_{name}" for name in classes]).to_numpy().astype(np.float64)


def codes_of(column: pl.Series) -> NDArray[np.int64]:
    """Return a number for each value of a column."""
    codes: NDArray[np.int64] = np.unique(column.cast(pl.String).to_numpy().astype(str), return_inverse=True)[1]
    return codes


def folds_of(table: pl.DataFrame) -> list[NDArray[np.int64]]:
    """Return the rows of each fold, of every seed and draw: those that one fit tested."""
    keys = [name for name in REPEATS if name in table.columns]
    numbered = table.select(keys).with_row_index("row")
    return [part["row"].to_numpy().astype(np.int64) for part in numbered.partition_by(keys, maintain_order=True)]


def rows_trained(
    metrics: Mapping[str, Any], table: pl.DataFrame, rows: Sequence[NDArray[np.int64]]
) -> list[int | None]:
    """Return how many rows each fold was trained on, by what ``metrics.json`` says; None where it says nothing.

    ``rows`` are those of each fold in a run's predictions, as `folds_of` returns them.
    """
    keys = [name for name in REPEATS if name in table.columns]
    known = {tuple(fold.get(name) for name in keys): fold.get("n_train") for fold in metrics["folds"]}
    found = [known.get(tuple(table.select(keys).row(int(part[0])))) for part in rows]
    return [n if isinstance(n, int) and n > 0 else None for n in found]


def interval_words(low: float | None, high: float | None, sign: str = "") -> str:
    """Write an interval, where there is one."""
    return "–" if low is None or high is None or low != low or high != high else f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def number_words(value: float | None, sign: str = "") -> str:
    """Write a number, where it is defined."""
    return "–" if value is None or value != value else f"{value:{sign}.3f}"


def p_words(p: float | None, least: float | None = None) -> str:
    """Write a p value; one that could hardly have been smaller says so."""
    if p is None or p != p:
        return "–"
    word = "<0.001" if p < 0.001 else f"{p:.3f}"
    return f"{word} (least {least:.2g})" if least is not None and least > 0.01 else word
