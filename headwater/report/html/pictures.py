"""Small JPEGs inside the page: one each, or many on one sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
