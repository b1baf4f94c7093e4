"""Metrics over folds: for JSON, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater._words import aligned, counted
from headwater.evaluate import Fold, Outcome, count_folds, summarise


def summary(folds: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Return mean, standard deviation and number of folds of each metric."""
    mean, std = summarise(folds)
    return {"mean": mean, "std": std, "n_folds": count_folds(folds)}


def json_safe(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers with None for NaN, which JSON lacks."""
    return {name: None if np.isnan(value) else float(value) for name, value in metrics.items()}


def repeats(outcome: Outcome) -> list[str]:
    """Return what tells folds of one number apart: ``seed`` and ``draw``, where there are several."""
    splits = [fold.split for fold in outcome.folds]
    return [name for name in ("seed", "draw") if len({getattr(split, name) for split in splits}) > 1]


def numbered(fold: Fold, outcome: Outcome) -> dict[str, int]:
    """Return the number of a fold, with its seed and draw where there are several."""
    return {name: getattr(fold.split, name) for name in ("fold", *repeats(outcome))}


def repr_of(number: float) -> str:
    """Write a number as ``--set`` reads it: whole ones without a point, none rounded.

    Examples
    --------
    >>> repr_of(1024), repr_of(100.0), repr_of(3.16e-08)
    ('1024', '100', '3.16e-08')
    """
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def edge_lines(selection: Mapping[str, Any], option: str = "--set ") -> list[str]:
    """Say which parameters were selected at an end of their grid, with values to try beyond it.

    Examples
    --------
    >>> edge = {"param": "C", "value": 100.0, "end": "highest", "grid": 1e-06, "n_folds": 4, "of": 5}
    >>> print(edge_lines({"at_edge": [{**edge, "beyond": [100.0, 316.0, 1000.0]}]})[0])
    C: the highest of its grid, 100, was the best in 4 of 5 folds: try --set C=[100,316,1000] too
    """
    return [
        f"{edge['param']}: the {edge['end']} of its grid, {edge['value']:g}, was the best in {edge['n_folds']} of "
        f"{edge['of']} folds: try {option}{edge['param']}=[{','.join(map(repr_of, edge['beyond']))}] too"
        for edge in selection.get("at_edge") or ()
    ]


def over(folds: Sequence[Mapping[str, Any]]) -> str:
    """Say over what means of folds are.

    Examples
    --------
    >>> over([{"fold": 0}, {"fold": 1}])
    '2 folds'
    >>> over([{"fold": 0, "seed": 0}, {"fold": 1, "seed": 0}, {"fold": 0, "seed": 1}, {"fold": 1, "seed": 1}])
    '2 folds x 2 seeds'
    """
    there = [name for name in ("fold", "seed", "draw") if name in folds[0]]
    return " x ".join(counted(len({fold[name] for fold in folds}), name) for name in there)


def plus_minus(means: Mapping[str, float | None], stds: Mapping[str, float | None], name: str) -> str:
    """Write a mean and its standard deviation, where there are such."""
    mean, std = means.get(name), stds.get(name)
    if mean is None:
        return "–"
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def over_folds(part: Mapping[str, Any], name: str, n_folds: int) -> str:
    """Write a mean and its standard deviation, and over how many folds they are where not over all."""
    n = part.get("n_folds", {}).get(name, n_folds)
    of_folds = f" ({n} of {counted(n_folds, 'fold')})" if 0 < n < n_folds else ""
    return plus_minus(part["mean"], part["std"], name) + of_folds


def indented(table: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, set in."""
    return [f"  {line}" for line in aligned(table)] if table else []


def natural(word: str) -> tuple[int, float, str]:
    """Sort numbers by value, before words."""
    try:
        return 0, float(word), word
    except ValueError:
        return 1, 0.0, word
