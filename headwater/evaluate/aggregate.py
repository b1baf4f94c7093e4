"""Aggregation of sample-level scores to units such as exams, patients or slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError, SplitError, nearest
from headwater.evaluate._labels import codes_in, encode
from headwater.evaluate.metrics import Task, score
from headwater.evaluate.ordinal import exceedance, from_exceedance
from headwater.evaluate.outcome import Fold, Outcome, OutOfFold
from headwater.evaluate.splits import Split

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Aggregation = Literal["mean", "max", "noisy-or"]
HOW = ("mean", "max", "noisy-or")


@dataclass(frozen=True, eq=False)
class Units:
    """The units that rows belong to.

    Attributes
    ----------
    column
        Name of the units' column.
    names : array of shape (n_units,)
        Distinct and sorted.
    codes : int64 array of shape (n_samples,)
        The unit of each row.
    """

    column: str
    names: NDArray[Any]
    codes: Integers


@dataclass(frozen=True, eq=False)
class UnitScores:
    """The outcome at the level of units, and the label of each unit."""

    units: Units
    outcome: Outcome
    labels: NDArray[Any]


def units_of(values: NDArray[Any], column: str) -> Units:
    """Return the units that a column defines."""
    return Units(column, *encode(values, column))


def kept_whole(groups: NDArray[Any] | None, units: Units | None) -> NDArray[Any] | None:
    """Return the blocks of rows that must not be divided to keep groups and units whole: their connected components.

    Parameters
    ----------
    groups : array of shape (n_samples,), optional
        Groups such as patients. By default rows are independent except for their units.
    units
        Units that scores are aggregated to, such as exams.

    Returns
    -------
    array of shape (n_samples,) or None
        The groups, if each unit is within one group; the names of units, if each group is within one unit; else each
        component, named by its first group.

    Raises
    ------
    SplitError
        When all rows form one component.

    Examples
    --------
    Exams within patients, and patients within clusters:

    >>> patient, exam = np.array(["p", "p", "q"]), np.array([1, 2, 3])
    >>> kept_whole(patient, units_of(exam, "exam")).tolist(), kept_whole(exam, units_of(patient, "patient")).tolist()
    (['p', 'p', 'q'], ['p', 'p', 'q'])

    A cassette that holds two patients joins them:

    >>> patient, cassette = np.array(["p", "p", "q", "r"]), np.array([1, 2, 2, 3])
    >>> kept_whole(patient, units_of(cassette, "cassette")).tolist()
    ['p', 'p', 'p', 'r']
    """
    if units is None:
        return groups
    of_unit: NDArray[Any] = units.names[units.codes]
    if groups is None:
        return of_unit
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, codes = encode(groups, "groups")
    shape = (len(names), len(units.names))
    n_nodes = sum(shape)
    edges = coo_array((np.ones(len(codes)), (codes, len(names) + units.codes)), shape=(n_nodes, n_nodes))
    n_parts, part = connected_components(edges, directed=False)
    if n_parts == 1 < min(shape):
        raise SplitError(
            f"--per {units.column}: together with --groups it connects all samples, so no split can keep both whole. "
            "Name units that lie within one group, such as a patient's exams, or leave one of the options out."
        )
    if n_parts == len(names):
        return groups
    if n_parts == len(units.names):
        return of_unit
    first = np.full(n_parts, len(names))
    np.minimum.at(first, part[: len(names)], np.arange(len(names)))
    joined: NDArray[Any] = names[first[part[codes]]]
    return joined


def refuse_straddling(units: Units, splits: Sequence[Split]) -> None:
    """Raise `SplitError` when a unit has rows on both sides of a split."""
    for split in splits:
        both = np.intersect1d(units.codes[split.train], units.codes[split.test])
        if len(both):
            raise SplitError(
                f"--per {units.column}: {units.names[both[0]]!s} has training and test rows in fold {split.fold}. "
                f"Correct the split so that each {units.column} is on one side, or use --folds, which keeps it whole."
            )


def labels_of_units(units: Units, task: Task, y: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Return the label of each unit, from the labels of its rows.

    In a binary task a unit has the second class if any of its rows has it, and in an ordinal task the highest grade of
    its rows. With several labels it has every label that any of its rows has. In a multiclass task all rows of a unit
    must have the same class. For regression it is the mean of its rows.
    For survival all rows of a unit must have the same time and event.

    Raises
    ------
    InputError
        When rows of a unit have different classes in a multiclass task, or different times or events; the message
        names a unit.
    """
    n_units = len(units.names)
    if task == "regression":
        sums = np.zeros((n_units, *y.shape[1:]))
        np.add.at(sums, units.codes, y)
        sizes = np.bincount(units.codes, minlength=n_units)
        means: NDArray[Any] = sums / sizes.reshape(-1, *[1] * (y.ndim - 1))
        return means
    if task == "survival":
        return _times_of_units(units, y)
    if task == "multilabel":
        labels = np.zeros((n_units, y.shape[1]), y.dtype)
        np.maximum.at(labels, units.codes, y)
        return labels
    codes = codes_in(y, classes)
    highest = np.full(n_units, -1)
    np.maximum.at(highest, units.codes, codes)
    differs = codes != highest[units.codes]
    if task == "multiclass" and differs.any():
        row = int(differs.argmax())
        unit = units.codes[row]
        raise InputError(
            f"--per {units.column}: {units.names[unit]!s} has rows of {classes[codes[row]]!s} and of "
            f"{classes[highest[unit]]!s}. With more than two classes, all rows of a {units.column} need the same class."
        )
    found: NDArray[Any] = classes[highest]
    return found


