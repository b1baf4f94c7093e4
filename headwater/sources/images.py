"""Read image files as 8-bit RGB.

Sample values are scaled to 8 bits by what the file *declares*, never by the values of one image, so that two
photographs of the same tissue are scaled alike:

=====================================  =================================================================
in the file                            result, 0 to 255
=====================================  =================================================================
8-bit grey, RGB, YCbCr, CMYK, palette  as decoded; grey is repeated in the three channels
1, 2, 4-bit grey                       full scale is 255
16-bit grey                            ``round(v / 257)``, even if no value in the file is above 4095
the same, read with ``bits=N``         ``round(255 * v / (2 ** N - 1))``; an error when a value has more bits
12-bit grey TIFF                       ``round(255 * v / 4095)``
16-bit colour, or grey with alpha      ``v // 256``, the high byte, as in Pillow (off by at most one)
PGM, PPM with a maxval                 ``round(255 * v / maxval)``
32-bit or signed integer TIFF          as 16-bit grey; an error when a value is outside 0 to 65535
32-bit float TIFF                      ``round(255 * v)``; an error when a value is outside 0 to 1
DICOM                                  as a viewer shows it, or by another ``window``; see `headwater.sources.dicom`
=====================================  =================================================================

TIFFs that declare white as zero are inverted. Transparent pixels are composited on white, the background of a slide
scanner. Signed bytes raise an error, and so do TIFFs with separate planes other than 8-bit RGB or CMYK, since Pillow
would misread both. EXIF orientation is applied. Only the first of several frames is read. Embedded colour profiles are
not applied.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from headwater._reading import open_regular, read_regular
from headwater.errors import ImageError, ImageNotFound, MissingExtra
from headwater.sources._places import why_not_found
from headwater.sources.dicom import SUFFIXES as DICOM_SUFFIXES
from headwater.sources.dicom import is_dicom, is_encrypted, picture_of, size_of_dicom
from headwater.sources.reading import AS_DECLARED, Reading

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "load_bytes", "read_image"]

IMAGE_SUFFIXES = DICOM_SUFFIXES | frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""The file name suffixes, in lower case, that count as images in a folder."""

MAX_PIXELS = 1 << 28
"""Most pixels (width times height) of an image; larger ones raise an error before they are decoded."""

LONGEST = 200
"""Most times that an image for an encoder may be longer than wide, or wider than long."""

MAX_BYTES = 1 << 31
"""Most bytes of an image file: those of `MAX_PIXELS` with four channels of 16 bits."""

FULL = 65535
"""White in a 16-bit file."""

# `Image.open` would apply Pillow's own, process-wide pixel limit, and try formats such as EPS that run code. The
# plugin's class, chosen by the first bytes of the file, does neither.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"P[1-6][\s#]"), PpmImagePlugin.PpmImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
)

# Magic number, width, height, maxval, one blank; comments run from "#" to the end of the line.
_NETPBM_HEADER = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s")

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_PHOTOMETRIC = 256, 257, 258, 262
_TIFF_N_SAMPLES, _TIFF_PLANES, _TIFF_FORMAT = 277, 284, 339
_WHITE_IS_ZERO, _RGB, _CMYK = 0, 2, 5
_PLANES = 2
_EXIF_ORIENTATION = 274
_TIFF_DESCRIPTION, _TIFF_TILE_WIDTH, _TIFF_BELOW, _NDPI = 270, 322, 330, 65420

PYRAMID = "headwater_pyramid"
"""Key in the ``info`` of an image that was read from a whole slide: a TIFF file with a pyramid, or of a scanner."""
_SIGNED = 2


