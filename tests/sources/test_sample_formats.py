"""Samples of unusual formats come out right or are refused in one line; nothing wraps, and nothing is mixed up."""

import struct
import zlib

import numpy as np
import pytest

from headwater.errors import ImageError
from headwater.sources import read_image

GREY, WHITE_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 1, 0, 2, 3, 4, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(samples, photometric=GREY, order="<", planes=False, alpha=None, palette=None):
    """Write an uncompressed TIFF of one strip, or one a plane, as the format is specified."""
    samples = np.asarray(samples)
    height, width = samples.shape[:2]
    n = samples.shape[2] if samples.ndim == 3 else 1
    kind = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[samples.dtype.kind]
    bits = 8 * samples.dtype.itemsize
    samples = samples.astype(samples.dtype.newbyteorder(order))
    strips = [samples[:, :, i].tobytes() for i in range(n)] if planes else [samples.tobytes()]
    starts = np.cumsum([8, *(len(strip) for strip in strips)])[:-1].tolist()
    tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * n), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {273: (4, starts), 277: (3, [n]), 278: (3, [height]), 279: (4, [len(strip) for strip in strips])}
    tags |= {284: (3, [2 if planes else 1]), 339: (3, [kind] * n)}
    tags |= {} if alpha is None else {338: (3, [alpha])}
    tags |= {} if palette is None else {320: (3, palette)}
    data = b"".join(strips) + b"\0" * (sum(map(len, strips)) % 2)
    at = 8 + len(data)
    behind = at + 2 + 12 * len(tags) + 4
    directory, longer = struct.pack(order + "H", len(tags)), b""
    for tag, (size, values) in sorted(tags.items()):
        raw = struct.pack(order + {3: "H", 4: "I"}[size] * len(values), *values)
        directory += struct.pack(order + "HHI", tag, size, len(values))
        if len(raw) <= 4:
            directory += raw.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", behind + len(longer))
            longer += raw
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return start + data + directory + b"\0" * 4 + longer