def _times_of_units(units: Units, y: NDArray[Any]) -> NDArray[Any]:
    first = np.unique(units.codes, return_index=True)[1]
    differs = (y != y[first][units.codes]).any(1)
    if differs.any():
        row = int(differs.argmax())
        one, other = y[row], y[first[units.codes[row]]]
        raise InputError(
            f"--per {units.column}: {units.names[units.codes[row]]!s} has rows with time {other[0]:g}, event "
            f"{int(other[1])} and with time {one[0]:g}, event {int(one[1])}. All rows of a {units.column} need "
            "the same time and event."
        )
    return y[first]


def aggregate(scores: Floats, units: Integers, task: Task, how: Aggregation) -> tuple[Integers, Floats]:
    """Aggregate the probabilities of rows to their units.

    Parameters
    ----------
    scores : float64 array of shape (n_samples, n_classes)
        Probabilities of the classes, or of each label.
    units : int64 array of shape (n_samples,)
        The unit of each row.
    how
        "mean" of the rows. "max": the highest of the second class (binary), of each label, or of each class, then
        normalised to sum to 1. "noisy-or": ``1 - prod(1 - p)`` for the second class or each label, the probability that
        any row is positive if errors are independent. Of grades, "max" and "noisy-or" are taken at each cut, of the
        probabilities of a grade at or above it.

    Returns
    -------
    units : int64 array of shape (n_units,)
        Units that occur, ascending.
    scores : float64 array of shape (n_units, n_classes)

    References
    ----------
    Pearl, Probabilistic Reasoning in Intelligent Systems, 1988, section 4.3 (noisy-or).

    Examples
    --------
    >>> scores = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    >>> for how in ("mean", "max", "noisy-or"):
    ...     print(how, aggregate(scores, np.array([0, 0, 1]), "binary", how)[1][:, 1].round(2))
    mean [0.3 0.8]
    max [0.5 0.8]
    noisy-or [0.55 0.8 ]
    """
    require_aggregation(how, task)
    present, place = np.unique(units, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(present)))
    ordered = scores[order]
    if how == "mean":
        sizes = np.bincount(place)
        return present, np.add.reduceat(ordered, starts, axis=0) / sizes[:, None]
    if task == "binary":
        ordered = ordered[:, 1:]
    elif task == "ordinal":
        ordered = exceedance(ordered)
    if how == "max":
        found = np.maximum.reduceat(ordered, starts, axis=0)
    else:
        found = 1 - np.multiply.reduceat(1 - ordered, starts, axis=0)
    if task == "binary":
        found = np.concatenate([1 - found, found], axis=1)
    elif task == "ordinal":
        found = from_exceedance(found)
    elif task == "multiclass":
        found = found / found.sum(1, keepdims=True)
    return present, found


def require_aggregation(how: str, task: Task) -> None:
    """Refuse an aggregation that is unknown or does not suit the task."""
    if how not in HOW:
        raise InputError(f"--aggregate {how!r}: must be one of {', '.join(HOW)}.{nearest(how, HOW)}")
    if how == "noisy-or" and task == "multiclass":
        raise InputError(
            "--aggregate noisy-or needs a positive class or several labels: with more than two classes use mean or max."
        )
    if how != "mean" and task == "survival":
        raise InputError(f"--aggregate {how} is for class scores: use mean to aggregate risks.")
    if how != "mean" and task == "regression":
        raise InputError(f"--aggregate {how} is for class scores: use mean to aggregate numbers.")


def aggregated(outcome: Outcome, y: NDArray[Any], units: Units, how: Aggregation) -> tuple[Outcome, NDArray[Any]]:
    """Return the outcome at unit level, and the units' labels.

    Raises
    ------
    InputError
        When rows of a unit have different classes in a multiclass task.
    """
    labels = labels_of_units(units, outcome.task, y, outcome.classes)

    def inside(rows: OutOfFold | None) -> OutOfFold | None:
        if rows is None:
            return None
        codes = units.codes[rows.rows]
        present, scores = aggregate(rows.scores, codes, outcome.task, how)
        first = np.unique(codes, return_index=True)[1]
        return OutOfFold(present, rows.fold[first], scores)

    def fold(old: Fold) -> Fold:
        tested, scores = aggregate(old.scores, units.codes[old.split.test], outcome.task, how)
        split = replace(old.split, train=np.unique(units.codes[old.split.train]), test=tested)
        metrics = score(outcome.task, labels[tested], scores, classes=outcome.classes)
        return Fold(split, old.params, scores, metrics, inside(old.inside))

    return replace(outcome, folds=[fold(f) for f in outcome.folds], inside=inside(outcome.inside)), labels