def load_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read the encoded bytes of an image file, undecoded.

    Raises
    ------
    ImageNotFound
        When there is no such file.
    ImageError
        When it is a folder, a pipe or a device, has more than `MAX_BYTES`, or may not be read.
    """
    try:
        return read_regular(path, most=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        why = why_not_found(path)
        raise ImageNotFound(f"image file not found: {path}{f' ({why})' if why else ''}") from error
    except IsADirectoryError as error:
        raise ImageError(f"this is a folder, not an image file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        advice = "; a slide is cut into tiles with headwater tiles" if getattr(error, "errno", 0) == errno.EFBIG else ""
        raise ImageError(f"cannot read image file ({reason}){advice}: {path}") from error


def read_image(
    source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, reading: Reading = AS_DECLARED
) -> Image.Image:
    """Decode an image into 8-bit RGB.

    Reads PNG, JPEG, TIFF, BMP, WebP, PBM/PGM/PPM and DICOM, recognised by their first bytes, not by the file name.
    The table at the top of this module shows how other depths and colour spaces become 8-bit RGB. The function
    uses no global state, so any number of threads may call it.

    Parameters
    ----------
    source
        Path of the file, or its encoded bytes.
    max_pixels
        Most pixels of an image; a larger one raises an error before it is decoded. Pillow itself does not read a
        WebP of more than 178,956,970 pixels.
    reading
        The bits of 16-bit files, such as 12, so that white is 2 ** bits - 1, and the window and resolution of DICOM.
        By default, what each file declares.

    Returns
    -------
    Image.Image
        Loaded and upright, of mode ``"RGB"``.

    Raises
    ------
    ImageNotFound
        When there is no such file.
    ImageError
        When the bytes are not an image, are truncated or damaged, hold too many pixels, or hold values without a
        fixed scale.
    MissingExtra
        When the image is DICOM, and the packages that read it are not installed.

    Examples
    --------
    A PGM whose white is 4095, as 12-bit detectors write it:

    >>> image = read_image(b"P5 2 1 4095 " + bytes([0x0F, 0xFF, 0x08, 0x00]))
    >>> image.mode, image.size, image.getpixel((0, 0)), image.getpixel((1, 0))
    ('RGB', (2, 1), (255, 255, 255), (128, 128, 128))
    """
    if isinstance(source, bytes):
        data, where = source, ""
    else:
        data, where = load_bytes(source), f": {os.fspath(source)}"
    try:
        return _decode(data, max_pixels, reading)
    except (MemoryError, MissingExtra):
        raise  # not an error of the file
    except Exception as error:  # on a damaged file, Pillow's decoders raise nearly anything
        raise ImageError(_reason(error, data) + where) from error


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height that an image file declares, without decoding it.

    Raises
    ------
    ImageError
        When the bytes are not an image.
    """
    if is_dicom(data):
        return size_of_dicom(data)
    reader = _reader_of(data)
    if header := _NETPBM_HEADER.match(data):
        return int(header[2]), int(header[3])
    try:
        width, height = reader(io.BytesIO(data)).size
    except Exception as error:  # on a damaged file, Pillow's decoders raise nearly anything
        raise ImageError(_reason(error, data)) from error
    return width, height


