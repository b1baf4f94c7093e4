"""What a compressed image declares in its own first bytes, read before any decoder allocates memory."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.errors import ImageError

MOST_MARKERS = 1000
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}  # of JPEG, and of JPEG-LS
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_SIZ, _COD, _SOT = 0x51, 0x52, 0x90
_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Declared:
    """What a codestream declares.

    Attributes
    ----------
    width, height
        In pixels.
    n_components
        Samples of a pixel.
    precision
        Bits of a sample.
    signed
        Whether samples are signed; only JPEG 2000 says so.
    levels
        How many times the image can be halved while it is decoded; 0 except for JPEG 2000.
    adobe
        Colour transform in an Adobe marker of JPEG: 0 for none, 1 for YCbCr; None without the marker.
    start
        Position of the codestream within the bytes, which may begin with the boxes of a JP2 file.
    """

    width: int
    height: int
    n_components: int
    precision: int
    signed: bool = False
    levels: int = 0
    adobe: int | None = None
    start: int = 0


def declared_in(frame: bytes) -> Declared:
    """Return what a JPEG, JPEG-LS or JPEG 2000 image declares.

    Raises
    ------
    ImageError
        When the bytes are none of these, or end too early.

    References
    ----------
    ITU-T T.81, annex B (JPEG); T.87, annex C (JPEG-LS); T.800, annex A (JPEG 2000).
    """
    start = frame.find(_START, 0, 4096)  # a JP2 file, which DICOM forbids but devices write, has boxes before it
    if frame.startswith(b"\xff\xd8"):
        found = _of_jpeg(frame)
    elif start >= 0:
        found = _of_jpeg_2000(frame, start)
    elif len(frame) < 8:
        found = None
    else:
        raise ImageError("the pixel data are neither JPEG, JPEG-LS nor JPEG 2000, as the transfer syntax says")
    if found is None:
        raise ImageError(f"truncated image: its {len(frame)} compressed bytes end within the header")
    return found


def _of_jpeg(frame: bytes) -> Declared | None:
    at, adobe = 2, None
    for _ in range(MOST_MARKERS):
        while at < len(frame) and frame[at] == 0xFF and frame[at + 1 : at + 2] == b"\xff":
            at += 1  # fill bytes
        if at + 4 > len(frame) or frame[at] != 0xFF:
            return None
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in _ALONE:
            at += 2
            continue
        body = frame[at + 4 : at + 2 + length]
        if marker in _FRAME_MARKERS:
            if len(body) < 6:
                return None
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return Declared(width, height, body[5], body[0], adobe=adobe)
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        at += 2 + length
    return None


def _of_jpeg_2000(frame: bytes, start: int) -> Declared | None:
    at = start + 2
    found: tuple[int, int, int, int, bool] | None = None
    for _ in range(MOST_MARKERS):
        if at + 4 > len(frame) or frame[at] != 0xFF:
            return None
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : at + 2 + length]
        if marker == _SIZ:
            if len(body) < 37:
                return None
            right, bottom, left, top = (int.from_bytes(body[i : i + 4], "big") for i in (2, 6, 10, 14))
            n_components, depth = int.from_bytes(body[34:36], "big"), body[36]
            found = right - left, bottom - top, n_components, (depth & 0x7F) + 1, depth >= 0x80
        if marker == _COD and found is not None and len(body) >= 6:
            return Declared(*found, levels=body[5], start=start)
        if marker == _SOT:
            return None
        at += 2 + length
    return None
