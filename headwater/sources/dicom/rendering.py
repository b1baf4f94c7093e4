"""From stored values to the picture that a viewer shows: 8-bit grey or colour.

The order is that of the standard (PS3.3 C.11): stored values, modality look-up table or rescale, padding, values of
interest, inversion. Each step is done once for every value that the bits can hold, not for every pixel: a table of at
most 65,536 levels, by which all pixels are then looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwater.errors import ImageError
from headwater.sources.dicom.decoding import Stored, ends_of
from headwater.sources.dicom.header import BIG_ENDIAN, first_of, number_of, one_line, syntax_of, value_of
from headwater.sources.reading import Reading

Values = NDArray[np.float64]
ROWS = 16  # that are looked up at once: their numbers fit into a core's cache
MOST_ENTRIES = 1 << 16
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Window:
    """A window of values that are shown from black to white (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Attributes
    ----------
    center, width
        In the values that the modality's rescale gives, such as Hounsfield units.
    function
        ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def __call__(self, values: Values) -> Values:
        """Return brightness, 0 to 1, of values.

        Examples
        --------
        >>> Window(40, 400)(np.array([-160.0, 39.5, 239.0])).tolist()
        [0.0, 0.5, 1.0]
        """
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
        exact = self.function == "LINEAR_EXACT"
        center, width = (self.center, self.width) if exact else (self.center - 0.5, self.width - 1)
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


def render(header: Any, stored: Stored, reading: Reading) -> Image.Image:
    """Return the picture of stored values, of mode RGB.

    Raises
    ------
    ImageError
        When the header says in no usable way how they are to be shown.
    """
    if stored.photometric in GREY:
        return _grey(header, stored, reading)
    if stored.photometric == "PALETTE COLOR":
        return _palette(header, stored)
    if stored.photometric in COLOUR and stored.samples.ndim == 3:
        return _colour(stored)
    raise ImageError("DICOM of this photometric interpretation is not read: save it as grey, palette colour or RGB")


def stored_numbers(stored: Stored) -> NDArray[np.int64]:
    """Return stored values as whole numbers, without the bits that are not used."""
    samples, values = _indexed(stored)
    numbers: NDArray[np.int64] = values[samples]
    return numbers


def levels_of_values(
    header: Any, values: NDArray[np.int64], present: NDArray[np.bool_], ends: tuple[int, int], reading: Reading
) -> NDArray[np.uint8]:
    """Return the grey level, uint8, of each stored value.

    Parameters
    ----------
    values
        Every stored value that a sample can have.
    present
        Which of these occur in the image; only ``window=minmax`` looks at it.
    ends
        The lowest and highest value that the used bits can hold; lossy values beyond them count as these.
    """
    padded = _padding(header, values)
    measured, bits = modality(header, np.clip(values, *ends))
    full = modality(header, np.array(ends))[0] if bits is None else np.array([0.0, (1 << bits) - 1])
    inside = present & ~padded
    shown = _shown(header, measured, full, inside, reading)
    levels: NDArray[np.uint8] = np.rint(255 * shown).astype(np.uint8)
    if value_of(header, "PhotometricInterpretation") == "MONOCHROME1":
        levels = np.invert(levels)
    levels[padded] = 0
    return levels


def modality(header: Any, values: NDArray[np.int64]) -> tuple[Values, int | None]:
    """Return what the modality measured, such as Hounsfield units, and the bits of its look-up table if it has one.

    Raises
    ------
    ImageError
        When the rescale is no number, or makes all values alike.
    """
    table = first_of(value_of(header, "ModalityLUTSequence"))
    if table is not None:
        first, entries, bits = look_up_table(table, int(values.min()), header)
        return entries[np.clip(values - first, 0, len(entries) - 1)].astype(np.float64), bits
    slope, intercept = number_of(header, "RescaleSlope"), number_of(header, "RescaleIntercept")
    if slope == 0:
        raise ImageError("damaged DICOM header: its RescaleSlope is 0, so all values would be alike")
    measured = values.astype(np.float64)
    measured = measured * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)
    return measured, None


def look_up_table(item: Any, lowest: int, header: Any) -> tuple[int, NDArray[np.int64], int]:
    """Return a look-up table: the value of its first entry, its entries, and how many bits these have.

    Parameters
    ----------
    lowest
        The lowest value that is looked up: only below 0 can the first entry's value be negative.
    header
        The data set that holds the item.
    """
    first, n, bits = _descriptor(value_of(item, "LUTDescriptor"), lowest)
    entries = _entries(value_of(item, "LUTData"), n, header)
    if not 1 <= bits <= 16 or len(entries) == 0:
        raise ImageError("damaged DICOM header: its look-up table has no usable entries")
    return first, np.minimum(entries, (1 << bits) - 1), bits