def size_of_file(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height that an image file declares; no more of it is read than its header.

    Raises
    ------
    ImageError
        When there is no such file, or it is not an image.
    """
    try:
        with open_regular(path) as file:
            head = file.read(32)
            reader = next((reader for magic, reader in _READERS if magic.match(head)), None)
            file.seek(0)
            if reader is PpmImagePlugin.PpmImageFile:
                return size_of(file.read(1 << 16))
            if reader is not None:
                width, height = reader(file).size
                return width, height
    except Exception as error:  # on a damaged file, Pillow's decoders raise nearly anything
        raise ImageError(f"cannot read the size of an image ({error}): {os.fspath(path)}") from error
    raise ImageError(f"not an image of a supported format: {os.fspath(path)}")


def is_plain_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether these bytes begin as a JPEG file that any decoder turns into the same upright RGB or grey image.

    Files of other colours, files that their EXIF data turn, and files with more than ``max_pixels`` do not.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    except Exception:  # noqa: BLE001  (on a damaged header Pillow raises nearly anything; `read_image` says what is wrong)
        return False
    plain = image.mode in ("RGB", "L") and not turned and image.width * image.height <= max_pixels
    return plain and not is_strip(image.width, image.height)


def is_strip(width: int, height: int) -> bool:
    """Whether an image is so long that resizing its shorter side, as encoders do, would make it enormous."""
    return max(width, height) > LONGEST * min(width, height)


def _reader_of(data: bytes) -> type[ImageFile.ImageFile]:
    reader = next((reader for magic, reader in _READERS if magic.match(data)), None)
    if reader is None and is_encrypted(data):
        raise ImageError("the file is encrypted or signed (CMS): decrypt it first, for example with openssl cms")
    if reader is None:
        raise ImageError("not an image of a supported format (PNG, JPEG, TIFF, BMP, WebP, PBM, PGM, PPM or DICOM)")
    return reader


def _decode(data: bytes, max_pixels: int, reading: Reading) -> Image.Image:
    if not data:
        raise ImageError("empty image file (0 bytes)")
    if is_dicom(data):  # first, since what precedes its data may be the header of a TIFF
        return picture_of(data, max_pixels=max_pixels, reading=reading)
    reader = _reader_of(data)
    bits = reading.bits
    header = _NETPBM_HEADER.match(data)
    if header and int(header[4]) != 255:
        return _decode_netpbm(data, header, max_pixels, bits)

    image = reader(io.BytesIO(data))
    _check_size(*image.size, max_pixels)
    of_slide = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_samples(image)
        of_slide = _is_slide(image, data)
        # By default, Pillow allocates these pixels too, but first checks its process-wide limit.
        size = (image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT])
        image.im = Image.new(image.mode, size, None).im
    image.load()
    _set_upright(image)
    found = _to_rgb(image, data, bits)
    if of_slide:
        found.info[PYRAMID] = True
    return found


def _is_slide(image: TiffImagePlugin.TiffImageFile, data: bytes) -> bool:
    """Whether a TIFF file is tiled and has a smaller copy of its image, or comes from a slide scanner."""
    tags = image.tag_v2
    if _NDPI in tags or str(tags.get(_TIFF_DESCRIPTION, "")).startswith("Aperio"):
        return True
    if _TIFF_TILE_WIDTH not in tags:
        return False
    if _TIFF_BELOW in tags:
        return True
    other = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    try:
        other.seek(1)
    except (EOFError, OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return False
    (width, height), (w, h) = image.size, other.size
    return 0 < w < width and abs(height * w / width - h) <= 2


def _refuse_samples(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise `ImageError` for samples that Pillow misreads: signed bytes, and planes other than 8-bit RGB or CMYK."""
    tags = image.tag_v2
    bits = max(tags.get(_TIFF_BITS, (1,)))
    if _SIGNED in tags.get(_TIFF_FORMAT, ()) and bits <= 8:
        raise ImageError("signed 8-bit samples have no fixed scale; store values in 0 to 255, unsigned")
    in_planes = tags.get(_TIFF_PLANES) == _PLANES and tags.get(_TIFF_N_SAMPLES, 1) > 1
    if in_planes and not (bits == 8 and tags.get(_TIFF_PHOTOMETRIC) in (_RGB, _CMYK)):
        raise ImageError(
            f"{bits}-bit samples in separate planes (PlanarConfiguration 2) are not read; store them pixel by pixel"
        )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height == 0:
        raise ImageError(f"image without pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageError(
            f"image too large: {width} x {height} is {width * height:,} pixels, but at most {max_pixels:,} "
            "are allowed; cut it into tiles (headwater tiles), or import features of its tiles"
        )


def _decode_netpbm(data: bytes, header: re.Match[bytes], max_pixels: int, bits: int | None) -> Image.Image:
    """Decode a binary PGM or PPM of any maxval; Pillow's own loop takes 0.6 s per megapixel."""
    width, height, maxval = (int(token) for token in header.groups()[1:])
    _check_size(width, height, max_pixels)
    if not 0 < maxval < 65536:
        raise ImageError(f"damaged image: its maxval is {maxval}, but must be 1 to 65535")
    shape = (height, width) if header[1] == b"5" else (height, width, 3)
    dtype = np.dtype("u1" if maxval < 256 else ">u2")
    n_samples = int(np.prod(shape))
    if len(data) - header.end() < n_samples * dtype.itemsize:
        raise ImageError(f"truncated image ({len(data)} bytes)")
    samples = np.frombuffer(data, dtype, n_samples, offset=header.end()).reshape(shape)
    if bits is not None and maxval == FULL:
        _require_bits(samples, bits)
        maxval = (1 << bits) - 1
    image = Image.fromarray(_to_8_bits(np.minimum(samples, maxval), maxval))
    return image if image.mode == "RGB" else image.convert("RGB")


def _set_upright(image: ImageFile.ImageFile) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error):
        return  # with unreadable metadata, the pixels are read without rotation


