"""Words that stand for a missing value, in columns where values are counted or measured."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

MISSING = ("NA", "N/A", "NaN", "null")
"""Missing in any case of letters, as an empty cell is; never ``none``, ``unknown``, ``0`` or ``-``."""


def missing_words(text: pl.Series, words: Sequence[str] = MISSING) -> pl.Series:
    """Say of each text whether it is one of the words, whatever its case and the blanks around it.

    Examples
    --------
    >>> missing_words(pl.Series(["NA", " nan ", "none", "", None])).to_list()
    [True, True, False, False, False]
    """
    folded = [word.strip().lower() for word in words if word.strip()]
    return text.str.strip_chars().str.to_lowercase().is_in(folded).fill_null(False)


def is_missing(cell: str) -> bool:
    """Whether a cell holds nothing, or one of the words for it.

    Examples
    --------
    >>> is_missing(" n/a "), is_missing(""), is_missing("none")
    (True, True, False)
    """
    word = cell.strip().lower()
    return not word or word in {missing.lower() for missing in MISSING}


def words_of(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the words for missing values: those that were given, or else the usual ones.

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
    """Say how a sample without any of the labels is written, as against one of which they are not known."""
    return f"an empty cell means that the labels are not known: write {separator!r} alone for none of them"
