"""How image files become pixels: the choices that are made while a file is read, before any step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from headwater.errors import InputError

WINDOWS = ("voi", "minmax", "full")
DECODINGS = {"full": 0, "half": 1, "quarter": 2}
WANTED = {
    "bits": "bits=12",
    "window": "window=voi, window=minmax, window=full or window=CENTER,WIDTH",
    "decode": "decode=full, decode=half, decode=quarter, decode=auto or decode=HxW",
}
"""How each word that `Reading.of` reads is written."""

_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?")
_SIZE = re.compile(r"([1-9]\d{0,6})x([1-9]\d{0,6})")


@dataclass(frozen=True)
class Reading:
    """The choices made while a file is read.

    Attributes
    ----------
    bits
        Bits that the samples of 16-bit files other than DICOM use, 9 to 16; None for what the file declares.
    window
        Grey values of a DICOM file that become black and white: ``voi`` (the file's own look-up table or first window,
        or the full range if it has neither), ``minmax`` (the image's lowest and highest value), ``full`` (all values
        that the stored bits can hold), or ``CENTER,WIDTH``.
    decode
        Resolution at which JPEG 2000 in DICOM is decoded: ``full``, ``half``, ``quarter``, or ``HxW``, the lowest
        resolution that keeps at least H x W pixels. ``auto`` stands for the size that the encoder resizes to, which
        takes its place when the encoder is known.

    Examples
    --------
    >>> Reading.of(["window=40.0,400", "decode=half"])
    Reading(bits=None, window='40,400', decode='half')
    >>> Reading.of(["window=voi"]).words
    ()
    """

    bits: int | None = None
    window: str = "voi"
    decode: str = "full"

    @classmethod
    def of(cls, words: list[str]) -> Reading:
        """Parse words such as ``bits=12``, each kind at most once.

        Raises
        ------
        InputError
            When a word is written differently, or a kind is given twice.
        """
        given: dict[str, str] = {}
        for word in words:
            kind, _, value = word.partition("=")
            if kind in given:
                raise InputError(f"--step {kind} is given twice. Give it once.")
            given[kind] = value
        bits, window, decode = given.get("bits"), given.get("window", "voi"), given.get("decode", "full")
        if bits is not None and not re.fullmatch(r"9|1[0-6]", bits):
            raise _misspelt("bits", bits)
        return cls(None if bits is None else int(bits), _window(window), _decoding(decode))

    @property
    def words(self) -> tuple[str, ...]:
        """The choices that differ from the default, as they are written in a spec."""
        bits = () if self.bits is None else (f"bits={self.bits}",)
        window = () if self.window == "voi" else (f"window={self.window}",)
        decode = () if self.decode == "full" else (f"decode={self.decode}",)
        return (*bits, *window, *decode)

    @property
    def limits(self) -> tuple[float, float] | None:
        """Centre and width of a window given in numbers; None for a named one."""
        if self.window in WINDOWS:
            return None
        center, width = self.window.split(",")
        return float(center), float(width)

    def halvings(self, width: int, height: int) -> int:
        """Return how many times both sides of an image are halved when it is decoded.

        Examples
        --------
        >>> Reading(decode="1520x912").halvings(width=2800, height=3518), Reading(decode="half").halvings(9, 9)
        (1, 1)
        """
        if self.decode in DECODINGS:
            return DECODINGS[self.decode]
        if (least := _SIZE.fullmatch(self.decode)) is None:
            return 0  # auto, of an encoder that does not say which size it needs
        n = 0
        while math.ceil(height / 2 ** (n + 1)) >= int(least[1]) and math.ceil(width / 2 ** (n + 1)) >= int(least[2]):
            n += 1
        return n


AS_DECLARED = Reading()
"""The default: what each file declares, at full resolution."""


def _window(value: str) -> str:
    if value in WINDOWS:
        return value
    parts = value.split(",")
    if len(parts) != 2 or not all(_NUMBER.fullmatch(part) for part in parts) or float(parts[1]) < 1:
        raise _misspelt("window", value)
    return ",".join(f"{float(part) + 0.0:.18g}" for part in parts)


def _decoding(value: str) -> str:
    if value not in DECODINGS and value != "auto" and not _SIZE.fullmatch(value):
        raise _misspelt("decode", value)
    return value


def _misspelt(kind: str, value: str) -> InputError:
    least = ", with a WIDTH of at least 1" if kind == "window" else ""
    return InputError(f"--step {kind}={value!s}: write it as {WANTED[kind]}{least}.")