def _to_rgb(image: ImageFile.ImageFile, data: bytes, bits: int | None) -> Image.Image:
    """Convert a loaded, upright image of any mode; ``data`` holds the file's header."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_wide_grey(image, bits)).convert("RGB")
    if bits is not None and _n_bits(image, data) > 8:
        raise ImageError(f"colour with {bits} of 16 bits cannot be read; save the image as grey, or in 8 bits")
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow converts these in two steps only
        return _on_white(image.convert(image.mode.upper()))
    if image.mode in ("LA", "PA", "RGBA"):
        return _on_white(image)
    if "transparency" in image.info:
        # only a PNG has this
        bit_depth = data[24]
        if image.mode == "P" or bit_depth == 8:
            return _on_white(image)
        key = image.info.pop("transparency")
        if bit_depth < 8:
            return _keyed(image.convert("L"), key * 255 // ((1 << bit_depth) - 1))
        _refuse_near_key(image, key)
    return image if image.mode == "RGB" else image.convert("RGB")


def _keyed(grey: Image.Image, key: int) -> Image.Image:
    """Convert a grey image to RGB, with its transparent level as white."""
    return grey.point([255 if level == key else level for level in range(256)]).convert("RGB")


def _refuse_near_key(image: Image.Image, key: tuple[int, int, int]) -> None:
    """Raise `ImageError` if a 16-bit pixel may have the transparent colour; Pillow has dropped the low bytes."""
    same = np.asarray(image)[:, :, :3] == np.array([part >> 8 for part in key])
    if same.all(2).any():
        raise ImageError("a transparent 16-bit colour cannot be told from similar ones; store transparency as alpha")


def _n_bits(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the bits per sample of a PNG or TIFF; 8 for other formats."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return data[24]
    declared = image.tag_v2.get(_TIFF_BITS, (8,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else (8,)
    return int(max(declared))


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def _wide_grey(image: ImageFile.ImageFile, bits: int | None) -> npt.NDArray[np.uint8]:
    """Scale grey samples of more than 8 bits to 8 bits; the result has shape (height, width)."""
    samples: npt.NDArray[Any] = np.asarray(image)
    full_scale, white_is_zero = FULL, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white_is_zero = image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
        if image.mode.startswith("I;16"):
            full_scale = (1 << image.tag_v2[_TIFF_BITS][0]) - 1

    low, high = samples.min(), samples.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also when either is NaN
            raise ImageError(
                f"floating-point samples from {low:.4g} to {high:.4g} have no fixed scale; store values in 0 to 1"
            )
        grey: npt.NDArray[np.uint8] = np.rint(samples * 255).astype(np.uint8)
    elif low < 0 or high > 65535:
        raise ImageError(f"integer samples from {low} to {high} have no fixed scale; store values in 0 to 65535")
    else:
        if bits is not None and full_scale == FULL:
            _require_bits(samples, bits)
            full_scale = (1 << bits) - 1
        grey = _to_8_bits(samples, full_scale)
    if isinstance(image, PngImagePlugin.PngImageFile) and isinstance(key := image.info.get("transparency"), int):
        grey = np.where(samples == key, np.uint8(255), grey)
    return np.invert(grey) if white_is_zero else grey


def _require_bits(samples: npt.NDArray[Any], bits: int) -> None:
    high = int(samples.max())
    if high >> bits:
        raise ImageError(f"a sample of {high} has more than {bits} bits: pass --step bits={high.bit_length()}")


def _to_8_bits(samples: npt.NDArray[Any], full_scale: int) -> npt.NDArray[np.uint8]:
    """Compute ``round(255 * samples / full_scale)`` for integers in 0 to ``full_scale``, at most 65535."""
    scaled = (samples.astype(np.uint32) * 255 + full_scale // 2) // full_scale
    return scaled.astype(np.uint8)


def _reason(error: Exception, data: bytes) -> str:
    """Say in one line why an image could not be decoded."""
    if isinstance(error, ImageError):
        return str(error)
    text = " ".join(str(error).split()) or type(error).__name__
    riff_is_short = data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    if riff_is_short or isinstance(error, EOFError | IndexError | struct.error):
        return f"truncated image ({len(data)} bytes)"
    if text == "unknown pixel mode":
        return (
            "damaged or unsupported image (unknown pixel mode): its depth or colour space is not supported; save it as "
            "PNG"
        )
    if re.search("truncat|not enough image data|reached eof|requires a buffer", text, re.IGNORECASE):
        return f"truncated image ({len(data)} bytes)"
    return f"damaged or unsupported image ({text})"
