"""Decode the pixels of a DICOM image: imagecodecs, as a plug-in of pydicom, for all that is compressed.

No other plug-in of pydicom is asked, so that a file decodes alike wherever it is read. JPEG 2000 at a lower resolution
is decoded by Pillow's OpenJPEG, since imagecodecs has no such option.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Jpeg2KImagePlugin

from headwater._extras import need
from headwater.errors import ImageError
from headwater.sources.dicom.codestream import Declared, declared_in
from headwater.sources.dicom.header import DEFLATED, one_line, pydicom_quiet, syntax_of, value_of, whole_of

TAIL = 64  # bytes in which the end of a JPEG image must lie: devices add some
LABEL = "headwater"
"""Name of the plug-in in pydicom's decoders."""

_JPEG = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 57, 70))
_JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (80, 81))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (90, 91))
_HTJ2K = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (201, 202, 203))
_RLE = "1.2.840.10008.1.2.5"
_COMPRESSED = (*_JPEG, *_JPEG_LS, *_JPEG_2000, *_HTJ2K, _RLE)

DECODER_DEPENDENCIES = dict.fromkeys(_COMPRESSED, ("imagecodecs",))
"""What pydicom says is missing when the plug-in cannot be used."""

_ADDING = threading.Lock()


@dataclass(frozen=True)
class Stored:
    """The stored values of an image, before any meaning is given to them.

    Attributes
    ----------
    samples
        Of shape ``(rows, columns)``, or ``(rows, columns, 3)`` for colour. Bits above ``kept`` are not yet removed.
    bits
        Bits of a sample that the header says are used, the lowest ones.
    kept
        Bits that hold a value: as many, or all, if what compresses them leaves no others. A lossy value may then be
        beyond the range of ``bits``.
    signed
        Whether the highest of these is a sign.
    photometric
        What the samples mean, such as ``MONOCHROME2`` or ``YBR_FULL``, as they lie here.
    """

    samples: NDArray[Any]
    bits: int
    kept: int
    signed: bool
    photometric: str


def is_available(uid: str) -> bool:
    """Whether the plug-in decodes a transfer syntax; pydicom asks."""
    try:
        need("imagecodecs", "dicom")
    except ImportError:
        return False
    return uid in _COMPRESSED