def png(samples, depth, colour, key=None):
    """Write a PNG of one row, packed as given."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = samples.shape[1] * (8 // depth if depth < 8 else 1)
    row = b"\0" + samples.astype(samples.dtype.newbyteorder(">")).tobytes()
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))]
    parts += [] if key is None else [chunk(b"tRNS", struct.pack(">" + "H" * len(key), *key))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b"")])


def row(data):
    return np.asarray(read_image(data))[0].tolist()


def grey(*levels):
    return [[level] * 3 for level in levels]


def u8(*values):
    return np.array([values], np.uint8)


def u16(*values):
    return np.array([values], np.uint16)


REST = [0] * 253
"""Entries of a palette that are not used."""
RIGHT = {
    "16 bits, other byte order": (tiff(u16(0, 1000, 65535), order=">"), grey(0, 4, 255)),
    "16 bits, white is zero": (tiff(u16(0, 1000, 65535), WHITE_IS_ZERO), grey(255, 251, 0)),
    "8 bits, white is zero": (tiff(u8(0, 100, 255), WHITE_IS_ZERO), grey(255, 155, 0)),
    "signed 16 bits that fit": (tiff(np.array([[0, 1000, 30000]], np.int16)), grey(0, 4, 117)),
    "32 bits that fit": (tiff(np.array([[0, 60000]], np.int32)), grey(0, 233)),
    "unsigned 32 bits that fit": (tiff(np.array([[0, 60000]], np.uint32)), grey(0, 233)),
    "numbers from 0 to 1": (tiff(np.array([[0, 0.5, 1]], np.float32)), grey(0, 128, 255)),
    "numbers, white is zero": (tiff(np.array([[0, 0.25, 1]], np.float32), WHITE_IS_ZERO), grey(255, 191, 0)),
    "16-bit colour": (tiff(u16((0, 1000, 65535)), RGB), [[0, 3, 255]]),
    "16-bit colour, other byte order": (tiff(u16((0, 1000, 65535)), RGB, order=">"), [[0, 3, 255]]),
    "8-bit colour in planes": (tiff(u8((10, 20, 30), (40, 50, 60)), RGB, planes=True), [[10, 20, 30], [40, 50, 60]]),
    "alpha in planes": (
        tiff(u8((10, 20, 30, 0), (40, 50, 60, 255)), RGB, planes=True, alpha=2),
        [[255, 255, 255], [40, 50, 60]],
    ),
    "16-bit alpha": (
        tiff(u16((1000, 2000, 3000, 0), (40000, 50000, 60000, 65535)), RGB, alpha=2),
        [[255] * 3, [156, 195, 234]],
    ),
    "premultiplied alpha": (tiff(u8((10, 20, 30, 128)), RGB, alpha=1), [[137, 147, 157]]),
    "a fourth sample that is no alpha": (tiff(u8((10, 20, 30, 0)), RGB, alpha=0), [[10, 20, 30]]),
    "inks": (tiff(u8((0, 255, 255, 0), (255, 0, 0, 0)), CMYK), [[255, 0, 0], [0, 255, 255]]),
    "inks in planes": (tiff(u8((0, 255, 255, 0), (255, 0, 0, 0)), CMYK, planes=True), [[255, 0, 0], [0, 255, 255]]),
    "16-bit inks": (tiff(u16((0, 65535, 65535, 0)), CMYK), [[255, 0, 0]]),
    "grey with alpha": (tiff(u8((100, 0), (100, 255)), alpha=2), grey(255, 100)),
    "16-bit palette": (
        tiff(
            u8(1, 2), PALETTE, palette=[0, 65535, 25700, *[0] * 253, 0, 0, 40000, *[0] * 253, 0, 0, 65535, *[0] * 253]
        ),
        [[255, 0, 0], [100, 156, 255]],
    ),
    "PNG of 16-bit colour": (png(u16((0, 1000, 65535)), 16, 2), [[0, 3, 255]]),
    "PNG of 16-bit alpha": (png(u16((0, 1000, 9, 0), (32768, 300, 255, 65535)), 16, 6), [[255] * 3, [128, 1, 0]]),
    "PNG of 16-bit grey with alpha": (png(u16((1000, 0), (32768, 65535)), 16, 4), grey(255, 128)),
    "PNG with a transparent level": (png(u8(0, 100, 200), 8, 0, (100,)), grey(0, 255, 200)),
    "PNG with a transparent level of 16 bits": (png(u16(0, 1000, 1001), 16, 0, (1000,)), grey(0, 255, 4)),
    "PNG with a transparent level of 4 bits": (png(u8(0x5F, 0x05), 4, 0, (5,)), grey(255, 255, 0, 255)),
    "PNG with a transparent level of 1 bit": (png(u8(0b10100000), 1, 0, (0,)), grey(*[255] * 8)),
    "PNG with a transparent colour of 16 bits elsewhere": (png(u16((9000, 9, 9)), 16, 2, (0, 9, 9)), [[35, 0, 0]]),
}
REFUSED = {
    "signed 16 bits": (tiff(np.array([[-1000, 0, 1000]], np.int16)), "integer samples from -1000 to 1000"),
    "signed 16 bits, other byte order": (
        tiff(np.array([[-1, 0]], np.int16), order=">"),
        "integer samples from -1 to 0",
    ),
    "signed 16 bits, white is zero": (tiff(np.array([[-1, 9]], np.int16), WHITE_IS_ZERO), "depth or colour space"),
    "signed 16-bit colour": (tiff(np.array([[(-1, 2, 3)]], np.int16), RGB), "depth or colour space"),
    "signed bytes": (tiff(np.array([[-5, 0, 100]], np.int8)), "signed 8-bit samples have no fixed scale; store values"),
    "signed bytes of colour": (tiff(np.array([[(-5, 0, 100)]], np.int8), RGB), "depth or colour space"),
    "signed 32 bits": (tiff(np.array([[-5, 100]], np.int32)), "integer samples from -5 to 100"),
    "large 32 bits": (tiff(np.array([[5, 70000]], np.int32)), "integer samples from 5 to 70000"),
    "the largest 32 bits": (tiff(np.array([[5, 2**32 - 1]], np.uint32)), "have no fixed scale"),
    "no number": (tiff(np.array([[0, np.nan]], np.float32)), "floating-point samples from nan to nan"),
    "infinity": (tiff(np.array([[0, np.inf]], np.float32)), "floating-point samples from 0 to inf"),
    "numbers above 1": (tiff(np.array([[0, 3]], np.float32)), "floating-point samples from 0 to 3"),
    "numbers of 64 bits": (tiff(np.array([[0, 0.5]], np.float64)), "depth or colour space"),
    "numbers of 16 bits": (tiff(np.array([[0, 0.5]], np.float16)), "depth or colour space"),
    "colours as numbers": (tiff(np.array([[(0, 0.5, 1)]], np.float32), RGB), "depth or colour space"),
    "16-bit colour in planes": (tiff(u16((0, 1, 2), (3, 4, 5)), RGB, planes=True), "16-bit samples in separate planes"),
    "16-bit inks in planes": (tiff(u16((0, 1, 2, 3)), CMYK, planes=True), "16-bit samples in separate planes"),
    "16-bit alpha in planes": (tiff(u16((0, 1, 2, 3)), RGB, planes=True, alpha=2), "16-bit samples in separate planes"),
    "Lab in planes": (tiff(u8((255, 0, 0), (128, 50, 206)), LAB, planes=True), "8-bit samples in separate planes"),
    "YCbCr in planes": (tiff(u8((128, 128, 128)), YCBCR, planes=True), "8-bit samples in separate planes"),
    "16-bit grey with alpha": (tiff(u16((100, 0)), alpha=2), "depth or colour space"),
    "a mask": (tiff(u8(0, 255), MASK), "depth or colour space"),
    "a transparent colour of 16 bits": (
        png(u16((0, 1000, 65535)), 16, 2, (0, 1000, 65535)),
        "store transparency as alpha",
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_a_value_is_right(what):
    """What can be read comes out as the format means it."""
    data, expected = RIGHT[what]
    assert row(data) == expected


def test_lab_is_lab():
    """Signed a and b are those of CIE L*a*b*: white, black and a violet, within two levels."""
    found = np.array(row(tiff(u8((255, 0, 0), (0, 0, 0), (128, 50, 206)), LAB)))
    assert np.abs(found - [[255, 255, 255], [0, 0, 0], [167, 83, 206]]).max() <= 2


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_meaning_here_is_refused(what):
    """What cannot be told is one line that says what it is."""
    data, said = REFUSED[what]
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
