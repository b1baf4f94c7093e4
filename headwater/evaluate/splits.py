"""Splits into training and test rows: folds, holdouts and given splits, stratified by class and kept whole by group.

A group (a patient, a slide, a study) is never divided: all of its rows are on one side of every split.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater._survival import as_survival
from headwater.errors import SplitError
from headwater.evaluate._labels import count_nulls, counted, encode
from headwater.evaluate._stratify import count_labels, spread

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_MOST_BINS = 10  # most quantile bins of a number to predict

_SIDES = {
    "train": False,
    "training": False,
    "val": False,
    "valid": False,
    "validation": False,
    "test": True,
}


@dataclass(frozen=True, eq=False)
class Split:
    """A division of the rows of a table into training and test rows.

    Attributes
    ----------
    fold
        Number of the fold that is tested, from 0.
    train : int64 array of shape (n_train,)
        Row numbers in ascending order.
    test : int64 array of shape (n_test,)
        Row numbers in ascending order; none of them is in `train`.
    seed
        Seed of the split.
    draw
        Number of the few-shot draw of its training rows; see `few_shots`.
    """

    fold: int
    train: Rows
    test: Rows
    seed: int = 0
    draw: int = 0


def make_splits(
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_folds: int = 5,
    split: ArrayLike | None = None,
    holdout: float | None = None,
    seed: int = 0,
    regression: bool = False,
    survival: bool = False,
) -> list[Split]:
    """Divide rows into training and test rows, once or once for each fold.

    Without `split` and `holdout`, every row is tested in exactly one of `n_folds` folds. With one label per row the
    folds are those of scikit-learn, so that published folds can be reproduced: ``StratifiedKFold`` or, with `groups`,
    ``StratifiedGroupKFold``, with ``shuffle=True, random_state=seed``. With several labels per row they are balanced
    label by label, rarest first, in whole groups. Numbers to predict are stratified by quantiles, at most ten bins of
    equal size for each output; times by whether the event was seen.

    Parameters
    ----------
    y : array of shape (n_samples,) or (n_samples, n_labels)
        Classes, as strings, numbers or booleans; or 0/1 indicators of several labels; or numbers to predict.
    groups : array of shape (n_samples,), optional
        Groups that must not be divided, such as patient numbers. Every row has one.
    n_folds
        Number of folds, at least 2. Ignored with `split` or `holdout`.
    split : array of shape (n_samples,), optional
        A given split: either "train" and "test" (one fold; "val", "valid" and "validation" count as train, since
        selection happens inside the training rows), or fold numbers 0 to k - 1, each fold tested in turn.
    holdout
        Share of test rows, between 0 and 1 (one fold). Stratified; without `groups` and with one label per row, the
        split of scikit-learn's ``StratifiedShuffleSplit``. With groups the share is approximate.
    seed
        The same seed gives the same splits.
    regression
        Whether `y` holds numbers to predict, of shape (n_samples,) or (n_samples, n_outputs).
    survival
        Whether `y` holds times and events (0 or 1), of shape (n_samples, 2).

    Returns
    -------
    list of Split
        In the order of the folds. With one label per row, every class of `y` is in the training rows of every fold. A
        class in fewer rows or groups than folds is missing from the test rows of some folds, where metrics that need it
        are NaN.

    Raises
    ------
    SplitError
        When the rows cannot be split: more folds than groups; a null label, group or split; a constant label; a fold
        without test rows, or without training rows of a class; a given split that has invalid values or divides a
        group.
    InputError
        When values of a column have kinds that cannot be sorted together, such as strings and numbers.

    Examples
    --------
    >>> y = ["benign", "malignant"] * 3
    >>> patient = [1, 1, 2, 2, 3, 3]
    >>> for split in make_splits(y, groups=patient, n_folds=3):
    ...     print(split.fold, split.train, split.test)
    0 [0 1 2 3] [4 5]
    1 [0 1 4 5] [2 3]
    2 [2 3 4 5] [0 1]
    """
    if split is not None and holdout is not None:
        raise SplitError("split and holdout were both given: pass one of them.")
    if survival:
        targets, classes = _events(y), None
    elif regression:
        strata = _quantiles(y, holdout) if holdout is not None else _quantiles(y, 1 / max(n_folds, 1))
        targets, classes = strata, None
    else:
        targets, classes = _targets(y)
    names, units = _groups(groups, len(targets))
    if split is not None:
        tested = _given(_column(split, "split", len(targets)))
        if names is not None and units is not None:
            _refuse_divided(tested, names, units)
    elif holdout is not None:
        tested = [_held_out(targets, units, holdout, seed)]
    else:
        _refuse_too_many(n_folds, len(targets) if names is None else len(names), _unit(units))
        tested = _folds(targets, units, n_folds, seed)
    found = [replace(one, seed=seed) for one in _splits(tested, targets, classes)]
    if survival:
        _refuse_without_event(found, targets)
    return found


def inner_splits(
    y: ArrayLike,
    groups: ArrayLike | None,
    n_folds: int,
    seed: int,
    *,
    regression: bool = False,
    survival: bool = False,
) -> list[Split]:
    """Divide the training rows of a fold into inner folds, to select parameters and to calibrate.

    They are made like the folds of `make_splits`, with two differences for few rows: there are at most as many folds as
    groups (never below 2), and a group that a fold needs to have all classes in training is not tested there.

    Parameters
    ----------
    y : array of shape (n_train,) or (n_train, n_labels)
        The labels of the training rows alone.
    groups : array of shape (n_train,) or None
        Their groups.
    n_folds
        Requested number of folds, at least 2.
    seed
        The same seed gives the same splits.
    regression
        Whether `y` holds numbers to predict.
    survival
        Whether `y` holds times and events. A group that a fold needs to have an event in training is not tested there.

    Returns
    -------
    list of Split
        Row numbers are those within `y`, so ``train[split.train]`` are rows of the table. With one label per row, every
        class is in the training rows of every fold.

    Raises
    ------
    SplitError
        When inner folds are impossible: fewer than two groups, or fewer than two classes with two groups each.
    """
    if survival:
        targets, classes = _events(y), None
    else:
        targets, classes = (_quantiles(y, 1 / max(n_folds, 1)), None) if regression else _targets(y)
    names, units = _groups(groups, len(targets))
    n_units = len(targets) if names is None else len(names)
    if n_units < 2:
        raise SplitError(
            f"cannot select parameters or calibrate: all training rows belong to one {_unit(units)}. Set the "
            "parameters and do not calibrate, or add samples."
        )
    n_folds = min(n_folds, n_units)
    _refuse_too_many(n_folds, n_units, _unit(units))
    divisible = np.arange(len(targets)) if units is None else units
    if survival:
        return _with_events(targets, units, divisible, n_folds, seed)
    if classes is None:
        return _splits(_folds(targets, units, n_folds, seed), targets, None)

    units_of_class = np.bincount(np.unique(np.column_stack([divisible, targets]), axis=0)[:, 1])
    if np.sort(units_of_class)[-2] < 2:
        rare, noun = classes[np.argmin(units_of_class)], _unit(units)
        raise SplitError(
            f"cannot select parameters or calibrate: class {rare!s} is in only one training {noun}, but at least two "
            f"classes need two {noun}s each. Set the parameters and do not calibrate, or add samples."
        )
    n_folds = min(n_folds, int(np.bincount(targets).max()))  # the most that can be stratified
    tested = [_keep_classes(test, targets, divisible) for test in _folds(targets, units, n_folds, seed)]
    return _splits([test for test in tested if test.any()], targets, classes)


# Validation


def _column(values: ArrayLike, what: str, n_samples: int) -> NDArray[Any]:
    """Return `values` as an array with one value per sample, or refuse them."""
    column = np.asarray(values)
    if column.shape != (n_samples,):
        raise SplitError(f"{what} has shape {column.shape}, but there are {counted(n_samples, 'sample')}.")
    if n_null := count_nulls(column):
        raise SplitError(f"{what} is null in {counted(n_null, 'row')}: fill them in, or leave the rows out.")
    return column


def _groups(groups: ArrayLike | None, n_samples: int) -> tuple[NDArray[Any] | None, Rows | None]:
    """Return the distinct groups and, for each sample, the index of its group; or None twice."""
    return (None, None) if groups is None else encode(_column(groups, "groups", n_samples), "groups")


def _unit(units: Rows | None) -> str:
    """Return the noun for the units that are not divided."""
    return "row" if units is None else "group"


def _targets(y: ArrayLike) -> tuple[Rows, NDArray[Any] | None]:
    """Return class codes (n,) and the classes, or 0/1 indicators (n, n_labels) and None."""
    labels = np.asarray(y)
    if labels.ndim not in (1, 2) or labels.shape[0] == 0:
        raise SplitError(f"y has shape {labels.shape}, but needs (n_samples,) or (n_samples, n_labels).")
    if n_null := count_nulls(labels):
        raise SplitError(f"the label is null in {counted(n_null, 'row')}: leave those rows out.")
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise SplitError("y has two dimensions, so it must hold only 0 and 1, a column for each label.")
        indicators = labels.astype(np.int64)
        if (indicators == indicators[0]).all():
            raise SplitError("the labels are the same in every row: there is nothing to learn.")
        return indicators, None
    classes, codes = encode(labels, "y")
    if len(classes) == 1:
        raise SplitError(f"the label is {classes[0]!s} in every row: there is nothing to learn.")
    return codes, classes


def _quantiles(y: ArrayLike, share: float) -> Rows:
    """Return the quantile bin of each number (n,), or indicators of the bins of each output (n, n_bins).

    There are at most as many bins as rows in a part with this share, so that each part can have every bin.
    """
    values = np.asarray(y, np.float64)
    if values.ndim not in (1, 2) or values.shape[0] == 0:
        raise SplitError(f"y has shape {values.shape}, but needs (n_samples,) or (n_samples, n_outputs).")
    if n_bad := int((~np.isfinite(values)).sum()):
        raise SplitError(f"y is not finite in {counted(n_bad, 'place')}: leave those rows out.")
    if (values == values[0]).all():
        raise SplitError("the numbers to predict are the same in every row: there is nothing to learn.")
    n_bins = max(1, min(_MOST_BINS, int(len(values) * min(share, 1 - share))))
    columns = []
    for output in values.reshape(len(values), -1).T:
        edges = np.unique(np.quantile(output, np.arange(1, n_bins) / n_bins))
        columns.append(np.unique(np.searchsorted(edges, output, side="right"), return_inverse=True)[1])
    if len(columns) == 1:
        return columns[0].astype(np.int64)
    return np.concatenate([np.eye(int(bins.max()) + 1, dtype=np.int64)[bins] for bins in columns], axis=1)


def _events(y: ArrayLike) -> Rows:
    """Return 1 for each row with an event, and 0 for each censored one."""
    events = (as_survival(y)[:, 1] > 0).astype(np.int64)
    if not events.any():
        raise SplitError("no row has an event: there is nothing to learn.")
    return events


def _with_events(events: Rows, units: Rows | None, divisible: Rows, n_folds: int, seed: int) -> list[Split]:
    """Return inner folds that each have an event in their training rows."""
    if len(np.unique(divisible[events > 0])) < 2:
        raise SplitError(
            f"only one training {_unit(units)} has an event, but two are needed to select parameters and to divide "
            "risks into groups: add samples with events."
        )
    n_folds = min(n_folds, int(np.bincount(events).max()))  # the most that can be stratified
    tested = _folds(events, units, n_folds, seed)
    for test in tested:
        if events[~test].sum() == 0:
            test[divisible == divisible[np.flatnonzero(events)[0]]] = False
    return _splits([test for test in tested if test.any()], events, None)


def _refuse_without_event(splits: Iterable[Split], events: Rows) -> None:
    for split in splits:
        if not events[split.train].any():
            raise SplitError(
                f"fold {split.fold} has no training rows with an event, since all events are among its test rows. Use "
                "another split or seed, or add samples with events from other groups."
            )


def _refuse_too_many(n_folds: int, n_units: int, noun: str) -> None:
    if n_folds < 2:
        raise SplitError(f"{counted(n_folds, 'fold')} requested, but at least 2 are needed (or a holdout of 0.2).")
    if n_folds > n_units:
        there = "there is" if n_units == 1 else "there are"
        raise SplitError(f"{n_folds} folds requested, but {there} only {counted(n_units, noun)} to divide.")


# Ways to choose test rows: each returns masks of shape (n_samples,), True for test rows


def _folds(targets: Rows, units: Rows | None, n_folds: int, seed: int) -> list[Mask]:
    if targets.ndim == 2:
        fold = spread(*count_labels(targets, units), np.full(n_folds, 1 / n_folds), seed)
        fold_of_row = fold if units is None else fold[units]
        return [fold_of_row == number for number in range(n_folds)]

    largest = int(np.bincount(targets).max())
    if n_folds > largest:
        raise SplitError(f"{n_folds} folds requested, but the largest class has only {counted(largest, 'row')}.")
    # Imported here because it takes most of a second, which commands without splits need not wait for.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if units is None else StratifiedGroupKFold
    folds = kind(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer rows than folds is allowed: see "Returns" of make_splits.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        rows = [test for _, test in folds.split(np.empty(len(targets)), targets, units)]
    return [_mask(test, len(targets)) for test in rows]


def _held_out(targets: Rows, units: Rows | None, share: float, seed: int) -> Mask:
    if not 0 < share < 1:
        raise SplitError(f"holdout={share} must be a share of the rows, between 0 and 1, such as 0.2.")
    n_units = len(targets) if units is None else int(units.max()) + 1
    if n_units < 2:
        raise SplitError(f"there is only {counted(n_units, _unit(units))}, so none can be held out.")
    if targets.ndim == 2 or units is not None:
        side = spread(*count_labels(targets, units), np.array([1 - share, share]), seed)
        held: Mask = (side if units is None else side[units]) == 1
        return held

    from sklearn.model_selection import StratifiedShuffleSplit  # here for the reason given in _folds

    try:
        chosen = StratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
        _, test = next(chosen.split(np.empty(len(targets)), targets))
    except ValueError as error:
        raise SplitError(f"holdout={share} cannot be stratified: {error}") from error
    return _mask(test, len(targets))


def _given(column: NDArray[Any]) -> list[Mask]:
    values, codes = encode(column, "split")
    names = [str(value).strip().casefold() for value in values.tolist()]
    if all(name in _SIDES for name in names):
        return [np.array([_SIDES[name] for name in names])[codes]]
    numbers = [_fold_number(name) for name in names]
    unknown = [value for value, number in zip(values.tolist(), numbers) if number is None]
    if unknown:
        few = ", ".join(repr(value) for value in unknown[:3])
        raise SplitError(f"split has invalid values ({few}): use train, val and test, or fold numbers from 0.")
    found = sorted({number for number in numbers if number is not None})
    if found != list(range(len(found))) or len(found) < 2:
        raise SplitError(f"split has the fold numbers {found}, but needs all of 0 to k - 1, at least two folds.")
    fold_of_row = np.array(numbers, dtype=np.int64)[codes]
    return [fold_of_row == number for number in found]


def _fold_number(name: str) -> int | None:
    """Read a fold number, also one written as a float (``2.0``)."""
    try:
        number = float(name)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _mask(rows: Rows, n_samples: int) -> Mask:
    mask = np.zeros(n_samples, dtype=np.bool_)
    mask[rows] = True
    return mask


def _keep_classes(test: Mask, codes: Rows, units: Rows) -> Mask:
    """Remove units from the test rows until every class is in the training rows."""
    test = test.copy()
    for code in range(int(codes.max()) + 1):
        members = np.flatnonzero(codes == code)
        if test[members].all():
            test[units == units[members[0]]] = False
    return test


# Results


def _refuse_divided(tested: Iterable[Mask], groups: NDArray[Any], units: Rows) -> None:
    divided = np.zeros(len(groups), dtype=np.bool_)
    sizes = np.bincount(units)
    for test in tested:
        n_tested = np.bincount(units[test], minlength=len(groups))
        divided |= (n_tested > 0) & (n_tested < sizes)
    if n_divided := int(divided.sum()):
        raise SplitError(
            f"split divides {counted(n_divided, 'group')}, such as {groups[divided.argmax()]!s}: all rows of a group "
            "must be on one side. Correct the split, or pass no groups if rows are independent."
        )


def _splits(tested: list[Mask], targets: Rows, classes: NDArray[Any] | None) -> list[Split]:
    """Turn masks into splits; refuse those without test rows or without training rows of a class."""
    splits = []
    for fold, test in enumerate(tested):
        split = Split(fold, np.flatnonzero(~test), np.flatnonzero(test))
        for side, rows in (("test", split.test), ("training", split.train)):
            if len(rows) == 0:
                raise SplitError(f"fold {fold} has no {side} rows: use fewer folds, or change the split.")
        if classes is not None:
            missing = np.bincount(targets[split.train], minlength=len(classes)) == 0
            if missing.any():
                raise SplitError(
                    f"fold {fold} has no training rows of class {classes[missing.argmax()]!s}, since all of its rows "
                    "are test rows. Leave the class out, merge it with another, add samples from other groups, or try "
                    "another seed."
                )
        splits.append(split)
    if not splits:
        raise SplitError("every row is needed for training, so none can be tested: add samples.")
    return splits
