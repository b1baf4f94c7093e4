"""Validate values read from files that somebody else may have written.

The schema is the frozen dataclass that the values become: it states names, types and ranges once.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

Read = TypeVar("Read")
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
"""A number of rows, items or bytes."""
Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
"""The length of a vector, or a number of tokens."""
Finite = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
"""A number, neither NaN nor infinite."""
Word = Annotated[str, msgspec.Meta(max_length=1 << 16)]
"""A name."""


def read_as(kind: type[Read], value: Any) -> Read:
    """Convert plain JSON values to a dataclass or another type; unknown fields are ignored.

    Raises
    ------
    ValueError
        When a field is missing, has another type, or is out of range; the message names the field.

    Examples
    --------
    >>> read_as(list[Count], [1, 2])
    [1, 2]
    >>> read_as(list[Count], [1, -2])
    Traceback (most recent call last):
      ...
    ValueError: [1]: expected int >= 0
    """
    try:
        found: Read = msgspec.convert(value, kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        what = f"{what[:1].lower()}{what[1:]}".replace("`", "")
        place = where.replace("`", "").replace("$", "").lstrip(".")
        raise ValueError(f"{place}: {what}" if place else what) from error
    return found
