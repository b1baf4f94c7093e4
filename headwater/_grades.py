"""The order of grades: given, or plain from their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from headwater.errors import InputError, nearest

LEAST = 3
"""Fewest grades that have an order worth using: two classes are a binary task."""
Key = Callable[[str], float | None]
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "V": 5, "X": 10}


def ordered_grades(names: Sequence[Any], order: Sequence[Any] | None = None) -> list[Any]:
    """Return grades from the lowest to the highest.

    Parameters
    ----------
    names
        Distinct grades, in any order.
    order
        Their order, lowest first; compared as text. It may hold grades that are not in ``names``. By default numbers
        are ordered by value, letters without a gap (A to D, but not D, F, G) alphabetically, and Roman numerals up to
        39 by value, also after words that all grades share, such as ``grade 2`` or ``BI-RADS C``.

    Raises
    ------
    InputError
        When no order is given and the names do not show one, or a grade is missing from the order or is in it twice.

    Examples
    --------
    >>> ordered_grades(["10", "9", "2"]), ordered_grades(["grade III", "grade IX", "grade I"])
    (['2', '9', '10'], ['grade I', 'grade III', 'grade IX'])
    >>> ordered_grades(["low", "high", "middle"], order=["low", "middle", "high"])
    ['low', 'middle', 'high']
    """
    if order is None:
        found = _plain(names)
        if found is None:
            raise InputError(
                f"the names of the grades ({', '.join(map(str, names))}) do not show their order. Pass --order "
                "LOWEST,…,HIGHEST with all of them (in Python order=[...])."
            )
        return found
    words = [str(word).strip() for word in order]
    if twice := next((word for i, word in enumerate(words) if word in words[:i]), None):
        raise InputError(f"--order names {twice!r} twice: name each grade once, lowest first.")
    if missing := next((str(name) for name in names if str(name) not in words), None):
        raise InputError(
            f"--order {','.join(words)} lacks the grade {missing!r}.{nearest(missing, words)} Name every grade, lowest "
            "first."
        )
    return sorted(names, key=lambda name: words.index(str(name)))


def refuse_unknown_grades(order: Sequence[Any], names: Sequence[Any]) -> None:
    """Raise `InputError` for a grade in an order that no sample has."""
    there = [str(name) for name in names]
    for word in (str(word).strip() for word in order):
        if word not in there:
            raise InputError(f"--order: no sample has grade {word!r}.{nearest(word, there)} Leave it out of --order.")


def _plain(names: Sequence[Any]) -> list[Any] | None:
    """Return grades in the order that their names show; None if they show none."""
    words = [str(name).strip() for name in names]
    shared = _shared(words)
    ends = [word[len(shared) :] for word in words]
    for key in (_number, _letter, _roman):
        values = [value for end in ends if (value := key(end)) is not None]
        if len(values) < len(names) or len(set(values)) < len(names):
            continue
        if key is _letter and max(values) - min(values) >= len(names):
            continue  # letters with gaps are initials, such as F, G and D for fatty, glandular and dense
        return [names[i] for i in sorted(range(len(names)), key=values.__getitem__)]
    return None


def _shared(words: Sequence[str]) -> str:
    """Return the words that all names start with; what follows them is a number, a letter or a Roman numeral."""
    start = ""
    for characters in zip(*words, strict=False):
        if len(set(characters)) > 1:
            break
        start += characters[0]
    if all(_NUMBER.fullmatch(word) for word in words):
        return ""
    cut = start.rstrip("0123456789.") if start[-1:].isdigit() else start
    letters = re.search(r"[A-Za-z]+$", cut)
    if letters is None or all(_NUMBER.fullmatch(word[len(cut) :]) for word in words):
        return cut
    return cut[: letters.start()]  # letters after the last blank or sign belong to a letter or numeral


def _number(end: str) -> float | None:
    return float(end) if _NUMBER.fullmatch(end) else None


def _letter(end: str) -> float | None:
    return float(ord(end.lower())) if re.fullmatch("[A-Za-z]", end) else None


def _roman(end: str) -> float | None:
    if not _ROMAN.fullmatch(end.upper()):
        return None
    values = [_VALUES[letter] for letter in end.upper()]
    return float(sum(-v if v < max(values[i:]) else v for i, v in enumerate(values)))
