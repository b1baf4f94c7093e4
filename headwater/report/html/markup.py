"""HTML in which every text is escaped: only `Html`, which this package makes, is put in as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from headwater._words import printable

MOST = 600  # characters of one text from a file
_SLUG = re.compile(r"[^a-z0-9]+")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | Html | None


def safe(text: Any, most: int = MOST) -> Html:
    """Return a text escaped, without control characters, and cut; markup stays as it is.

    Examples
    --------
    >>> safe("a < b"), safe(Html("<b>"))
    ('a &lt; b', '<b>')
    """
    if isinstance(text, Html):
        return text
    words = "" if text is None else str(text)
    if len(words) > most:
        words = words[: most - 1] + "…"
    return Html(escape(printable(words), quote=True))


def join(parts: Iterable[Content], between: str = "") -> Html:
    """Return texts and markup one after the other, each text escaped."""
    return Html(between.join(safe(part) for part in parts if part is not None))


def tag(name: str, *inside: Content, **attributes: Any) -> Html:
    """Return an element; attributes that are None or False are left out, ``class_`` is ``class``.

    Examples
    --------
    >>> tag("a", "more", href="#x", class_="b", hidden=False)
    '<a href="#x" class="b">more</a>'
    """
    given = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        given += f" {shown}" if value is True else f' {shown}="{safe(value)}"'
    return Html(f"<{name}{given}>{join(inside)}</{name}>")


def slug(words: str) -> str:
    """Return words as the end of an id.

    Examples
    --------
    >>> slug("What was done?")
    'what-was-done'
    """
    return _SLUG.sub("-", words.lower()).strip("-") or "x"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text
        What it shows.
    value
        A number to sort by, which also stands to the right; None for words.
    source
        The file and key that the value came from, shown when the pointer rests on it.
    note
        A small line below.
    """

    text: Content
    value: float | None = None
    source: str | None = None
    note: Content = None
    numeric: bool = False

    @property
    def markup(self) -> Html:
        """The cell as markup."""
        note = None if self.note is None else tag("small", self.note)
        right = "n" if self.value is not None or self.numeric else None
        by = None if self.value is None else f"{self.value:.10g}"
        return tag("td", self.text, note, class_=right, title=self.source, data_v=by)


def table(
    head: Sequence[Content],
    rows: Iterable[Sequence[Cell | Content]],
    *,
    caption: Content = None,
    sortable: bool = True,
    class_: str | None = None,
) -> Html:
    """Return a table that scrolls sideways where it is too wide, and that a click on its head sorts."""
    listed = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    right = [
        bool(listed) and all(r[i].value is not None or r[i].numeric or not r[i].text for r in listed)
        for i in range(len(head))
    ]
    sorts = sortable and len(listed) > 2
    heads = [tag("th", word, scope="col", class_="n" if n else None) for word, n in zip(head, right, strict=True)]
    body = join(tag("tr", *(cell.markup for cell in row)) for row in listed)
    above = None if caption is None else tag("caption", caption)
    made = tag(
        "table", above, tag("thead", tag("tr", *heads)), tag("tbody", body), class_=class_, data_sort=sorts or None
    )
    return tag("div", made, class_="wide")


def paragraphs(lines: Iterable[Content], class_: str | None = None) -> Html:
    """Return a paragraph for each line."""
    return join(tag("p", line, class_=class_) for line in lines)


def bullets(lines: Sequence[Content]) -> Html:
    """Return a list; nothing for no lines."""
    return tag("ul", *(tag("li", line) for line in lines)) if lines else Html("")


def code(words: Any) -> Html:
    """Return words from a file or of a command."""
    return tag("code", str(words))


@dataclass(frozen=True)
class Section:
    """A part of the report with its heading."""

    title: str
    body: Html
    level: int = 2
    id: str = ""

    @property
    def markup(self) -> Html:
        """The section as markup."""
        heading = tag(f"h{self.level}", self.title)
        return tag("section", heading, self.body, id=self.id or slug(self.title))
