"""Read the header of a DICOM file that somebody else may have written, and refuse what is no single image."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from typing import Any

from headwater._extras import need
from headwater._words import cut, printable
from headwater.errors import ImageError

MOST_INFLATED = 1 << 29
"""Most bytes that a deflated file may have when inflated: 1,000 times fewer bytes can ask for as many."""

MOST_READS = 100_000
"""Most pieces in which a header is read, one or two for each element: a few megabytes can hold millions of elements."""

SUFFIXES = frozenset({".dcm", ".dicom"})
"""The file name suffixes, in lower case, that count as DICOM in a folder."""

DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_TOMOSYNTHESIS = re.compile(r"tomosynthesis", re.IGNORECASE)
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", DEFLATED, BIG_ENDIAN)
_JPEG = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203))
DECODABLE = frozenset({*_NATIVE, *_JPEG, "1.2.840.10008.1.2.5"})
"""The transfer syntaxes that are read: uncompressed, JPEG, JPEG-LS, JPEG 2000, HTJ2K and RLE."""

_CMS = re.compile(rb"\x30[\x80-\x84].{0,4}\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01", re.DOTALL)
_OF_PYDICOM = r"pydicom(\.|$)"
# The first element of a file without a preamble, in group 2 or 8: tag, then a VR, or a short length (implicit VR).
_BARE = re.compile(rb"[\x02\x08]\x00[\x00-\x20]\x00(?:[A-Z]{2}|.\x00\x00\x00)", re.DOTALL)
_BARE_BIG = re.compile(rb"\x00\x08\x00[\x00-\x20][A-Z]{2}", re.DOTALL)


class CountedBytes(io.BytesIO):
    """Bytes that are read in at most `MOST_READS` pieces."""

    n_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Raises
        ------
        ImageError
            When there were too many pieces before.
        """
        self.n_reads = one_more(self.n_reads)
        return super().read(size)


def one_more(n_reads: int) -> int:
    """Return how many pieces were read; raise `ImageError` if they are too many."""
    if n_reads >= MOST_READS:
        raise ImageError("the DICOM header has too many elements for one image: it may be a slide, or damaged")
    return n_reads + 1


def is_dicom(data: bytes) -> bool:
    """Whether bytes are a DICOM file: ``DICM`` after 128 bytes, or a first element of group 2 or 8 without these."""
    return data[128:132] == b"DICM" or bool(_BARE.match(data) or _BARE_BIG.match(data))


def is_encrypted(data: bytes) -> bool:
    """Whether bytes are a CMS envelope, in which DICOM files are encrypted or signed as a whole."""
    return bool(_CMS.match(data[:64]))


def read_header(data: bytes) -> Any:
    """Parse a DICOM file; return its ``pydicom`` data set, whose values are converted only when they are used.

    Raises
    ------
    ImageError
        When the bytes cannot be parsed, or inflate to more than `MOST_INFLATED`.
    MissingExtra
        When pydicom is not installed.
    """
    pydicom = pydicom_quiet()
    try:
        syntax, end = transfer_syntax_of(data)
        if syntax != DEFLATED:
            return pydicom.dcmread(CountedBytes(data), force=True)
        body = inflated(data[end:], MOST_INFLATED)
        found = need("pydicom.filereader", "dicom").read_dataset(
            CountedBytes(body), is_implicit_VR=False, is_little_endian=True
        )
        found.file_meta = pydicom.dataset.FileMetaDataset()
        found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        return found
    except ImageError:
        raise
    except RecursionError:
        raise ImageError("damaged DICOM header: its sequences are nested without end") from None
    except MemoryError:
        raise
    except Exception as error:  # on a damaged file, pydicom raises nearly anything
        raise ImageError(f"damaged DICOM header ({one_line(error)})") from error


def transfer_syntax_of(data: bytes) -> tuple[str, int]:
    """Return the transfer syntax in a file's group 2, and where the group ends; an empty string without one.

    Group 2 is always uncompressed, with explicit VR and little endian.
    """
    at = 132 if data[128:132] == b"DICM" else 0
    syntax = ""
    for _ in range(64):
        if data[at : at + 2] != b"\x02\x00" or at + 8 > len(data):
            break
        long = data[at + 4 : at + 6] in (b"OB", b"UN", b"OW", b"SQ", b"UT")
        length = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        start = at + (12 if long else 8)
        if data[at + 2 : at + 4] == b"\x10\x00":
            syntax = data[start : start + min(length, 64)].decode("ascii", "replace").strip("\0 ")
        at = start + length
    return syntax, at


def inflated(data: bytes, most: int) -> bytes:
    """Inflate the data set of a deflated file.

    Raises
    ------
    ImageError
        When it has more than ``most`` bytes, or is damaged.
    """
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = machine.decompress(data, most)
    except zlib.error as error:
        raise ImageError(f"damaged DICOM file (its deflated data cannot be inflated: {error})") from error
    if machine.unconsumed_tail:
        raise ImageError(f"this deflated DICOM file would take more than {most:,} bytes; at most these are read")
    if not machine.eof:
        raise ImageError(f"truncated DICOM file ({len(data)} deflated bytes)")
    return body


def value_of(header: Any, keyword: str) -> Any:
    """Return a value by its keyword; None if it is missing or empty.

    Raises
    ------
    ImageError
        When the value cannot be converted to the type that it should have.
    """
    try:
        value = header.get(keyword)
    except Exception as error:  # pydicom raises nearly anything for a value of the wrong type
        raise ImageError(f"damaged DICOM header ({keyword} cannot be read: {one_line(error)})") from error
    return None if value is None or value == "" or value == b"" else value


