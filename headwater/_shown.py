"""How results look in a Python session: one line; printed, or in a notebook: the lines that the command prints."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


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
