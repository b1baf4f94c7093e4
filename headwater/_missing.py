"""Words that stand for a missing value in columns of labels and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

MISSING = ("NA", "N/A", "NaN", "null")
"""Words for a missing value, in upper or lower case. ``none``, ``unknown``, ``0`` and ``-`` are not among them."""


def missing_words(text: pl.Series, words: Sequence[str] = MISSING) -> pl.Series:
    """Return whether each text is one of the words; case and surrounding blanks are ignored.

    Examples
    --------
    >>> missing_words(pl.Series(["NA", " nan ", "none", "", None])).to_list()
    [True, True, False, False, False]
    """
    folded = [word.strip().lower() for word in words if word.strip()]
    return text.str.strip_chars().str.to_lowercase().is_in(folded).fill_null(False)


def is_missing(cell: str) -> bool:
    """Whether a cell is blank or holds a word for a missing value.

    Examples
    --------
    >>> is_missing(" n/a "), is_missing(""), is_missing("none")
    (True, True, False)
    """
    word = cell.strip().lower()
    return not word or word in {missing.lower() for missing in MISSING}


def words_of(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the words for missing values: the given ones, else the default.

    Examples
    --------
    >>> words_of(None), words_of("NA, unknown"), words_of("")
    (('NA', 'N/A', 'NaN', 'null'), ('NA', 'unknown'), ())
    """
    if given is None:
        return MISSING
    words = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def of_no_label(separator: str) -> str:
    """Say how to write a sample that has none of the labels, and how one whose labels are unknown."""
    return f"an empty cell means that the labels are unknown; write {separator!r} alone for a sample without labels"
