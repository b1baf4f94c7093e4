"""Small pictures of samples, for results that people look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError
from headwater.samples.cases import Cases
from headwater.store import KEY_COLUMNS

if TYPE_CHECKING:
    from PIL import Image

SIDE = 224
"""Longest side of a picture, in pixels."""


def picture_of_sample(cases: Cases, row: int) -> Image.Image | None:
    """Return the image of a sample, at most `SIDE` pixels wide and high, in mode RGB; None where there is none.

    An image whose file is missing, cannot be read or has changed since it was embedded counts as missing. Its steps
    before the encoder, such as a crop, are not applied, but files are read as they were: the bits, and the window of
    DICOM. DICOM whose pixels may show who the patient is (Burned In Annotation) is left out: results are passed on.
    """
    from headwater.embed import Content
    from headwater.samples.slide_maps import know_slide
    from headwater.sources import burned_in, read_image
    from headwater.sources.slides import tile_at
    from headwater.sources.steps import parse_steps, reading_of

    role, key = cases.roles.image, cases.table[KEY_COLUMNS["image"]][row]
    if role is None or key is None or cases.table[role][row] is None:
        return None
    try:
        steps = parse_steps(cases.features.spec.preprocessing.get("steps", ()), named_by="the store")
        path = Path(cases.roles.root) / str(cases.table[role][row])
        content = Content(bytes.fromhex(key), path)
        if (tile := tile_at(path)) is not None:
            know_slide(cases.store, tile.slide)
            return _small(content.image())
        data = content.file()
        return None if burned_in(data) else _small(read_image(data, reading=reading_of(steps)))
    except (HeadwaterError, ValueError, TypeError):
        return None


def picture_of_file(path: Path) -> Image.Image | None:
    """Return an image file as `picture_of_sample` does; None if it cannot be read."""
    from headwater.sources import burned_in, load_bytes, read_image

    try:
        data = load_bytes(path)
        return None if burned_in(data) else _small(read_image(data))
    except HeadwaterError:
        return None


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((SIDE, SIDE))
    return image
