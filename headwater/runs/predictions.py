"""A run's predictions as arrays: true labels, scores and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate import Outcome
from headwater.evaluate.fold_means import numbered

REPEATS = ("seed", "draw", "fold")


def names_key(task: str) -> str:
    """Return the key in ``metrics.json`` that names the score columns of a task."""
    return "outputs" if task == "regression" else "classes"


def names_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of a run's classes, labels or outputs."""
    return [str(name) for name in metrics[names_key(metrics["task"])]]


def output_ends(names: Sequence[str]) -> list[str]:
    """Return the suffix of ``label`` and ``predicted`` for each output of a regression.

    Examples
    --------
    >>> output_ends(["age"]), output_ends(["age", "weight"])
    ([''], ['_age', '_weight'])
    """
    return [f"_{name}" for name in names] if len(names) > 1 else [""]


def label_columns(names: Sequence[str], task: str) -> list[str]:
    """Return the columns of a run's predictions that hold the true labels."""
    return [f"label{end}" for end in output_ends(names)] if task == "regression" else ["label"]


def truth_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[Any]:
    """Return true labels: class numbers ``(n,)``, 0/1 ``(n, n_labels)``, or numbers ``(n, n_outputs)``."""
    if task == "regression":
        return table.select(label_columns(classes, task)).to_numpy().astype(np.float64)
    if task == "multilabel":
        return np.array([[name in row for name in classes] for row in table["label"].to_list()], np.int64)
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[str(value)] for value in table["label"].to_list()], np.int64)


def scores_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[np.float64]:
    """Return scores of shape ``(n, n_classes)``; for a regression, predictions of shape ``(n, n_outputs)``."""
    if task == "regression":
        return table.select([f"predicted{end}" for end in output_ends(classes)]).to_numpy().astype(np.float64)
    return table.select([f"score_{name}" for name in classes]).to_numpy().astype(np.float64)


def codes_of(column: pl.Series) -> NDArray[np.int64]:
    """Return an integer code for each value of a column."""
    codes: NDArray[np.int64] = np.unique(column.cast(pl.String).to_numpy().astype(str), return_inverse=True)[1]
    return codes


def folds_of(table: pl.DataFrame) -> list[NDArray[np.int64]]:
    """Return the test rows of each fold, for every seed and draw."""
    keys = [name for name in REPEATS if name in table.columns]
    numbered = table.select(keys).with_row_index("row")
    return [part["row"].to_numpy().astype(np.int64) for part in numbered.partition_by(keys, maintain_order=True)]


def rows_trained(
    metrics: Mapping[str, Any], table: pl.DataFrame, rows: Sequence[NDArray[np.int64]]
) -> list[int | None]:
    """Return the number of training rows of each fold, from ``metrics.json``; None if it does not say.

    ``rows`` are the test rows of each fold, as `folds_of` returns them.
    """
    keys = [name for name in REPEATS if name in table.columns]
    known = {tuple(fold.get(name) for name in keys): fold.get("n_train") for fold in metrics["folds"]}
    found = [known.get(tuple(table.select(keys).row(int(part[0])))) for part in rows]
    return [n if isinstance(n, int) and n > 0 else None for n in found]


def predictions_of(
    ids: NDArray[np.str_],
    y: NDArray[Any],
    outcome: Outcome,
    names: Sequence[str],
    groups: NDArray[Any] | None = None,
    sets: Sequence[NDArray[np.bool_]] | None = None,
) -> pl.DataFrame:
    """Return one row per test sample; several labels, and prediction sets, are lists of names.

    ``names`` are the names of the classes, labels or outputs.
    """
    regression = outcome.task == "regression"
    parts = []
    for f, fold in enumerate(outcome.folds):
        test = fold.split.test
        columns: dict[str, Any] = {"id": ids[test]}
        columns |= {name: np.full(len(test), number) for name, number in numbered(fold, outcome).items()}
        if regression:
            truth = outcome.truth(y)[test]
            for c, end in enumerate(output_ends(names)):
                columns[f"label{end}"], columns[f"predicted{end}"] = truth[:, c], fold.scores[:, c]
        elif y.ndim == 1:
            columns["label"] = y[test]
            columns["predicted"] = outcome.classes[fold.scores.argmax(1)]
        else:
            columns["label"] = _named(y[test] == 1, names)
            columns["predicted"] = _named(fold.scores > 0.5, names)
        if groups is not None:
            columns["group"] = pl.Series(groups[test]).cast(pl.String)
        if sets is not None:
            columns["set"] = _named(sets[f], names)
        for c, name in enumerate(() if regression else names):
            columns[f"score_{name}"] = fold.scores[:, c]
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def _named(chosen: NDArray[np.bool_], names: Sequence[str]) -> pl.Series:
    return pl.Series([[names[i] for i in np.flatnonzero(row).tolist()] for row in chosen], dtype=pl.List(pl.String))