def _descriptor(descriptor: Any, lowest: int) -> tuple[int, int, int]:
    try:
        n, first, bits = (int(number) for number in descriptor)
    except (TypeError, ValueError) as error:
        raise ImageError("damaged DICOM header: a look-up table lacks its descriptor") from error
    if first > 0x7FFF and lowest < 0:
        first -= 1 << 16  # written as unsigned, though values are signed
    return first, n & 0xFFFF or MOST_ENTRIES, bits


def _entries(data: Any, n: int, header: Any) -> NDArray[np.int64]:
    """Return the entries of a table: words, or, if there are half as many bytes, bytes."""
    if isinstance(data, bytes):
        if len(data) in (n, n + 1):
            return np.frombuffer(data[:n], np.uint8).astype(np.int64)
        return np.frombuffer(data[: min(n, len(data) // 2) * 2], _words(header)).astype(np.int64)
    try:
        found = np.asarray(data if isinstance(data, int) else list(data), np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError("damaged DICOM header: a look-up table lacks its data") from error
    return found[:n] & 0xFFFF


def _words(header: Any) -> str:
    """Return the NumPy type of words in a file's bytes."""
    return ">u2" if syntax_of(header) == BIG_ENDIAN else "<u2"


def _padding(header: Any, values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which stored values fill the space around the image (PS3.3 C.7.5.1.1.2)."""
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = first_of(value_of(header, keyword))
        if value is None:
            break
        if isinstance(value, bytes):  # a VR of UN
            value = int.from_bytes(value[:2], "little")
        try:
            end = int(value)
        except (TypeError, ValueError) as error:
            raise ImageError(f"damaged DICOM header: its {keyword} is no whole number") from error
        ends.append(end - (1 << 16) if end > 0x7FFF and values.min() < 0 else end)
    if not ends:
        return np.zeros(values.shape, np.bool_)
    return (values >= min(ends)) & (values <= max(ends))


def _shown(header: Any, measured: Values, full: Values, inside: NDArray[np.bool_], reading: Reading) -> Values:
    """Return brightness, 0 to 1, of measured values; ``full`` holds the ends of the full range."""
    if reading.limits is not None:
        return Window(*reading.limits)(measured)
    if reading.window == "minmax":
        if not inside.any():
            return np.zeros(measured.shape)
        return _scaled(measured, float(measured[inside].min()), float(measured[inside].max()))
    if reading.window == "voi":
        table = first_of(value_of(header, "VOILUTSequence"))
        if table is not None:
            first, entries, depth = look_up_table(table, int(np.floor(measured.min())), header)
            place = np.clip(np.rint(measured) - first, 0, len(entries) - 1).astype(np.int64)
            shown: Values = entries[place] / ((1 << depth) - 1)
            return shown
        window = window_of(header)
        if window is not None:
            return window(measured)
    return _scaled(measured, float(full.min()), float(full.max()))


def _scaled(measured: Values, low: float, high: float) -> Values:
    return np.zeros(measured.shape) if high <= low else np.clip((measured - low) / (high - low), 0, 1)


def window_of(header: Any) -> Window | None:
    """Return the first window of a file; None if it has none.

    Raises
    ------
    ImageError
        When its width or function cannot be used.
    """
    center, width = number_of(header, "WindowCenter"), number_of(header, "WindowWidth")
    if center is None or width is None:
        return None
    function = str(value_of(header, "VOILUTFunction") or "LINEAR").strip().upper()
    if function not in FUNCTIONS:
        raise ImageError("damaged DICOM header: its VOILUTFunction is unknown; pass --step window=minmax")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ImageError(
            f"damaged DICOM header: its WindowWidth is {width:g}, too narrow; pass --step window=minmax, or window=full"
        )
    return Window(center, width, function)


def _grey(header: Any, stored: Stored, reading: Reading) -> Image.Image:
    if stored.samples.ndim != 2:
        raise ImageError("damaged DICOM header: grey with several samples per pixel")
    samples, values = _indexed(stored)
    wants = reading.window == "minmax"
    present = _present(samples, len(values)) if wants else np.ones(len(values), np.bool_)
    levels = levels_of_values(header, values, present, ends_of(stored), reading)
    grey = Image.fromarray(_looked_up(levels, samples))
    return Image.merge("RGB", (grey, grey, grey))


def _indexed(stored: Stored) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return samples as places in a table of values, and these values, without the bits that are not used."""
    width = 8 * stored.samples.dtype.itemsize
    if width > 16:  # too many to list: those that occur
        values, places = np.unique(stored.samples, return_inverse=True)
        values = values.astype(np.int64)
        return places.reshape(stored.samples.shape), _without_spare_bits(values, stored)
    order = stored.samples.dtype.newbyteorder("=")
    samples = stored.samples.astype(order, copy=False).view(f"u{width // 8}")
    return samples, _without_spare_bits(np.arange(1 << width), stored)


def _without_spare_bits(values: NDArray[np.int64], stored: Stored) -> NDArray[np.int64]:
    kept = values & ((1 << stored.kept) - 1)
    if not stored.signed:
        return kept
    sign = 1 << (stored.kept - 1)
    return (kept ^ sign) - sign


def _present(samples: NDArray[Any], n: int) -> NDArray[np.bool_]:
    found = np.zeros(n, np.bool_)
    for start in range(0, len(samples), ROWS):
        found[samples[start : start + ROWS]] = True
    return found


def _looked_up(levels: NDArray[np.uint8], samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Return ``levels[samples]``, a few rows at a time: three times as fast as all at once."""
    out = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), ROWS):
        part = slice(start, start + ROWS)
        np.take(levels, samples[part], out=out[part], mode="clip")
    return out


def _colour(stored: Stored) -> Image.Image:
    if stored.signed:
        raise ImageError("DICOM with signed colours is not read")
    samples, values = _indexed(stored)
    if stored.bits == 8 and samples.dtype == np.uint8:
        pixels = np.ascontiguousarray(samples)
    else:
        levels = np.rint(255 * values / ((1 << stored.bits) - 1)).astype(np.uint8)
        pixels = _looked_up(levels, samples)
    if stored.photometric == "RGB":
        return Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    return Image.frombytes("YCbCr", (width, height), pixels.tobytes()).convert("RGB")


def _palette(header: Any, stored: Stored) -> Image.Image:
    samples, values = _indexed(stored)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        first, n, bits = _descriptor(value_of(header, f"{colour}PaletteColorLookupTableDescriptor"), int(values.min()))
        whole = value_of(header, f"{colour}PaletteColorLookupTableData")
        segments = value_of(header, f"Segmented{colour}PaletteColorLookupTableData")
        entries = _entries(whole, n, header) if whole is not None else _expanded(segments, n, bits, _words(header))
        if bits not in (8, 16) or len(entries) == 0:
            raise ImageError("damaged DICOM header: its palette has no usable entries")
        white = 255 if entries.max() < 256 and bits == 8 else 65535
        levels = np.rint(255 * entries / white).astype(np.uint8)
        channels.append(levels[np.clip(values - first, 0, len(levels) - 1)])
    return Image.merge("RGB", [Image.fromarray(_looked_up(levels, samples)) for levels in channels])


def _expanded(data: Any, n: int, bits: int, words_as: str) -> NDArray[np.int64]:
    """Return the entries of a segmented palette, at most ``n`` (PS3.3 C.7.9.2).

    Raises
    ------
    ImageError
        When a segment is unknown, or they make more entries than the descriptor promises.
    """
    if not isinstance(data, bytes):
        raise ImageError("damaged DICOM header: palette colour without a palette")
    words = np.frombuffer(data[: len(data) // 2 * 2], words_as) if bits == 16 else np.frombuffer(data, np.uint8)
    out: list[int] = []
    at = 0
    try:
        while at + 1 < len(words) and len(out) < n:
            at = _segment(words, at, out, n, indirect=True)
    except IndexError as error:
        raise ImageError(f"damaged DICOM header: its palette's segments end too early ({one_line(error)})") from error
    return np.array(out[:n], np.int64)


def _segment(words: NDArray[Any], at: int, out: list[int], n: int, *, indirect: bool) -> int:
    """Add the entries of a segment; return where the next one starts."""
    kind, length = int(words[at]), int(words[at + 1])
    if len(out) + length > n and kind != 2:
        raise ImageError("damaged DICOM header: its palette's segments make more entries than it has")
    if kind == 0 and length:
        found = words[at + 2 : at + 2 + length].tolist()
        if len(found) < length:
            raise IndexError("no more data")
        out += found
        return at + 2 + length
    if kind == 1 and out and length:
        start, end = out[-1], int(words[at + 2])
        out += [round(start + (end - start) * step / length) for step in range(1, length + 1)]
        return at + 3
    if kind == 2 and indirect and length:
        wide = 2 if words.dtype.itemsize == 1 else 1  # an offset of 32 bits lies in two words, or four bytes
        parts = [int(word) for word in words[at + 2 : at + 2 + 2 * wide]]
        there = sum(part << (16 // wide * i) for i, part in enumerate(parts)) // words.dtype.itemsize
        for _ in range(length):
            there = _segment(words, there, out, n, indirect=False)
        return at + 2 + 2 * wide
    raise ImageError("damaged DICOM header: its palette has a segment of an unknown kind")
