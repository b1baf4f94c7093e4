"""The protocol: parameters selected inside the training rows of each fold, and reported on rows that nothing saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater.errors import HeadError
from headwater.evaluate.metrics import Task, infer_task, log_loss_many, score, summarise
from headwater.evaluate.splits import Split, inner_splits

Rows = NDArray[np.int64]
Params = Mapping[str, Any]
Floats = NDArray[np.floating[Any]]
_LEAST = 1e-15


class Head(Protocol):
    """What the protocol asks of a head."""

    classes_: NDArray[Any]

    def fit_many(
        self, X: Any, y: NDArray[Any], fits: Sequence[tuple[Rows, Params]], *, groups: NDArray[Any] | None
    ) -> list[Any]: ...
    def predict_proba_many(self, heads: Sequence[Any], X: Any, rows: Sequence[Rows]) -> list[Floats]: ...


@dataclass(frozen=True)
class Fold:
    """One fold, reported.

    Attributes
    ----------
    split
        Its training and test rows.
    params
        The parameters that were selected inside the training rows.
    scores
        Class probabilities of the test rows, float64, of shape ``(n_test, n_classes)``.
    metrics
        `headwater.evaluate.score` of them.
    """

    split: Split
    params: Params
    scores: NDArray[np.float64]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What cross-validation found.

    Attributes
    ----------
    task, classes
        Kind of task, and the classes in the order of the columns of scores.
    folds
        One for each split.
    mean, std
        Of each metric over the folds.
    head, params
        A head fitted on all rows, for new cases, and the parameters selected on all rows. No reported number is its.
    selection
        How parameters were selected, in words and numbers that belong beside the result.
    """

    task: Task
    classes: NDArray[Any]
    folds: Sequence[Fold]
    mean: Mapping[str, float | None]
    std: Mapping[str, float | None]
    head: Any
    params: Params
    selection: Mapping[str, Any]


def cross_validate(
    head: Head,
    X: Any,
    y: NDArray[Any],
    splits: Sequence[Split],
    *,
    grid: Sequence[Params] = ({},),
    groups: NDArray[Any] | None = None,
    n_inner_folds: int = 4,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Select, fit and report, fold by fold, with all fits of a kind solved together.

    In each fold the parameters with the lowest log loss over ``n_inner_folds`` folds of its training rows are selected
    (the earlier of equal ones), and a head with them is fitted on all its training rows. Its test rows are scored once.

    Parameters
    ----------
    head
        An unfitted head.
    X
        Features, an array-like of ``n_samples`` rows, or a dict of them.
    y
        Labels, of shape ``(n_samples,)`` or 0/1 ``(n_samples, n_labels)``.
    splits
        The outer splits, from `make_splits`.
    grid
        Parameters to choose among; with one entry nothing is selected.
    groups
        Groups that inner folds keep whole, of shape ``(n_samples,)``.
    n_inner_folds
        Inner folds; fewer where training rows have fewer groups.
    seed
        Of the inner folds.
    progress
        Called with a line about each step.

    Raises
    ------
    SplitError
        When the training rows of a fold cannot be split further to select parameters.
    """
    say = progress or (lambda line: None)
    task = infer_task(y)
    classes, codes = (np.arange(y.shape[1]), y) if task == "multilabel" else np.unique(y, return_inverse=True)
    everything = Split(len(splits), np.arange(len(y)), np.arange(0))
    outer = [*splits, everything]
    grid = list(grid)
    if len(grid) > 1:
        n_fits = len(outer) * n_inner_folds * len(grid)
        say(f"selecting among {len(grid)} settings: {n_fits} fits")
        chosen = _select(head, X, y, codes, classes, outer, grid, groups, n_inner_folds, seed)
    else:
        chosen = [0] * len(outer)
    say(f"fitting {len(outer)} heads")
    fits = [(split.train, grid[best]) for split, best in zip(outer, chosen, strict=True)]
    fitted = head.fit_many(X, y, fits, groups=groups)
    tested = head.predict_proba_many(fitted[:-1], X, [split.test for split in splits])
    folds = []
    for split, best, model, probabilities in zip(splits, chosen, fitted, tested, strict=False):
        scores = align(probabilities, model.classes_, classes).astype(np.float64)
        folds.append(Fold(split, grid[best], scores, score(task, y[split.test], scores, classes=classes)))
    mean, std = summarise([fold.metrics for fold in folds])
    selection = {
        "by": "log_loss" if len(grid) > 1 else None,
        "rows": "inner folds of each fold's own training rows" if len(grid) > 1 else None,
        "inner_folds": n_inner_folds if len(grid) > 1 else None,
        "grouped": groups is not None,
        "grid": [dict(params) for params in grid],
        "final_params": dict(grid[chosen[-1]]),
        "final_params_rows": "inner folds of all samples" if len(grid) > 1 else None,
        "saved_head": "fitted on all samples; no reported number is its",
    }
    return Outcome(task, classes, folds, mean, std, fitted[-1], grid[chosen[-1]], selection)


def align(probabilities: Floats, known: NDArray[Any], classes: NDArray[Any]) -> Floats:
    """Return probabilities with a column for each of ``classes``, 0 for a class that the head does not know."""
    if len(known) == len(classes):
        return probabilities
    out = np.zeros((len(probabilities), len(classes)), probabilities.dtype)
    out[:, np.searchsorted(classes, known)] = probabilities
    return out


def _select(
    head: Head,
    X: Any,
    y: NDArray[Any],
    codes: NDArray[Any],
    classes: NDArray[Any],
    outer: Sequence[Split],
    grid: Sequence[Params],
    groups: NDArray[Any] | None,
    n_inner_folds: int,
    seed: int,
) -> list[int]:
    """Return, for each outer split, the place in ``grid`` of the parameters with the lowest inner log loss."""
    fits: list[tuple[Rows, Params]] = []
    tests: list[Rows] = []
    owner: list[int] = []
    for o, split in enumerate(outer):
        inside = None if groups is None else groups[split.train]
        for inner in inner_splits(y[split.train], inside, n_inner_folds, seed):
            train, test = split.train[inner.train], split.train[inner.test]
            fits += [(train, params) for params in grid]
            tests += [test] * len(grid)
            owner.append(o)
    probabilities = head.predict_proba_many(heads := head.fit_many(X, y, fits, groups=groups), X, tests)
    total = np.zeros((len(outer), len(grid)))
    for i, o in enumerate(owner):
        some = slice(i * len(grid), (i + 1) * len(grid))
        aligned = [align(p, h.classes_, classes) for p, h in zip(probabilities[some], heads[some], strict=True)]
        test = tests[some.start]
        total[o] += _losses(codes[test], np.stack(aligned)) * len(test)
    if np.isinf(total).all(1).any():
        raise HeadError("no setting of the grid gives finite probabilities on the inner folds.")
    return [int(best) for best in total.argmin(1)]


def _losses(codes: NDArray[Any], probabilities: Floats) -> NDArray[np.float64]:
    """Return the mean log loss of each model, of shape ``(n_models,)``; over labels too where there are several."""
    if codes.ndim == 1:
        return log_loss_many(codes, probabilities)
    p = np.clip(probabilities, _LEAST, 1 - _LEAST)
    losses: NDArray[np.float64] = -np.where(codes > 0, np.log(p), np.log1p(-p)).mean((1, 2))
    return losses
