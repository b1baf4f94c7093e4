"""Texts that state the label: of samples, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headwater.evaluate.splits import Split
from headwater.evaluate.stated import Clue, Stated, stated_in
from headwater.store import Data

LEAST_REPEATED = 5  # texts that several samples have, for it to say something that each has one label
READ = ("/text", "/pair")  # how feature sets end that hold what texts say


def texts_that_state(
    samples: Data,
    column: str | None,
    y: NDArray[Any],
    names: Sequence[Any],
    splits: Sequence[Split],
    groups: NDArray[Any] | None = None,
) -> Stated | None:
    """Measure how far the texts of samples state their labels; None where there are no texts.

    Parameters
    ----------
    samples
        Their table has the texts.
    column
        The column of texts.
    y
        Of the samples: classes, 0/1 of several labels, or numbers.
    names
        What classes, labels or outputs are called, in the order of `numpy.unique` or of columns.
    splits
        Of the samples.
    groups
        Their groups, such as the patient.
    """
    if column is None or column not in samples.table.columns:
        return None
    texts = samples.table[column].cast(pl.String)
    there = texts.is_not_null().to_numpy()
    if there.sum() < 2:
        return None
    place = np.cumsum(there) - 1
    inside = [
        Split(s.fold, place[s.train[there[s.train]]], place[s.test[there[s.test]]], s.seed, s.draw) for s in splits
    ]
    codes = y if y.ndim == 2 or y.dtype.kind == "f" else np.unique(y, return_inverse=True)[1]
    words, of = [str(name) for name in names], None if groups is None else groups[there]
    return stated_in(texts.drop_nulls().to_list(), codes[there], words, inside, groups=of)


def words_of_clue(clue: Clue) -> str:
    """Say what of the texts tells the label, and how well.

    Examples
    --------
    >>> words_of_clue(Clue("word", "spiculated", False, "malignant", 0.8125, False))
    "the word 'spiculated' alone tells malignant with AUC 0.812 on tested samples"
    """
    if clue.kind == "number":
        return f"{100 * clue.auc:.0f} % of tested texts hold the very number of {clue.label} that is to be predicted"
    lack = "the lack of " if clue.absent else ""
    kind = "name" if clue.kind == "name" else "words" if " " in clue.words else "word"
    what = f"the {kind} {clue.words!r}"
    return f"{lack}{what} alone tells {clue.label} with AUC {clue.auc:.3f} on tested samples"


def lines_of_texts(texts: Mapping[str, Any] | None) -> list[str]:
    """Say how far texts state the label, from what ``metrics.json`` holds of it; nothing where nothing is worth it."""
    if not texts:
        return []
    clues = [Clue(**texts[kind]) for kind in ("name", "word", "number") if texts.get(kind)]
    best = max(clues, key=lambda clue: clue.auc, default=None)
    out = [] if best is None else [f"texts: {words_of_clue(best)}"]
    n, alike = texts["n_repeated"], texts["n_repeated_one_label"]
    if n >= LEAST_REPEATED and alike == n:
        out.append(f"texts: each of {n:,} texts that several samples have goes with one label")
    return out
