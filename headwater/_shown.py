"""How results look in a Python session: one line; printed, or in a notebook: the lines that the command prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any


class Shown:
    """A result that can be shown as lines."""

    def lines(self) -> list[str]:
        """Return the result in a few lines."""
        raise NotImplementedError

    def __repr__(self) -> str:
        first = next((line.strip() for line in self.lines() if line.strip()), "")
        return f"<{type(self).__name__}: {first}>"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return as_html(self.lines())


def as_html(lines: Iterable[str]) -> str:
    """Return lines as HTML, with all special characters escaped.

    Examples
    --------
    >>> as_html(["a < b"])
    '<pre>a &lt; b</pre>'
    """
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def without_nan(value: Any) -> Any:
    """Return a value with None in place of numbers that JSON has no words for: NaN and the infinities.

    Examples
    --------
    >>> without_nan({"auc": [0.5, float("nan")], "n": 3})
    {'auc': [0.5, None], 'n': 3}
    """
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
