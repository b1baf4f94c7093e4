"""Words and tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_FOLDERS = re.compile(r"(?<![\w./:])/(?:[^\s/]+/)*(?=[^\s/])")


def counted(n: int, noun: str) -> str:
    """Write a number with its noun, in the singular or plural.

    Examples
    --------
    >>> counted(1, "sample"), counted(1200, "item")
    ('1 sample', '1,200 items')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Return rows of cells as lines with aligned columns; longer lines are cut at ``width``.

    Examples
    --------
    >>> aligned([["id", "label"], ["case 12", "benign"]])
    ['id       label', 'case 12  benign']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines if width is None else [line if len(line) <= width else line[: width - 1] + "…" for line in lines]


def any_of(words: Sequence[str]) -> str:
    """Return words joined by commas and ``or``.

    Examples
    --------
    >>> any_of(["1", "0.5", "0.25"]), any_of(["1"]), any_of([])
    ('1, 0.5 or 0.25', '1', '')
    """
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def cut(value: Any, most: int) -> str:
    r"""Return a value on one line of at most ``most`` characters.

    Examples
    --------
    >>> cut("two\nlines", 6), cut(None, 6)
    ('two l…', '')
    """
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def size(n_bytes: int) -> str:
    """Write a number of bytes with a unit.

    Examples
    --------
    >>> size(312), size(70_400), size(3_200_000_000)
    ('312 B', '70.4 kB', '3.2 GB')
    """
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{n_bytes} B" if unit == "B" else f"{value:,.1f} {unit}"


def indented(table: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as indented lines with aligned columns."""
    return [f"  {line}" for line in aligned(table)] if table else []


def without_folders(line: str) -> str:
    """Return a line whose absolute paths are cut to the name of the file, for people who may not know this machine.

    Examples
    --------
    >>> without_folders("/home/ann/runs/density: the head cannot be read (/tmp/x/head.json).")
    'density: the head cannot be read (head.json).'
    """
    return _FOLDERS.sub("", line)


def printable(line: str) -> str:
    """Replace characters that would move the cursor, reverse text or change a terminal's settings."""
    return _CONTROLS.sub("�", line)
