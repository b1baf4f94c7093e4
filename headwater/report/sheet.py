"""A sheet of pictures with their words: one HTML file that needs no other, or a PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from headwater._words import cut, printable

if TYPE_CHECKING:
    from PIL import Image

MOST = 300  # characters of a value in HTML
MOST_IN_PNG = 34  # and in a line of a PNG
LINES = 3  # values below a picture in a PNG
QUALITY = 85
SIDE, MARGIN, LINE = 224, 12, 14  # pixels of a picture, between pictures, and of a line of text
COLUMNS = 6
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(224px, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .5rem; border: 1px solid #ccc; border-radius: 4px; overflow-wrap: anywhere; }
figure.query { border: 2px solid #2c5f9e; }
img { max-width: 100%; display: block; }
.none { height: 5rem; display: grid; place-items: center; color: #666; background: #f2f2f2; }
dl { margin: .25rem 0 0; display: grid; grid-template-columns: auto 1fr; gap: 0 .5rem; font-size: 12px; }
dt { color: #666; } dd { margin: 0; }
"""


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture with its words.

    Attributes
    ----------
    title
        The id, for one.
    note
        A line below it, such as the rank and the score; "query" marks the query.
    values
        Further words by their names.
    picture
        An image in mode RGB; None if there is none.
    """

    title: str
    note: str
    values: Mapping[str, str]
    picture: Image.Image | None


def write_sheet(path: Path, title: str, tiles: Sequence[Tile]) -> None:
    """Write tiles to an ``.html`` or a ``.png`` file; its folder is created if missing.

    The page has no script, and loads nothing. All words are escaped, and each picture is a JPEG inside the file.
    """
    data = _png(tiles) if path.suffix.lower() == ".png" else _html(title, tiles).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _html(title: str, tiles: Sequence[Tile]) -> str:
    figures = "\n".join(map(_figure, tiles))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n<title>{_safe(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><h1>{_safe(title)}</h1>\n<main>\n{figures}\n</main></body></html>\n"
    )


def _figure(tile: Tile) -> str:
    picture = '<div class="none">no picture</div>'
    if tile.picture is not None:
        file = io.BytesIO()
        tile.picture.save(file, "JPEG", quality=QUALITY)
        source = base64.b64encode(file.getvalue()).decode()
        picture = f'<img alt="{_safe(tile.title)}" src="data:image/jpeg;base64,{source}">'
    rows = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>" for name, value in tile.values.items())
    kind = ' class="query"' if tile.note == "query" else ""
    words = f"<strong>{_safe(tile.title)}</strong><br>{_safe(tile.note)}<dl>{rows}</dl>"
    return f"<figure{kind}>{picture}<figcaption>{words}</figcaption></figure>"


def _safe(word: str) -> str:
    return escape(printable(cut(word, MOST)))


def _png(tiles: Sequence[Tile]) -> bytes:
    from PIL import Image, ImageDraw

    columns = min(COLUMNS, len(tiles))
    width, height = SIDE + MARGIN, SIDE + MARGIN + (2 + LINES) * LINE
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left, top = MARGIN + number % columns * width, MARGIN + number // columns * height
        if tile.picture is None:
            draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill="#f2f2f2")
            draw.text((left + 8, top + 8), "no picture", fill="#666666")
        else:
            sheet.paste(tile.picture, (left, top))
        if tile.note == "query":
            draw.rectangle((left - 3, top - 3, left + SIDE + 2, top + SIDE + 2), outline="#2c5f9e", width=2)
        values = [f"{name}: {value}" for name, value in tile.values.items()][:LINES]
        for line, words in enumerate([tile.title, tile.note, *values]):
            draw.text((left, top + SIDE + line * LINE), _plain(words), fill="#222222")
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _plain(words: str) -> str:
    """Return words in the characters that Pillow's own font has."""
    return cut(printable(words), MOST_IN_PNG).encode("latin-1", "replace").decode("latin-1")