def first_of(value: Any) -> Any:
    """Return the first of several values, or the only one."""
    several = not isinstance(value, str | bytes) and hasattr(value, "__getitem__")
    return (value[0] if len(value) else None) if several else value


def whole_of(header: Any, keyword: str, default: int | None = None) -> int:
    """Return a whole number by its keyword.

    Raises
    ------
    ImageError
        When it is missing and has no default, or is no whole number.
    """
    value = first_of(value_of(header, keyword))
    if value is None:
        if default is None:
            raise ImageError(f"damaged DICOM header: it has no {keyword}")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"damaged DICOM header: its {keyword} is no whole number") from error


def number_of(header: Any, keyword: str) -> float | None:
    """Return a number by its keyword, the first of several; None if it is missing.

    Raises
    ------
    ImageError
        When it is no finite number.
    """
    value = first_of(value_of(header, keyword))
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"damaged DICOM header: its {keyword} is no number") from error
    if not abs(number) < 1e300:  # also NaN
        raise ImageError(f"damaged DICOM header: its {keyword} is {number}, not a finite number")
    return number


def kind_of(header: Any) -> str:
    """Return the name of what a file holds, such as ``CT Image Storage``; ``unknown kind`` if DICOM has no such name.

    The name comes from the standard, never from the file.
    """
    meta = getattr(header, "file_meta", None)
    uid = value_of(header, "SOPClassUID") or (None if meta is None else value_of(meta, "MediaStorageSOPClassUID"))
    name = getattr(uid, "name", None)
    return str(name) if name is not None and name != uid else "unknown kind"


def syntax_of(header: Any) -> str:
    """Return the transfer syntax; for a file without one, that in which it was read."""
    meta = getattr(header, "file_meta", None)
    named = None if meta is None else value_of(meta, "TransferSyntaxUID")
    if named is not None:
        return str(named)
    implicit, little = getattr(header, "original_encoding", (True, True))
    return _NATIVE[0] if implicit else _NATIVE[1] if little else _NATIVE[3]


def refusal_of(header: Any, *, has_pixels: bool) -> str | None:
    """Return why a file holds no single image that can be decoded here; None if it does."""
    kind = kind_of(header)
    meta = getattr(header, "file_meta", None)
    classes = {str(value_of(header, "SOPClassUID"))}
    if meta is not None:
        classes.add(str(value_of(meta, "MediaStorageSOPClassUID")))
    if SLIDE in classes:
        return "this is a whole slide in DICOM, not an image: cut it into tiles (headwater tiles)"
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        return f"DICOM with floating-point pixels ({kind}) is not read"
    if not has_pixels:
        return f"DICOM without pixels ({kind})"
    n_frames = whole_of(header, "NumberOfFrames", 1)
    if n_frames > 1:
        what = "a tomosynthesis" if _TOMOSYNTHESIS.search(kind) else "a multi-frame file"
        return f"{what} of {n_frames:,} frames ({kind}), not one image: export the frame or projection that you want"
    if n_frames < 0:
        return f"damaged DICOM header: its NumberOfFrames is {n_frames}"
    syntax = syntax_of(header)
    return (
        None if syntax in DECODABLE else f"the transfer syntax {named_syntax(syntax)} is not decoded here{_by(syntax)}"
    )


def use_frame_values(header: Any) -> None:
    """Copy rescale and window of the only frame of an enhanced file to where other files have them."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        frame = first_of(value_of(header, groups))
        for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            item = None if frame is None else first_of(value_of(frame, sequence))
            for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"):
                value = None if item is None else value_of(item, keyword)
                if value is not None:
                    setattr(header, keyword, value)


def named_syntax(syntax: str) -> str:
    """Return a transfer syntax with its name in the standard."""
    shown = cut(printable(syntax), 64)
    name = pydicom_quiet().uid.UID(shown).name if re.fullmatch(r"[0-9.]+", shown) else shown
    return shown if name == shown else f"{shown} ({name})"


def _by(syntax: str) -> str:
    """Say what decodes a transfer syntax that is not decoded here."""
    family = "1.2.840.10008.1.2.4."
    part = syntax.removeprefix(family) if syntax.startswith(family) else ""
    if part.isdigit() and 100 <= int(part) < 110:
        return ": it is a video. Export a frame of it, for example with ffmpeg"
    if part.isdigit() and 110 <= int(part) < 120:
        return ": it is JPEG XL. Convert the file, for example with dcmdjxl of DCMTK or djxl of libjxl"
    if part in ("94", "95", "204", "205"):
        return ": its pixels are on a server (JPIP). Fetch the image itself"
    if part.isdigit():
        return ". Convert the file first: dcmdjpeg of DCMTK, or gdcmconv of GDCM"
    return ". Convert the file first: gdcmconv of GDCM"


def is_burned_in(header: Any) -> bool:
    """Whether a file says that its pixels show text that may identify the patient (Burned In Annotation is YES)."""
    try:
        value = value_of(header, "BurnedInAnnotation")
    except ImageError:
        return True
    return str(value or "").strip().upper() not in ("", "NO")


def one_line(error: Exception) -> str:
    """Return the words of another package's error on one line, without control characters."""
    return cut(printable(" ".join(str(error).split())), 240) or type(error).__name__


def pydicom_quiet() -> Any:
    """Return pydicom, whose warnings about files are not shown: what matters here is raised as an error.

    Raises
    ------
    MissingExtra
        When pydicom is not installed.
    """
    pydicom = need("pydicom", "dicom")
    # a filter that stays: catch_warnings would change, for all threads, what each of them shows
    if not any(getattr(module, "pattern", module) == _OF_PYDICOM for *_, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_OF_PYDICOM)
    return pydicom
