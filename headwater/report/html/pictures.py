"""Small JPEGs inside the page: one each, or many on one sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headwater.report.html.markup import Html

if TYPE_CHECKING:
    from PIL import Image

QUALITY = 80
SIDE, COLUMNS = 72, 20  # pixels of a picture on a sheet, and pictures in a row


def inline(picture: Image.Image) -> str:
    """Return a picture as the address of a JPEG that the page holds itself."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def sheet(pictures: Sequence[Image.Image]) -> str:
    """Return pictures side by side, `COLUMNS` in a row, each in a square of `SIDE` pixels, as one JPEG."""
    from PIL import Image

    rows = -(-len(pictures) // COLUMNS)
    whole = Image.new("RGB", (min(COLUMNS, len(pictures)) * SIDE, rows * SIDE))
    for place, picture in enumerate(pictures):
        small = picture.copy()
        small.thumbnail((SIDE, SIDE))
        left, top = place % COLUMNS * SIDE, place // COLUMNS * SIDE
        whole.paste(small, (left + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2))
    return inline(whole)


class Sheets:
    """The sheets of a page: maps of the same samples share one, which is read once and stands once in the page."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, ...], tuple[dict[int, int], str]] = {}
        self._names: dict[str, str] = {}

    def of(
        self, key: tuple[str, ...], rows: Sequence[int], read: Callable[[], Sequence[Image.Image | None]]
    ) -> tuple[dict[int, int], str]:
        """Return the place of each row on a sheet, if it has a picture, and the sheet's class; ``""`` without any.

        Parameters
        ----------
        key
            What the pictures are of: the store and the ids.
        rows
            Numbers of the rows.
        read
            Reads their pictures.
        """
        if key not in self._places:
            found = [(row, picture) for row, picture in zip(rows, read(), strict=True) if picture is not None]
            name = ""
            if found:
                address = sheet([picture for _, picture in found])
                name = self._names.setdefault(address, f"sheet{len(self._names)}")
            self._places[key] = {row: place for place, (row, _) in enumerate(found)}, name
        return self._places[key]

    @property
    def style(self) -> Html:
        """The style that lays the sheets behind what has their class."""
        return Html(
            "".join(f".{name} {{ background-image: url({address}); }}\n" for address, name in self._names.items())
        )
