"""Summaries of metrics over folds, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater.evaluate import Fold, Outcome, count_folds, summarise

DIGITS = 20
"""Width that numbers in words are padded to when words are sorted."""


def summary(folds: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Return mean, standard deviation and number of folds of each metric."""
    mean, std = summarise(folds)
    return {"mean": mean, "std": std, "n_folds": count_folds(folds)}


def json_safe(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers with None for NaN, which JSON lacks."""
    return {name: None if np.isnan(value) else float(value) for name, value in metrics.items()}


def repeats(outcome: Outcome) -> list[str]:
    """Return which of ``seed`` and ``draw`` have several values, and so identify folds with the same number."""
    splits = [fold.split for fold in outcome.folds]
    return [name for name in ("seed", "draw") if len({getattr(split, name) for split in splits}) > 1]


def numbered(fold: Fold, outcome: Outcome) -> dict[str, int]:
    """Return the number of a fold, with its seed and draw if there are several."""
    return {name: getattr(fold.split, name) for name in ("fold", *repeats(outcome))}


def natural(word: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, before words; whole numbers within words by value too.

    Examples
    --------
    >>> sorted(["site 10", "100x", "site 9", "40x", "40x augmented", "400", "40"], key=natural)
    ['40', '400', '40x', '40x augmented', '100x', 'site 9', 'site 10']
    """
    try:
        return 0, float(word), word
    except ValueError:
        return 1, 0.0, re.sub(r"\d+", lambda digits: digits[0].zfill(DIGITS), word) + f"\0{word}"  # no ties
