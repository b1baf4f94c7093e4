"""fit-head: from stored features to a run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from headwater.api._leakage import check_leakage
from headwater.api._lines import counted
from headwater.api._samples import full_column, group_column, levels, require_column, with_labels
from headwater.api.run import Run, described, environment, metrics_of, predictions_of, run_folder, write_run
from headwater.errors import InputError
from headwater.evaluate import cross_validate, make_splits
from headwater.heads import Concatenated, Head, make_head
from headwater.store import Store, open_store

FOLDS = 5


def fit_head(
    store: str | Path | Store,
    *,
    features: str | Sequence[str],
    label: str | Sequence[str],
    head: str = "linear",
    params: Mapping[str, Any] | None = None,
    groups: str | None = None,
    folds: int | None = None,
    split: str | None = None,
    holdout: float | None = None,
    where: str | None = None,
    by: str | None = None,
    seed: int = 0,
    inner_folds: int = 4,
    label_separator: str | None = None,
    allow_leakage: str | None = None,
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
        How to split, one of them: that many folds; by a column; or one share of the rows. Five folds by default.
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
    allow_leakage
        Why it is no matter that the same images, near duplicates of them, or samples of one group are on both sides of
        a split, which is refused otherwise. Kept in ``metrics.json``.
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
    given = dict(params or {})
    model = _head(head, given)
    if seed < 0:
        raise InputError(f"--seed must be at least 0, but is {seed}.")
    if folds is not None and (split is not None or holdout is not None):
        raise InputError(f"--folds goes without {'--split' if split is not None else '--holdout'}: pass one of them.")
    n_folds = FOLDS if folds is None else folds
    opened = store if isinstance(store, Store) else open_store(store)
    names = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    labels = [label] if isinstance(label, str) else list(dict.fromkeys(label))
    for column in labels:
        require_column(opened, column, "--label")
    columns = {"--groups": group_column(opened, groups), "--split": split, "--by": by}
    for option, name in columns.items():
        if name is not None:
            require_column(opened, name, option)
    data, found = with_labels(opened.read(*names, where=where), labels, label_separator)
    y = found.y
    say(f"{counted(len(y), 'sample')} with {' and '.join(names)}")
    values = {o: full_column(data, name, o) for o, name in columns.items() if name is not None and o != "--by"}
    splits = make_splits(
        y,
        # A split that is given may divide groups when that is allowed, and is refused or counted below.
        groups=values.get("--groups") if split is None else None,
        n_folds=n_folds,
        split=values.get("--split"),
        holdout=holdout,
        seed=seed,
    )
    leakage = check_leakage(
        data,
        splits,
        groups=values.get("--groups"),
        group_column=columns["--groups"],
        allowed=allow_leakage,
        say=say,
    )
    if len(names) == 1:
        X: Any = data.X
    else:
        X = dict(data.inputs) if model.takes_inputs else Concatenated(list(data.inputs.values()))
    outcome = cross_validate(
        model,
        X,
        y,
        splits,
        grid=[p for p in model.default_grid() if not set(p) & set(given)] or [{}],
        groups=values.get("--groups"),
        n_inner_folds=inner_folds,
        seed=seed,
        progress=say,
    )
    classes = outcome.classes.tolist() if found.names is None else found.names
    config = {
        "command": "fit-head",
        "store": str(opened.path.resolve()),
        "features": described(opened, names),
        "label": labels,
        "label_separator": label_separator,
        "classes": classes,
        "head": head,
        "params": given,
        "groups": columns["--groups"] or "none",
        "folds": n_folds if split is None and holdout is None else None,
        "split": split,
        "holdout": holdout,
        "where": where,
        "by": by,
        "seed": seed,
        "inner_folds": inner_folds,
        "allow_leakage": allow_leakage,
        "environment": environment(),
    }
    metrics = metrics_of(
        outcome, data, y, classes=classes, params=given, by=None if by is None else (by, levels(data, by))
    )
    metrics["leakage"] = leakage
    predictions = predictions_of(data.ids, y, outcome, [str(c) for c in classes], values.get("--groups"))
    return write_run(target, Run(target, config, metrics, predictions, outcome.head), head)


def _head(kind: str, params: dict[str, Any]) -> Head:
    """Build an unfitted head; refuse a parameter of the wrong type."""
    if kind == "zero-shot":
        raise InputError("--head zero-shot has nothing to fit: run headwater zero-shot.")
    head = make_head(kind, params)
    hints = get_type_hints(type(head).__init__)
    for name, value in params.items():
        if name in hints and not _is_a(value, hints[name]):
            raise InputError(f"--set {name}={value}: {name} must be {_worded(hints[name])}.")
    return head


def _worded(hint: Any) -> str:
    """Say what type is needed, as one writes it in JSON."""
    if get_origin(hint) in (Union, UnionType, Literal):
        parts = get_args(hint)
        return " or ".join(map(_worded if get_origin(hint) is not Literal else str, parts))
    return _WORDS.get(hint, str(hint))


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value that was read as JSON is of a type; a whole number is a float too, a truth value is not."""
    if get_origin(hint) in (Union, UnionType):
        return any(_is_a(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return not isinstance(hint, type) or isinstance(value, (int, float) if hint is float else hint)
