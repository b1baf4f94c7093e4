"""Checks of option values that several parts make, each an error of one line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from headwater._options import as_tuple
from headwater.errors import InputError, nearest


def whole_in(word: str) -> int | None:
    """Return the number that a word of ASCII digits writes; None for any other word.

    Examples
    --------
    >>> whole_in("12"), whole_in("²"), whole_in("-1"), whole_in("9" * 5000)
    (12, None, None, None)
    """
    return int(word) if re.fullmatch(r"[0-9]{1,18}", word) else None


def one_of(option: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise `InputError` if a value is not among the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{option} {_shown(value)}.{nearest(str(value), allowed)} There are: {', '.join(allowed)}.")


def require_whole(option: str, value: Any, least: int) -> None:
    """Raise `InputError` unless a value is a whole number, and at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{option} must be a whole number, but is {_shown(value)}.")
    if int(value) < least:
        raise InputError(f"{option} must be at least {least}, but is {value}.")


def require_number(option: str, value: Any, *, above: float | None = None, least: float = 0) -> None:
    """Raise `InputError` unless a value is a finite number, above ``above`` or at least ``least``."""
    words = f"at least {least:g}" if above is None else f"above {above:g}"
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not (value >= least if above is None else value > above):
        raise InputError(f"{option} must be a finite number {words}, but is {_shown(value)}.")


def require_names(option: str, names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one name, or several without repetition, as a tuple; refuse an empty list.

    Examples
    --------
    >>> require_names("--label", "grade")
    ('grade',)
    """
    found = as_tuple(names)
    if not found:
        raise InputError(f"{option} is an empty list. Name at least one.")
    return found


def refuse_idle(given: Mapping[str, bool], why: str) -> None:
    """Raise `InputError` for the first option that is given although nothing would use it."""
    for option, is_given in given.items():
        if is_given:
            raise InputError(f"{option} {why}")


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())
