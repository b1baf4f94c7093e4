"""fit-head: from stored features to a run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.api._samples import group_column, require_column, with_labels
from headwater.api.run import Run, environment, metrics_of, predictions_of, run_folder, write_run
from headwater.evaluate import cross_validate, make_splits
from headwater.heads import Concatenated, make_head
from headwater.store import Store, open_store


def fit_head(
    store: str | Path | Store,
    *,
    features: str | Sequence[str],
    label: str | Sequence[str],
    head: str = "linear",
    params: Mapping[str, Any] | None = None,
    groups: str | None = None,
    folds: int = 5,
    split: str | None = None,
    holdout: float | None = None,
    where: str | None = None,
    by: str | None = None,
    seed: int = 0,
    inner_folds: int = 4,
    label_separator: str | None = None,
    out: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Fit a head on stored features and evaluate it, parameters being selected inside the training rows of each fold.

    Parameters
    ----------
    store
        A store, or where it is.
    features
        One or more feature sets, ``NAME/MODALITY``; several are put side by side.
    label
        The column to predict; several columns of 0 and 1, or one column of lists, make a multi-label task.
    head
        Kind of head.
    params
        Parameters of the head. The head's own grid is searched unless a parameter of it is given here.
    groups
        The column whose values must not be divided between training and test, such as the patient; ``"none"`` to
        say that rows are independent.
    folds, split, holdout
        How to split: that many folds; by a column; or one share of the rows.
    where
        A boolean SQL expression over the manifest's columns: only these samples are used.
    by
        A column: results are also given for each of its values.
    seed
        Of the splits.
    inner_folds
        Folds of the training rows in which parameters are selected.
    label_separator
        Splits the label column's text into several labels, such as ``";"``.
    out
        The run directory to write; none is written when left out.
    progress
        Called with a line about each step.

    Returns
    -------
    Run

    Raises
    ------
    InputError, SplitError, HeadError, StoreError
        Each with one line that says what, where and what to do.
    """
    say = progress or (lambda line: None)
    target = run_folder(out)
    opened = store if isinstance(store, Store) else open_store(store)
    names = [features] if isinstance(features, str) else list(features)
    labels = [label] if isinstance(label, str) else list(label)
    grouped_by = group_column(opened, groups)
    for column in [*labels, *(c for c in (grouped_by, split, by) if c is not None)]:
        require_column(opened, column)
    data = opened.read(*names, where=where)
    data, y = with_labels(data, labels, label_separator)
    say(f"{len(y):,} samples with {' and '.join(names)}")
    values = {c: data.table[c].to_numpy() for c in (grouped_by, split, by) if c is not None}
    group_values = None if grouped_by is None else values[grouped_by]
    splits = make_splits(
        y,
        groups=group_values,
        n_folds=folds,
        split=None if split is None else values[split],
        holdout=holdout,
        seed=seed,
    )
    model = make_head(head, dict(params or {}))
    grid = [p for p in model.default_grid() if not set(p) & set(params or {})] or [{}]
    X = data.X if len(names) == 1 else Concatenated(list(data.inputs.values()))
    outcome = cross_validate(
        model, X, y, splits, grid=grid, groups=group_values, n_inner_folds=inner_folds, seed=seed, progress=say
    )
    config = {
        "command": "fit-head",
        "store": str(opened.path),
        "features": {name: opened.features(name).spec.to_dict() for name in names},
        "label": labels,
        "label_separator": label_separator,
        "head": head,
        "params": dict(params or {}),
        "groups": grouped_by or "none",
        "folds": folds if split is None and holdout is None else None,
        "split": split,
        "holdout": holdout,
        "where": where,
        "by": by,
        "seed": seed,
        "inner_folds": inner_folds,
        "environment": environment(),
    }
    predictions = predictions_of(data.ids, y, outcome, labels if y.ndim == 2 and len(labels) > 1 else None)
    metrics = metrics_of(outcome, data, by, None if by is None else values[by], y)
    return write_run(target, Run(target, config, metrics, predictions, outcome.head), head)
