"""A run's predictions as arrays: true labels, scores and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate import Outcome
from headwater.evaluate.aggregate import Aggregation, UnitScores, aggregate, labels_of_units, units_of
from headwater.evaluate.fold_means import numbered
from headwater.evaluate.measured import WITHOUT_CLASSES

REPEATS = ("seed", "draw", "fold")
TIMES, RISK = ("time", "event"), "risk"
"""Columns of a survival run."""


def names_key(task: str) -> str:
    """Return the key in ``metrics.json`` that names the score columns of a task."""
    return "outputs" if task in WITHOUT_CLASSES else "classes"


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
    if task == "survival":
        return list(TIMES)
    return [f"label{end}" for end in output_ends(names)] if task == "regression" else ["label"]


def truth_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[Any]:
    """Return true labels as arrays; see `headwater.evaluate.Outcome.truth`."""
    if task in WITHOUT_CLASSES:
        return table.select(label_columns(classes, task)).to_numpy().astype(np.float64)
    if task == "multilabel":
        return np.array([[name in row for name in classes] for row in table["label"].to_list()], np.int64)
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[str(value)] for value in table["label"].to_list()], np.int64)


def scores_of(table: pl.DataFrame, classes: Sequence[str], task: str) -> NDArray[np.float64]:
    """Return scores of shape ``(n, n_classes)``; predictions of shape ``(n, n_outputs)``; or risks ``(n, 1)``."""
    if task == "survival":
        return table.select(RISK).to_numpy().astype(np.float64)
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


@dataclass(frozen=True, eq=False)
class RowColumns:
    """What ``predictions.parquet`` says of each row beside its label and scores.

    Attributes
    ----------
    groups
        The independent group of each row, in ``group``.
    levels
        The subgroup of each row (``--by``), in ``level``.
    sets
        Prediction sets of each fold's test rows, in ``set``.
    per
        The units of the rows and their scores, in ``unit``, ``unit_label`` and ``unit_score_<class>`` (for a regression
        ``unit_predicted``); each row has the values of its unit.
    """

    groups: NDArray[Any] | None = None
    levels: NDArray[Any] | None = None
    sets: Sequence[NDArray[np.bool_]] | None = None
    per: UnitScores | None = None


def predictions_of(
    ids: NDArray[np.str_],
    y: NDArray[Any],
    outcome: Outcome,
    names: Sequence[str],
    more: RowColumns = RowColumns(),
) -> pl.DataFrame:
    """Return one row per test sample; several labels, and prediction sets, are lists of names.

    ``names`` are the names of the classes, labels or outputs.
    """
    parts = []
    for f, fold in enumerate(outcome.folds):
        test = fold.split.test
        columns: dict[str, Any] = {"id": ids[test]}
        columns |= {name: np.full(len(test), number) for name, number in numbered(fold, outcome).items()}
        judged = _judged(outcome, y, test, fold.scores, names)
        columns |= {name: values for name, values in judged.items() if not name.startswith("score_")}
        for name, values in (("group", more.groups), ("level", more.levels)):
            if values is not None:
                columns[name] = pl.Series(values[test]).cast(pl.String)
        if more.sets is not None:
            columns["set"] = _named(more.sets[f], names)
        columns |= judged
        if more.per is not None:
            columns |= _of_units(more.per, f, test, names)
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def _judged(
    outcome: Outcome, y: NDArray[Any], rows: NDArray[np.int64], scores: NDArray[np.float64], names: Sequence[str]
) -> dict[str, Any]:
    """Return the columns of true labels, predictions and scores."""
    columns: dict[str, Any] = {}
    if outcome.task == "regression":
        truth = outcome.truth(y)[rows]
        for c, end in enumerate(output_ends(names)):
            columns[f"label{end}"], columns[f"predicted{end}"] = truth[:, c], scores[:, c]
        return columns
    if outcome.task == "survival":
        truth = outcome.truth(y)[rows]
        return {TIMES[0]: truth[:, 0], TIMES[1]: truth[:, 1].astype(np.int64), RISK: scores[:, 0]}
    if y.ndim == 1:
        columns["label"] = y[rows]
        columns["predicted"] = outcome.classes[scores.argmax(1)]
    else:
        columns["label"] = _named(y[rows] == 1, names)
        columns["predicted"] = _named(scores > 0.5, names)
    return columns | {f"score_{name}": scores[:, c] for c, name in enumerate(names)}


def _of_units(per: UnitScores, fold: int, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Return the columns of the rows' units."""
    found = per.outcome.folds[fold]
    of_row = per.units.codes[rows]
    place = np.searchsorted(found.split.test, of_row)
    judged = _judged(per.outcome, per.labels, of_row, found.scores[place], names)
    return {"unit": per.units.names[of_row].astype(str), **{f"unit_{name}": value for name, value in judged.items()}}


def at_units(table: pl.DataFrame, metrics: Mapping[str, Any], column: str, per: str, how: Aggregation) -> pl.DataFrame:
    """Return a run's predictions at the level of units: one row for each unit and fold, named by its ``id``.

    Parameters
    ----------
    table, metrics
        The run's predictions and metrics.
    column
        The column of the predictions that names the units: ``"unit"`` or ``"group"``.
    per
        What they are, for messages.
    how
        How the scores of a unit's rows are combined.

    Raises
    ------
    InputError
        When rows of a unit have different classes in a multiclass task.
    """
    task, names = metrics["task"], names_of(metrics)
    truth, scores = truth_of(table, names, task), scores_of(table, names, task)
    kept_columns = [name for name in (*REPEATS, "group") if name in table.columns]
    if "level" in table.columns and (table.group_by(column).agg(pl.col("level").n_unique())["level"] == 1).all():
        kept_columns.append("level")  # a unit with rows of several levels belongs to none
    parts = []
    for rows in folds_of(table):
        units = units_of(table[column].to_numpy()[rows].astype(str), per)
        classes = np.arange(len(names))
        labels = labels_of_units(units, task, truth[rows], classes)
        _, found = aggregate(scores[rows], units.codes, task, how)
        first = rows[np.unique(units.codes, return_index=True)[1]]
        one = Outcome(task, np.asarray(names), (), None, {}, {})
        y = labels if task in (*WITHOUT_CLASSES, "multilabel") else np.asarray(names)[labels]
        judged = _judged(one, y, np.arange(len(y)), found, names)
        kept = {name: table[name].gather(first) for name in kept_columns}
        parts.append(pl.DataFrame({"id": units.names, **kept, **judged}))
    return pl.concat(parts)


def _named(chosen: NDArray[np.bool_], names: Sequence[str]) -> pl.Series:
    return pl.Series([[names[i] for i in np.flatnonzero(row).tolist()] for row in chosen], dtype=pl.List(pl.String))
