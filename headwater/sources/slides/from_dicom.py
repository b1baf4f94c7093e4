"""DICOM slides that OpenSlide refuses: one resolution, whose frames fill a grid."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater._extras import need
from headwater._reading import open_regular
from headwater.errors import ImageError
from headwater.sources.slides.base import MOST_SIDE, Level, Slide, plausible_mpp, reason_of

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage."""

MOST_FRAMES = 1 << 22
_KEPT = 64  # decoded frames that a slide keeps
_COMPARED = 8  # neighbouring frames whose edges are compared, where a file does not say how its frames lie

_quietly = Lock()  # around warnings.catch_warnings, which is not safe in threads


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself before its pixels.

    Attributes
    ----------
    is_slide
        Whether it is one resolution of a slide.
    series
        Its series; an empty text if it does not say.
    size, frame
        Width and height of the slide, and of a frame, in pixels.
    n_frames
        Number of frames.
    organised
        How the frames lie, such as ``TILED_FULL``; an empty text if the file does not say.
    is_volume
        Whether it shows the specimen, not a label, an overview or a thumbnail.
    n_samples, n_bits
        Samples of a pixel, and bits of a sample.
    mpp
        Micrometres per pixel.
    profile
        Bytes of the colour profile.
    """

    is_slide: bool
    series: str
    size: tuple[int, int]
    frame: tuple[int, int]
    n_frames: int
    organised: str
    is_volume: bool
    n_samples: int
    n_bits: int
    mpp: float | None
    profile: int | None


class DicomSlide(Slide):
    """The frames of one DICOM file, which must fill its pixel matrix.

    They lie row by row, as the standard has it (TILED_FULL). Where a file does not say how they lie, edges of some
    neighbouring frames are compared, since some writers put frames column by column.
    """

    backend: ClassVar[str] = "pydicom"

    def __init__(self, path: Path, header: Header) -> None:
        (width, height), (self._columns, self._rows) = header.size, header.frame
        if not (0 < self._columns <= MOST_SIDE and 0 < self._rows <= MOST_SIDE):
            raise ImageError(f"DICOM frames of {self._columns} x {self._rows} pixels: {path}")
        super().__init__(path, (Level(width, height, 1.0),), header.mpp, header.profile)
        self._across, self._down = -(-width // self._columns), -(-height // self._rows)
        expected, organised = self._across * self._down, header.organised or "TILED_FULL"
        if organised != "TILED_FULL" or header.n_frames != expected or expected > MOST_FRAMES:
            raise ImageError(
                f"this DICOM slide has {header.n_frames:,} frames ({organised}), but {expected:,} fill its pixels; "
                f"only complete rows of frames are read: {path}"
            )
        if header.n_bits != 8 or header.n_samples not in (1, 3):
            raise ImageError(f"this DICOM slide is not 8-bit RGB or grey: {path}")
        self._frames: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._lock = Lock()
        self._by_column = not header.organised and self._across > 1 and self._down > 1 and self._continues_by_column()

    def _continues_by_column(self) -> bool:
        """Whether frames clearly continue each other at their edges if they are put column by column."""
        there = [i for i in range(self._across * self._down - self._down) if (i + 1) % self._across]
        chosen = [there[i] for i in np.linspace(0, len(there) - 1, min(_COMPARED, len(there))).astype(int)]
        by_row, by_column = (
            np.mean([np.abs(self._edge(i, -1) - self._edge(i + step, 0)).mean() for i in chosen])
            for step in (1, self._down)
        )
        return bool(by_column < by_row / 2)

    def _edge(self, frame: int, column: int) -> NDArray[np.float32]:
        return self._frame(frame)[:, column].astype(np.float32)

    def _read(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        out = np.full((height, width, 3), 255, np.uint8)
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        for row in range(y // self._rows, -(-bottom // self._rows)):
            for column in range(x // self._columns, -(-right // self._columns)):
                number = column * self._down + row if self._by_column else row * self._across + column
                frame = self._frame(number)
                x0, y0 = column * self._columns, row * self._rows
                a, b = max(x, x0), min(right, x0 + self._columns)
                c, d = max(y, y0), min(bottom, y0 + self._rows)
                out[c - y : d - y, a - x : b - x] = frame[c - y0 : d - y0, a - x0 : b - x0]
        return Image.fromarray(out)

    def _frame(self, index: int) -> NDArray[np.uint8]:
        """Return the decoded pixels of a frame, of shape ``(rows, columns, 3 or 1)``."""
        with self._lock:
            if index in self._frames:
                self._frames.move_to_end(index)
                return self._frames[index]
        with _quietly, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = need("pydicom.pixels", "slides").pixel_array(str(self.path), index=index)
        frame: NDArray[np.uint8] = np.asarray(found, np.uint8).reshape(self._rows, self._columns, -1)
        with self._lock:
            self._frames[index] = frame
            while len(self._frames) > _KEPT:
                self._frames.popitem(last=False)
        return frame


def opened(path: Path) -> DicomSlide | None:
    """Open the frames of a DICOM slide; return None if the file is no DICOM, or no slide.

    Raises
    ------
    ImageError
        When it is damaged, or its frames do not fill the slide.
    """
    header = header_of(path)
    if header is None or not header.is_slide:
        return None
    try:
        return DicomSlide(path, header)
    except (ImageError, MemoryError, ImportError):
        raise
    except Exception as error:  # decoders of a damaged frame raise nearly anything
        raise ImageError(f"damaged DICOM slide ({reason_of(error)}): {path}") from error


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM."""
    with open_regular(path) as head:
        return head.read(132)[128:] == b"DICM"