def decode_frame(frame: bytes, runner: Any) -> bytes:
    """Decode a compressed frame; pydicom calls this with its ``DecodeRunner``.

    Raises
    ------
    ImageError
        When the frame is not as large as the header says, or cannot be decoded.
    """
    rows, columns, n_samples = runner.rows, runner.columns, runner.samples_per_pixel
    if runner.transfer_syntax == _RLE:
        runner.set_option("planar_configuration", 1)
        return _rle(frame, rows * columns * n_samples * (runner.bits_allocated // 8), runner.bits_allocated)
    declared = _as_promised(frame, rows, columns, n_samples)
    pixels = _DECODERS[str(runner.transfer_syntax)](frame[declared.start :], declared)
    runner.set_option("bits_allocated", pixels.dtype.itemsize * 8)
    runner.set_option("planar_configuration", 0)
    runner.set_option("photometric_interpretation", _meant(runner.photometric_interpretation, declared))
    return _shaped(pixels, (rows, columns, n_samples)).tobytes()


def stored_values(header: Any, *, max_pixels: int, halvings: int = 0) -> Stored:
    """Decode the stored values of a single image.

    Parameters
    ----------
    header
        The data set, with its pixels.
    max_pixels
        Most pixels; a larger image raises before memory is allocated.
    halvings
        How many times both sides are halved if the image is JPEG 2000 (at most as often as its encoder prepared);
        other images are decoded in full.

    Raises
    ------
    ImageError
        When the header contradicts itself or the pixels, or these cannot be decoded.
    """
    rows, columns = size_in(header, max_pixels)
    n_samples = whole_of(header, "SamplesPerPixel", 1)
    allocated, stored = whole_of(header, "BitsAllocated"), whole_of(header, "BitsStored")
    photometric = str(value_of(header, "PhotometricInterpretation") or "").strip()
    if n_samples not in (1, 3):
        raise ImageError(f"DICOM with {n_samples} samples per pixel is not read: save it as grey or RGB")
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated:
        raise ImageError(f"damaged DICOM header: {stored} bits stored in {allocated} allocated")
    syntax = syntax_of(header)
    if syntax in _COMPRESSED:
        need("imagecodecs", "dicom")
    else:
        _require_bytes(header, rows, columns, n_samples, allocated, photometric)
        if stored != allocated and whole_of(header, "HighBit", stored - 1) != stored - 1:
            high = whole_of(header, "HighBit")
            raise ImageError(f"DICOM whose {stored} bits end at bit {high} of {allocated} is not read: convert it")
    if halvings and syntax in (*_JPEG_2000, *_HTJ2K):
        smaller = _halved(header, halvings, photometric)
        if smaller is not None:
            return smaller
    samples, found = _decoded(header, syntax)
    signed = bool(whole_of(header, "PixelRepresentation", 0))
    meant = str(found["photometric_interpretation"])
    exact = syntax in (*_JPEG_LS, *_JPEG_2000, *_HTJ2K)
    return Stored(samples, stored, 8 * samples.dtype.itemsize if exact else stored, signed, meant)


def ends_of(stored: Stored) -> tuple[int, int]:
    """Return the lowest and highest value that the used bits can hold."""
    top = (1 << (stored.bits - 1)) if stored.signed else (1 << stored.bits)
    return (-top if stored.signed else 0), top - 1


def size_in(header: Any, max_pixels: int) -> tuple[int, int]:
    """Return rows and columns.

    Raises
    ------
    ImageError
        When they are missing, or together more than ``max_pixels``.
    """
    rows, columns = whole_of(header, "Rows"), whole_of(header, "Columns")
    if rows < 1 or columns < 1:
        raise ImageError(f"image without pixels ({columns} x {rows})")
    if rows * columns > max_pixels:
        raise ImageError(
            f"image too large: {columns} x {rows} is {rows * columns:,} pixels, but at most {max_pixels:,} are allowed"
        )
    return rows, columns


def _require_bytes(header: Any, rows: int, columns: int, n_samples: int, allocated: int, photometric: str) -> None:
    """Raise unless uncompressed pixels have the number of bytes that rows, columns and bits ask for."""
    n_values = rows * columns * n_samples
    n_values = n_values // 3 * 2 if photometric == "YBR_FULL_422" else n_values
    wanted = -(-n_values * allocated // 8)
    there = len(header.PixelData)
    if there < wanted:
        raise ImageError(f"truncated DICOM file: {there:,} of {wanted:,} bytes of pixels")
    if there - wanted > 1 and any(header.PixelData[wanted:]):  # zeros only fill up the file
        raise ImageError(
            f"damaged DICOM file: {columns} x {rows} pixels take {wanted:,} bytes, but {there:,} are there"
        )


def _decoded(header: Any, syntax: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return stored values as pydicom decodes them, and what it found out about them."""
    pydicom_quiet()
    decoder = need("pydicom.pixels", "dicom").get_decoder("1.2.840.10008.1.2.1" if syntax == DEFLATED else syntax)
    compressed = syntax in _COMPRESSED
    options: dict[str, Any] = {"decoding_plugin": LABEL} if compressed else {"view_only": True}
    if compressed:
        _add_to(decoder)
    try:
        samples, found = decoder.as_array(header, index=0, raw=True, correct_unused_bits=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # on damaged pixels, pydicom raises nearly anything
        raise ImageError(_said(error)) from error
    return samples, found


def _add_to(decoder: Any) -> None:
    """Add the plug-in to one of pydicom's decoders, unless it is there."""
    with _ADDING:
        if LABEL not in decoder.available_plugins:
            need("imagecodecs", "dicom")
            decoder.add_plugin(LABEL, ("headwater.sources.dicom.decoding", "decode_frame"))


def _said(error: Exception) -> str:
    """Return what a decoder said, without pydicom's own words around it."""
    text = one_line(error).rpartition(f"{LABEL}: ")[2]
    if any(word in text.lower() for word in ("end of file", "insufficient", "unexpected eof", "truncat")):
        return f"truncated DICOM file ({text})"
    return text if text.startswith(("truncated", "damaged", "the pixel")) else f"damaged DICOM pixels ({text})"


def _as_promised(frame: bytes, rows: int, columns: int, n_samples: int) -> Declared:
    """Return what a frame declares; raise unless its size is the header's, before a decoder allocates memory."""
    declared = declared_in(frame)
    if (declared.height, declared.width, declared.n_components) != (rows, columns, n_samples):
        raise ImageError(
            f"damaged DICOM file: the header has {columns} x {rows} pixels of {n_samples} samples, but the compressed "
            f"image {declared.width} x {declared.height} of {declared.n_components}"
        )
    if declared.precision > 16:
        raise ImageError(f"the pixel data have {declared.precision} bits a sample; at most 16 are read")
    return declared


def _shaped(pixels: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return pixels of ``(rows, columns, samples)``; raise if a decoder found another size than was declared."""
    wanted = shape if shape[2] > 1 else shape[:2]
    if pixels.shape != wanted:
        raise ImageError(f"damaged DICOM pixels: they decode to {pixels.shape}, not {wanted}")
    return np.ascontiguousarray(pixels)


def _jpeg(frame: bytes, declared: Declared) -> NDArray[Any]:
    if b"\xff\xd9" not in frame[-TAIL:]:  # without the marker of its end, libjpeg would make up what is missing
        raise ImageError(f"truncated image: its {len(frame)} compressed bytes do not end as JPEG does")
    # naming the same colour space twice leaves colours as they are
    space = {1: "GRAYSCALE", 3: "YCBCR"}[declared.n_components]
    pixels: NDArray[Any] = need("imagecodecs", "dicom").jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    return pixels


def _jpeg_ls(frame: bytes, declared: Declared) -> NDArray[Any]:
    pixels: NDArray[Any] = need("imagecodecs", "dicom").jpegls_decode(frame)
    return pixels


def _jpeg_2000(frame: bytes, declared: Declared) -> NDArray[Any]:
    # by OpenJPEG, HTJ2K too: imagecodecs' own decoder of it leaves pixels undefined where a file is damaged
    pixels: NDArray[Any] = need("imagecodecs", "dicom").jpeg2k_decode(frame, planar=False)
    return pixels


def _rle(frame: bytes, n_bytes: int, allocated: int) -> bytes:
    """Decode run lengths into a buffer of the size that the header promises: the frame may ask for more."""
    if allocated % 8:
        raise ImageError(f"damaged DICOM header: run lengths of {allocated} bits")
    out = bytearray(n_bytes)
    try:
        found = need("imagecodecs", "dicom").dicomrle_decode(frame, np.dtype(f"<u{allocated // 8}"), out=out)
    except MemoryError:
        raise
    except Exception as error:  # of a class that imagecodecs does not name
        raise ImageError(f"damaged DICOM pixels (run lengths: {one_line(error)})") from error
    if len(found) != n_bytes:
        raise ImageError(f"truncated DICOM file: {len(found):,} of {n_bytes:,} bytes of pixels")
    return bytes(found)


_DECODERS: dict[str, Callable[[bytes, Declared], NDArray[Any]]] = {
    **dict.fromkeys(_JPEG, _jpeg),
    **dict.fromkeys(_JPEG_LS, _jpeg_ls),
    **dict.fromkeys((*_JPEG_2000, *_HTJ2K), _jpeg_2000),
}


def _meant(photometric: str, declared: Declared) -> str:
    """Return what decoded samples mean, given what the header says and the marker of Adobe, which decoders obey."""
    if photometric in ("YBR_ICT", "YBR_RCT"):
        return "RGB"  # JPEG 2000 decoders undo these
    if declared.n_components == 3 and declared.adobe is not None:
        return "YBR_FULL" if declared.adobe == 1 else "RGB"
    return str(photometric)


def _halved(header: Any, halvings: int, photometric: str) -> Stored | None:
    """Decode JPEG 2000 at a lower resolution; None where only the full one can be had."""
    pydicom_quiet()
    encaps = need("pydicom.encaps", "dicom")
    try:
        frame = encaps.get_frame(header.PixelData, 0, number_of_frames=1)
    except Exception as error:  # on damaged pixels, pydicom raises nearly anything
        raise ImageError(_said(error)) from error
    rows, columns = whole_of(header, "Rows"), whole_of(header, "Columns")
    n_samples = whole_of(header, "SamplesPerPixel", 1)
    declared = _as_promised(frame, rows, columns, n_samples)
    n = min(halvings, declared.levels)
    signed = bool(whole_of(header, "PixelRepresentation", 0))
    if n == 0 or signed != declared.signed or (n_samples > 1 and declared.precision > 8):
        return None
    start = frame[declared.start :]
    try:
        pixels = _by_pillow(start, declared, n)
    except MemoryError:
        raise
    except Exception as error:  # on a damaged codestream, decoders raise nearly anything
        raise ImageError(f"damaged DICOM pixels ({one_line(error)})") from error
    shape = (-(-rows // 2**n), -(-columns // 2**n), n_samples)
    shaped = _shaped(pixels, shape)
    bits, kept = whole_of(header, "BitsStored"), 8 * shaped.dtype.itemsize
    return Stored(shaped, min(bits, kept), kept, signed, _meant(photometric, declared))


def _by_pillow(frame: bytes, declared: Declared, halvings: int) -> NDArray[Any]:
    """Decode JPEG 2000 with both sides halved ``halvings`` times."""
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(frame))
    image.reduce = halvings
    image.load()
    samples: NDArray[Any] = np.asarray(image)
    width = 8 * samples.dtype.itemsize
    if declared.signed:
        samples = samples ^ samples.dtype.type(1 << (width - 1))  # Pillow adds half of the range
        samples = samples.view(f"i{samples.dtype.itemsize}") >> (width - declared.precision)
        return samples.view(f"u{samples.dtype.itemsize}")
    return samples >> (width - declared.precision) if declared.precision < width else samples
