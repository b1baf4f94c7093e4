"""Read DICOM images: headers, pixels, and the way in which these are to be shown."""

from __future__ import annotations

import os
import re
from typing import Any

from PIL import Image

from headwater._reading import open_regular
from headwater.errors import ImageError
from headwater.sources.dicom.decoding import size_in, stored_values
from headwater.sources.dicom.header import (
    SUFFIXES,
    is_burned_in,
    is_dicom,
    is_encrypted,
    read_header,
    refusal_of,
    use_frame_values,
)
from headwater.sources.dicom.rendering import render
from headwater.sources.reading import AS_DECLARED, Reading

__all__ = ["SUFFIXES", "burned_in", "is_dicom", "is_dicom_file", "is_encrypted", "picture_of", "size_of_dicom"]


_ENDLESS = re.compile(rb"\xe0\x7f\x10\x00O[BW]\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0")
"""Where compressed pixels of undefined length begin."""


def picture_of(data: bytes, *, max_pixels: int, reading: Reading = AS_DECLARED) -> Image.Image:
    """Decode the single image of a DICOM file as 8-bit RGB.

    Parameters
    ----------
    data
        The bytes of the file.
    max_pixels
        Most pixels, before any are decoded.
    reading
        Which values become black and white, and at which resolution JPEG 2000 is decoded.

    Raises
    ------
    ImageError
        When the file holds no single image, is damaged, or is encoded in a way that is not decoded here.
    MissingExtra
        When pydicom or imagecodecs is not installed.
    """
    header = _of_one_image(data)
    rows, columns = size_in(header, max_pixels)
    halvings = reading.halvings(width=columns, height=rows)
    return render(header, stored_values(header, max_pixels=max_pixels, halvings=halvings), reading)


def is_dicom_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file, of any name, begins as DICOM; false if it cannot be read."""
    try:
        with open_regular(path) as file:
            return is_dicom(file.read(256))
    except (OSError, ValueError):
        return False


def size_of_dicom(data: bytes) -> tuple[int, int]:
    """Return width and height that a DICOM image declares.

    Raises
    ------
    ImageError
        When the file holds no single image.
    """
    rows, columns = size_in(_of_one_image(data), 1 << 62)
    return columns, rows


def burned_in(data: bytes) -> bool:
    """Whether a file is DICOM that says its pixels show text which may identify the patient."""
    return is_dicom(data) and is_burned_in(read_header(data))


def _of_one_image(data: bytes) -> Any:
    """Return the header of a file that holds a single image."""
    header = read_header(data)
    has_pixels = "PixelData" in header
    if not has_pixels and _ENDLESS.search(data):  # pydicom drops pixels that do not end
        raise ImageError(f"truncated DICOM file ({len(data)} bytes): its compressed pixels do not end")
    if why := refusal_of(header, has_pixels=has_pixels):
        raise ImageError(why)
    use_frame_values(header)
    return header