def header_of(path: Path) -> Header | None:
    """Return what a DICOM file says of itself; None for any other file.

    Raises
    ------
    ImageError
        When it begins as DICOM, but cannot be read.
    """
    if not is_dicom(path):
        return None
    with _quietly, warnings.catch_warnings():  # values that are longer than the standard allows
        warnings.simplefilter("ignore")
        try:
            return _header(need("pydicom", "slides").dcmread(path, stop_before_pixels=True))
        except ImportError:
            raise
        except Exception as error:  # on a damaged file, pydicom raises nearly anything
            raise ImageError(f"damaged DICOM file ({reason_of(error)}): {path}") from error


def _header(found: Any) -> Header:
    icc = next((p.ICCProfile for p in found.get("OpticalPathSequence") or [] if "ICCProfile" in p), None)

    def number(name: str, otherwise: int = 0) -> int:
        value = found.get(name)
        return otherwise if value is None else int(value)

    return Header(
        is_slide=str(found.get("SOPClassUID", "")) == WHOLE_SLIDE and "TotalPixelMatrixColumns" in found,
        series=str(found.get("SeriesInstanceUID") or ""),
        size=(number("TotalPixelMatrixColumns"), number("TotalPixelMatrixRows")),
        frame=(number("Columns"), number("Rows")),
        n_frames=number("NumberOfFrames", 1),
        organised=str(found.get("DimensionOrganizationType") or ""),
        is_volume="ImageType" not in found or "VOLUME" in list(found.ImageType),
        n_samples=number("SamplesPerPixel", 1),
        n_bits=number("BitsAllocated"),
        mpp=_mpp(found),
        profile=None if icc is None else len(icc),
    )


def _mpp(found: Any) -> float | None:
    """Return the micrometres per pixel from the spacing of pixels; the imaged volume is often nominal, so not used."""
    for group in found.get("SharedFunctionalGroupsSequence") or []:
        for measures in group.get("PixelMeasuresSequence") or []:
            spacing = measures.get("PixelSpacing")
            if spacing is not None and len(spacing) == 2:
                return plausible_mpp(float(spacing[1]) * 1000, float(spacing[0]) * 1000)
    return None
