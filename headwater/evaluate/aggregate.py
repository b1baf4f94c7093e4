"""From scores of images to scores of what they belong to: exams, patients, slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.errors import InputError, SplitError, nearest
from headwater.evaluate._labels import codes_in, encode
from headwater.evaluate.metrics import Task, score
from headwater.evaluate.outcome import Fold, Outcome, OutOfFold
from headwater.evaluate.splits import Split

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Aggregation = Literal["mean", "max", "noisy-or"]
HOW = ("mean", "max", "noisy-or")


@dataclass(frozen=True, eq=False)
class Units:
    """What rows belong to.

    Attributes
    ----------
    column
        What the units are called.
    names : array of shape (n_units,)
        Distinct and sorted.
    codes : int64 array of shape (n_samples,)
        The unit of each row.
    """

    column: str
    names: NDArray[Any]
    codes: Integers


def units_of(values: NDArray[Any], column: str) -> Units:
    """Return the units that a column tells apart."""
    return Units(column, *encode(values, column))


def kept_whole(groups: NDArray[Any] | None, units: Units | None) -> NDArray[Any] | None:
    """Return what must not be divided so that groups stay whole and units too: the parts that they connect.

    Parameters
    ----------
    groups : array of shape (n_samples,), optional
        Such as patients; left out, rows are independent but for their units.
    units
        What scores are brought to, such as exams.

    Returns
    -------
    array of shape (n_samples,) or None
        The groups, where each unit is within one; the names of units, where each group is within one; else, for rows
        that share groups or units with others in turn, the first group among them.

    Raises
    ------
    SplitError
        When all rows are connected.

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
            f"--per {units.column}: with --groups, its values connect all samples, so that no split can keep both "
            "whole. Name units that lie within one group, such as a patient's exams, or leave one of the options out."
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
                f"Correct the split so that each {units.column} is on one side, or use --folds, which keeps them whole."
            )


def labels_of_units(units: Units, task: Task, y: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Return the label of each unit: what its rows share.

    A unit of a two-class task is of the second class when any of its rows is; for several labels it has every label
    that any of its rows has. In a task of more classes, all rows of a unit must agree. Numbers are those of its rows on
    average.

    Raises
    ------
    InputError
        When they do not; the message names a unit.
    """
    n_units = len(units.names)
    if task == "regression":
        sums = np.zeros((n_units, *y.shape[1:]))
        np.add.at(sums, units.codes, y)
        sizes = np.bincount(units.codes, minlength=n_units)
        means: NDArray[Any] = sums / sizes.reshape(-1, *[1] * (y.ndim - 1))
        return means
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
            f"{classes[highest[unit]]!s}. With more than two classes, all rows of a {units.column} need the same one."
        )
    found: NDArray[Any] = classes[highest]
    return found


def aggregate(scores: Floats, units: Integers, task: Task, how: Aggregation) -> tuple[Integers, Floats]:
    """Bring the probabilities of rows to those of their units.

    Parameters
    ----------
    scores : float64 array of shape (n_samples, n_classes)
        Probabilities; of each label where there are several.
    units : int64 array of shape (n_samples,)
        The unit of each row.
    how
        "mean" of the rows'; "max", the highest of the second class (two classes), of each label, or of each class, then
        brought to add up to 1; "noisy-or", ``1 - prod(1 - p)``: the probability that any row is positive, were their
        errors independent, of the second class or of each label.

    Returns
    -------
    units : int64 array of shape (n_units,)
        Those that there are, ascending.
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
    if how == "max":
        found = np.maximum.reduceat(ordered, starts, axis=0)
    else:
        found = 1 - np.multiply.reduceat(1 - ordered, starts, axis=0)
    if task == "binary":
        found = np.concatenate([1 - found, found], axis=1)
    elif task == "multiclass":
        found = found / found.sum(1, keepdims=True)
    return present, found


def require_aggregation(how: str, task: Task) -> None:
    """Refuse what is no way to aggregate the scores of a task."""
    if how not in HOW:
        raise InputError(f"--aggregate {how!r}: {', '.join(HOW)} are known.{nearest(how, HOW)}")
    if how == "noisy-or" and task == "multiclass":
        raise InputError(
            "--aggregate noisy-or asks whether any row is positive: with more than two classes take mean or max."
        )
    if how != "mean" and task == "regression":
        raise InputError(f"--aggregate {how} is for scores of classes: numbers are aggregated by their mean.")


def aggregated(outcome: Outcome, y: NDArray[Any], units: Units, how: Aggregation) -> tuple[Outcome, NDArray[Any]]:
    """Return an outcome whose rows are units, and their labels: everything that is reported of rows can be of units.

    Raises
    ------
    InputError
        When rows of a unit have different classes, of more than two.
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
