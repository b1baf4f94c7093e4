"""DICOM images: what is decoded, how it is shown, and what is refused."""

import contextlib
import io
import math
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headwater.errors import ImageError, InputError, MissingExtra
from headwater.sources import read_image, size_of
from headwater.sources.dicom import header
from headwater.sources.dicom.codestream import declared_in
from headwater.sources.dicom.decoding import stored_values
from headwater.sources.dicom.header import DECODABLE, read_header, transfer_syntax_of
from headwater.sources.dicom.rendering import Window, stored_numbers
from headwater.sources.reading import Reading
from headwater.sources.steps import parse_steps
from tests.dicoms import LOSSLESS, SLIDE, SYNTAXES, TOMOSYNTHESIS, as_bytes, dataset, dicom, item, look_up_table

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "slides"
ROOT = Path(pydicom.__file__).parent / "data"
SHIPPED = sorted(
    path for path in (*ROOT.glob("test_files/*.dcm"), *ROOT.glob("charset_files/*.dcm"), *ROOT.glob("palettes/*.dcm"))
)
SHIPPED += [path for path in sorted(ROOT.glob("test_files/dicomdirtests/[79]*/*/*")) if path.is_file()]
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "3722445056 x 1024",
    "MR_truncated.dcm": r"truncated DICOM file: 8,130 of 8,192 bytes",
    "SC_rgb_rle_16bit_2frame.dcm": "a multi-frame file of 2 frames",
    "SC_rgb_rle_2frame.dcm": "a multi-frame file of 2 frames",
    "SC_rgb_rle_32bit_2frame.dcm": "a multi-frame file of 2 frames",
    "badVR.dcm": "NumberOfFrames is no whole number",
    "examples_ybr_color.dcm": "a multi-frame file of 30 frames",
    "rtdose.dcm": "a multi-frame file of 15 frames",
    "rtdose_expb.dcm": "a multi-frame file of 15 frames",
    "rtdose_rle.dcm": "a multi-frame file of 15 frames",
    "meta_missing_tsyntax.dcm": "it has no Rows",
    "nested_priv_SQ.dcm": "it has no Rows",
}
"""Files in pydicom with pixels that hold no single whole image, and why."""
ONLY_HERE = {"JPEG-lossy.dcm", "JPGExtended.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_jpeg_gdcm.dcm"}
"""Files that no plug-in of pydicom decodes which is installed for tests: 12-bit and lossless JPEG."""
FULL = 1 << 28
rng = np.random.default_rng(0)
TWELVE = rng.integers(0, 4096, (37, 29)).astype(np.uint16)
EIGHT = rng.integers(0, 256, (37, 29)).astype(np.uint8)
COLOUR = rng.integers(0, 256, (37, 29, 3)).astype(np.uint8)


def grey(data, **reading):
    image = read_image(data, reading=Reading(**reading))
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


def numbers(data, **options):
    """The stored values of a file, as whole numbers."""
    return stored_numbers(stored_values(read_header(data), max_pixels=FULL, **options))


def by_pydicom(path):
    """The stored values as a plug-in of pydicom's own decodes them; None where it has none."""
    read = pydicom.dcmread(path, force=True)
    decoder = pydicom.pixels.get_decoder(read.file_meta.TransferSyntaxUID)
    others = [name for name in ("pyjpegls", "pillow", "pydicom", "pylibjpeg") if name in decoder.available_plugins]
    if decoder.is_encapsulated and not others:
        return read, None
    plugin = {"decoding_plugin": others[0]} if others else {}
    return read, decoder.as_array(read, index=0, raw=True, **plugin)[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_in_pydicom(path):
    """Each decodes to the stored values that pydicom's own plug-ins give, and is shown as its functions show it."""
    data = path.read_bytes()
    has_pixels = "PixelData" in pydicom.dcmread(path, force=True)
    if not has_pixels or path.name in REFUSED:
        with pytest.raises(
            ImageError, match=REFUSED.get(path.name, "DICOM without pixels|it has no Rows|not an image")
        ):
            read_image(data)
        return
    found, image = numbers(data), read_image(data)
    assert image.size == size_of(data) == found.shape[1::-1]
    if path.name in ONLY_HERE:
        return
    read, wanted = by_pydicom(path)
    assert wanted is not None
    np.testing.assert_array_equal(found, wanted)
    if read.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2") and found.max() < 1 << 20:
        np.testing.assert_allclose(np.asarray(image)[:, :, 0], as_pydicom_shows(read, wanted), atol=0.51)


def as_pydicom_shows(read, stored):
    """Grey levels by pydicom's functions, pixel by pixel in floating point."""
    values = pydicom.pixels.apply_modality_lut(stored, read)
    slope, intercept = float(read.get("RescaleSlope", 1)), float(read.get("RescaleIntercept", 0))
    bits, signed = read.BitsStored, read.PixelRepresentation
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    shown = pydicom.pixels.apply_voi_lut(values, read)
    low, high = low * slope + intercept, high * slope + intercept
    levels = 255 * (shown - low) / (high - low)
    levels = 255 - levels if read.PhotometricInterpretation == "MONOCHROME1" else levels
    padding = read.get("PixelPaddingValue")
    return levels if padding is None else np.where(stored == padding, 0, levels)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")
def test_a_chest_radiograph():
    """A whole radiograph keeps its size, and shows more than a few levels."""
    data = (DATA / "chest_radiograph.dcm").read_bytes()
    read = pydicom.dcmread(io.BytesIO(data))
    levels = grey(data)
    assert levels.shape == (read.Rows, read.Columns)
    assert len(np.unique(levels)) > 100


# Decoding


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "deflated", *LOSSLESS])
@pytest.mark.parametrize(
    ("pixels", "bits"),
    [
        (EIGHT, 8),
        (TWELVE, 12),
        (TWELVE * 16, 16),
        (TWELVE.astype(np.int16) - 2048, 16),
        (COLOUR, 8),
        (COLOUR[:3, :3], 8),
        (EIGHT[:1, :1], 8),
    ],
    ids=["8 bits", "12 bits", "16 bits", "signed", "colour", "tiny colour", "one pixel"],
)
def test_lossless_files_give_back_the_values_written(syntax, pixels, bits):
    """Whatever compresses them, the stored values are those that were written."""
    if syntax.startswith(("JPEG lossless", "JPEG-LS")) and pixels.dtype == np.int16:
        pixels = pixels.astype(np.int16)
    np.testing.assert_array_equal(numbers(dicom(pixels, syntax=syntax, bits=bits)), pixels)


@pytest.mark.parametrize(("syntax", "pixels", "bits", "most"), [
    ("JPEG", EIGHT // 8 + 100, 8, 20),
    ("JPEG extended", TWELVE // 16 + 2000, 12, 40),
    ("JPEG-LS near", EIGHT, 8, 2),
])  # fmt: skip
def test_lossy_files_are_near(syntax, pixels, bits, most):
    """What is lost is as little as the compression says."""
    found = numbers(dicom(pixels, syntax=syntax, bits=bits))
    assert np.abs(found.astype(int) - pixels.astype(int)).max() <= most


def test_every_transfer_syntax_that_is_promised_is_tested():
    """The list of what is decodable and the files made here name the same transfer syntaxes."""
    assert {*SYNTAXES.values(), "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"} == DECODABLE


def test_colours_of_jpeg_ls_in_scans():
    """Colours that follow each other, one scan each, are the colours of pixels."""
    import jpeg_ls

    made = dataset(COLOUR, syntax="JPEG-LS")
    planes = np.ascontiguousarray(COLOUR.transpose(2, 0, 1))
    made.PixelData = pydicom.encaps.encapsulate([bytes(jpeg_ls.encode_array(planes, interleave_mode=0))])
    np.testing.assert_array_equal(numbers(as_bytes(made)), COLOUR)


def test_planes_and_subsampled_colours():
    """Colours in planes, YBR in full and YBR with half the colours become the RGB that was meant."""
    planes = dataset(COLOUR, PlanarConfiguration=1, PixelData=COLOUR.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(as_bytes(planes))), COLOUR)
    smooth = Image.fromarray(COLOUR).resize((40, 36), Image.Resampling.BICUBIC)
    ybr = np.asarray(smooth.convert("YCbCr"))
    full = dicom(ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(np.asarray(read_image(full)).astype(int), np.asarray(smooth), atol=3)
    y, cb, cr = (ybr[:, :, i].reshape(-1, 2) for i in range(3))
    half = np.column_stack([y, cb[:, :1], cr[:, :1]]).astype(np.uint8)
    made = dataset(ybr, PhotometricInterpretation="YBR_FULL_422", PixelData=half.tobytes())
    doubled = np.stack([ybr[:, :, 0], *(np.repeat(ybr[:, ::2, i], 2, 1) for i in (1, 2))], 2)
    wanted = np.asarray(Image.frombytes("YCbCr", smooth.size, doubled.tobytes()).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(as_bytes(made))), wanted)


def test_sixteen_bit_colour_keeps_its_scale():
    """Colours of 16 bits are divided by 257 and rounded."""
    wide = rng.integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    np.testing.assert_array_equal(np.asarray(read_image(dicom(wide))), np.rint(wide / 257))


@pytest.mark.parametrize("syntax", ["JPEG 2000", "HTJ2K"])
@pytest.mark.parametrize(("pixels", "bits"), [(TWELVE, 12), (TWELVE.astype(np.int16) - 2048, 16), (COLOUR, 8)])
def test_half_the_resolution(syntax, pixels, bits):
    """Half of both sides, rounded up, with the values of the low band: near the mean of each square of four."""
    ramp = np.add.outer(np.arange(64), np.arange(50)) * 8
    smooth = (ramp[..., None] // 8 + np.arange(3)).astype(np.uint8) if pixels.ndim == 3 else ramp
    smooth = (smooth - (800 if pixels.dtype == np.int16 else 0)).astype(pixels.dtype)
    data = dicom(smooth, syntax=syntax, bits=bits)
    halved = numbers(data, halvings=1)
    assert halved.shape[:2] == (32, 25)
    mean = smooth.reshape(32, 2, 25, 2, -1).mean((1, 3)).squeeze()
    assert np.abs(halved - mean).max() <= (12 if pixels.ndim == 2 else 3)
    np.testing.assert_array_equal(numbers(data), smooth)
    assert read_image(data, reading=Reading(decode="quarter")).size == (13, 16)
    assert read_image(data, reading=Reading(decode="20x20")).size == (25, 32)
    assert read_image(data, reading=Reading(decode="half")).size == (25, 32)


def test_only_jpeg_2000_has_resolutions():
    """Other files are decoded in full, and no more halvings are made than the encoder prepared."""
    assert read_image(dicom(TWELVE, bits=12), reading=Reading(decode="half")).size == (29, 37)
    declared = declared_in(
        pydicom.encaps.get_frame(dataset(TWELVE, syntax="JPEG 2000").PixelData, 0, number_of_frames=1)
    )
    assert read_image(dicom(TWELVE, syntax="JPEG 2000"), reading=Reading(decode="1x1")).size == tuple(
        math.ceil(side / 2**declared.levels) for side in (29, 37)
    )


# What is shown

STEPS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def level(value, window, invert=False):
    """Return the grey level of a value as the standard defines it, in plain arithmetic (PS3.3 C.11.2.1.2)."""
    center, width, function = window
    if function == "LINEAR":
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        y = 0.0 if value <= low else 1.0 if value > high else (value - (center - 0.5)) / (width - 1) + 0.5
    elif function == "LINEAR_EXACT":
        low, high = center - width / 2, center + width / 2
        y = 0.0 if value <= low else 1.0 if value > high else (value - center) / width + 0.5
    else:
        y = 1 / (1 + math.exp(min(700, -4 * (value - center) / width)))
    shown = round(255 * y)
    return 255 - shown if invert else shown


@given(
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.integers(-2000, 5000),
    st.integers(1, 5000),
    st.sampled_from([(1, 0), (2, -1024), (0.5, 10)]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_those_of_the_standard(function, center, width, rescale, inverted, signed):
    """Every function, rescale, sign and photometric interpretation shows each value at the level of the standard."""
    pixels = (STEPS.astype(np.int16) - 2048) if signed else STEPS
    slope, intercept = rescale
    data = dicom(
        pixels, bits=16 if signed else 12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function,
        RescaleSlope=slope, RescaleIntercept=intercept,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )  # fmt: skip
    wanted = [level(slope * int(v) + intercept, (center, width, function), inverted) for v in pixels.ravel()]
    assert np.abs(grey(data).ravel().astype(int) - wanted).max() <= 1  # halves round either way


def test_windows_in_plain_numbers():
    """A window of 1 is a threshold; several windows count by their first; a given one replaces the file's."""
    one = grey(dicom(STEPS, bits=12, WindowCenter=100, WindowWidth=1))
    np.testing.assert_array_equal(one.ravel() == 255, STEPS.ravel() >= 100)
    several = dicom(STEPS, bits=12, WindowCenter=[1000, 5], WindowWidth=[500, 5])
    assert (grey(several) == grey(dicom(STEPS, bits=12, WindowCenter=1000, WindowWidth=500))).all()
    assert (grey(several, window="1000,500") == grey(several)).all()
    assert (grey(several, window="5,5") != grey(several)).any()
    np.testing.assert_array_equal(Window(50, 10, "LINEAR_EXACT")(np.array([45.0, 50.0, 55.0])), [0, 0.5, 1])


def test_the_only_frame_of_an_enhanced_file():
    """Rescale and window of a frame are used as those of other files are; the frame's own come before shared ones."""
    window = item(WindowCenter=1000, WindowWidth=500, VOILUTFunction="LINEAR_EXACT")
    shared = item(
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-1000)],
        FrameVOILUTSequence=[item(WindowCenter=1, WindowWidth=1)],
    )
    own = {"PerFrameFunctionalGroupsSequence": [item(FrameVOILUTSequence=[window])]}
    data = dicom(STEPS, bits=12, NumberOfFrames=1, SharedFunctionalGroupsSequence=[shared], **own)
    wanted = [level(2 * int(v) - 1000, (1000, 500, "LINEAR_EXACT")) for v in STEPS.ravel()]
    assert np.abs(grey(data).ravel().astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("reading", [{}, {"decode": "half"}])
def test_lossy_values_beyond_the_stored_bits_are_white(reading):
    """JPEG 2000 may overshoot: a value above 12 bits counts as the highest, and does not start again from black."""
    pixels = np.full((64, 64), 4200, np.uint16)
    made = dataset(pixels, syntax="JPEG 2000", bits=16)
    made.BitsStored, made.HighBit = 12, 11
    assert (grey(as_bytes(made), **reading) == 255).all()
    made = dataset(np.array([[0, 4095, 5000]], np.uint16), syntax="JPEG 2000", bits=16)
    made.BitsStored, made.HighBit = 12, 11
    assert grey(as_bytes(made), window="minmax").tolist() == [[0, 255, 255]]


def test_32_bits():
    """Many bits are scaled by all of them, or by those that occur."""
    wide = np.array([[0, 1 << 16, 1 << 31, (1 << 32) - 1]], np.uint32)
    assert grey(dicom(wide)).tolist() == [[0, 0, 128, 255]]
    assert grey(dicom(wide[:, :3]), window="minmax").tolist() == [[0, 0, 255]]
    assert grey(dicom(wide[:, :3])).tolist() == [[0, 0, 128]]


def test_white_is_inverted_once_and_last():
    """MONOCHROME1 is the negative of MONOCHROME2, with or without the shape that says so too, for every window."""
    for window in ("voi", "minmax", "full", "700,300"):
        given = {"bits": 12, "WindowCenter": 800, "WindowWidth": 1000}
        plain = grey(dicom(STEPS, **given), window=window)
        for shape in ({}, {"PresentationLUTShape": "INVERSE"}):
            turned = grey(dicom(STEPS, PhotometricInterpretation="MONOCHROME1", **shape, **given), window=window)
            np.testing.assert_array_equal(turned, 255 - plain)


def test_a_look_up_table_is_preferred_to_a_window():
    """Of both, the table counts, at the scale of its bits; values beyond it are those of its ends."""
    table = look_up_table(100, np.arange(0, 1024, 4), 10)
    data = dicom(STEPS, bits=12, VOILUTSequence=table, WindowCenter=5, WindowWidth=2)
    wanted = np.rint(255 * np.clip(STEPS.astype(int) - 100, 0, 255) * 4 / 1023)
    np.testing.assert_array_equal(grey(data), wanted)
    signed = STEPS.astype(np.int16) - 2048
    table = look_up_table(-100, np.arange(0, 1024, 4), 10)
    as_unsigned = look_up_table(65436, np.arange(0, 1024, 4), 10)  # the same first value, by another VR
    for sequence in (table, as_unsigned):
        shown = grey(dicom(signed, bits=16, VOILUTSequence=sequence))
        np.testing.assert_array_equal(shown, np.rint(255 * np.clip(signed.astype(int) + 100, 0, 255) * 4 / 1023))


def test_a_modality_look_up_table_comes_before_the_window():
    """The window applies to what the modality's table gives."""
    table = look_up_table(0, (np.arange(4096)[::-1] // 2), 16)
    shown = grey(dicom(STEPS, bits=12, ModalityLUTSequence=table, WindowCenter=1000, WindowWidth=500))
    wanted = [level((4095 - int(v)) // 2, (1000, 500, "LINEAR")) for v in STEPS.ravel()]
    assert np.abs(shown.ravel().astype(int) - wanted).max() <= 1


def test_padding_is_black_and_does_not_count():
    """Padding, a value or a range, is black in either polarity, and the lowest and highest value are of the rest."""
    pixels = np.tile(np.arange(1000, 2000, dtype=np.int16), (10, 1))
    pixels[:5, :300] = -2000
    pixels[:5, 300:400] = -1990
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        data = dicom(
            pixels, PhotometricInterpretation=photometric, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1980
        )
        shown = grey(data, window="minmax")
        assert (shown[:5, :400] == 0).all()
        ends = shown[9, 0], shown[9, -1]
        assert ends == ((255, 0) if photometric == "MONOCHROME1" else (0, 255))
    one = grey(dicom(pixels, PixelPaddingValue=-2000), window="minmax")
    assert one[9, 0] > 150  # the second value is no padding now, and is the lowest
    as_unsigned = dataset(pixels, PixelPaddingValue=-2000)
    as_unsigned["PixelPaddingValue"] = pydicom.DataElement("PixelPaddingValue", "US", 63536)
    np.testing.assert_array_equal(grey(as_bytes(as_unsigned), window="minmax"), one)


def test_minmax_and_full():
    """One scales by the image, one by what the bits can hold; unused bits hold nothing."""
    pixels = np.array([[100, 200, 300]], np.uint16)
    assert grey(dicom(pixels, bits=12), window="minmax").tolist() == [[0, 128, 255]]
    assert grey(dicom(pixels, bits=12), window="full").tolist() == [[6, 12, 19]]
    assert grey(dicom(pixels, bits=12)).tolist() == [[6, 12, 19]]  # without a window in the file
    assert grey(dicom(pixels | 0xF000, bits=12), window="minmax").tolist() == [[0, 128, 255]]
    assert grey(dicom(np.full((2, 2), 7, np.uint8)), window="minmax").tolist() == [[0, 0], [0, 0]]
    signed = np.array([[-2048, 0, 2047]], np.int16)
    assert grey(dicom(signed, bits=12), window="full").tolist() == [[0, 128, 255]]


@given(st.integers(1, 16), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_stored_bits_of_any_number(bits, signed, seed):
    """Any number of bits, signed or not, with rubbish in the others, gives back the numbers that were stored."""
    values = np.random.default_rng(seed).integers(0, 1 << bits, (6, 7))
    wanted = np.where(values >> (bits - 1), values - (1 << bits), values) if signed else values
    rubbish = np.random.default_rng(seed + 1).integers(0, 1 << (16 - bits), (6, 7)) << bits
    made = dataset((values | rubbish).astype(np.uint16), bits=bits, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(numbers(as_bytes(made)), wanted)


def test_palettes():
    """Palettes of 8 and 16 bits, whole and in segments, give the colours of their entries."""
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    ramp = np.arange(16) * 17
    made = dataset(pixels, PhotometricInterpretation="PALETTE COLOR")
    wanted = {}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        entries = np.roll(ramp, i)
        wanted[colour] = entries[pixels]
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [16, 0, 16])
        setattr(made, f"{colour}PaletteColorLookupTableData", (entries * 257).astype("<u2").tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(as_bytes(made))), np.stack(list(wanted.values()), 2))
    # discrete 0; linear 15 more entries up to 255 * 257; copied from there for the others
    for colour in ("Red", "Green", "Blue"):
        delattr(made, f"{colour}PaletteColorLookupTableData")
        words = np.array([0, 1, 0, 1, 15, 255 * 257], "<u2")
        made.add_new(f"Segmented{colour}PaletteColorLookupTableData", "OW", words.tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(as_bytes(made)))[:, :, 0], ramp[pixels])
    for words, why in (
        ([1, 9, 9], "unknown kind"), ([0, 65535, 1], "more entries than it has"), ([0, 9], "end too early"),
        ([7, 1, 1], "unknown kind"), ([2, 1, 0, 0], "unknown kind"),
    ):  # fmt: skip
        made.SegmentedRedPaletteColorLookupTableData = np.array(words, "<u2").tobytes()
        with pytest.raises(ImageError, match=why):
            read_image(as_bytes(made))


# What is refused


def bare(pixels, **options):
    """Return a file without its 128 bytes of preamble and without group 2, as old devices wrote it."""
    data = dicom(pixels, syntax="implicit", **options)
    return data[transfer_syntax_of(data)[1] :]


def test_files_are_known_by_their_content(tmp_path):
    """With and without preamble, whatever the name and whatever the preamble holds."""
    data = dicom(STEPS, bits=12)
    for name, content in (
        ("a.dcm", data),
        ("b", data),
        ("c.png", b"II*\0" + data[4:]),
        ("d.dcm", bare(STEPS, bits=12)),
    ):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name))[:, :, 0], grey(data))


def with_sequences(n, defined=False):
    """A file whose sequences are nested n deep."""
    made = dataset(EIGHT)
    start = as_bytes(made)
    body = b""
    if defined:
        for _ in range(n):
            one = struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
            body = b"\x08\x00\x15\x11SQ\0\0" + struct.pack("<I", len(one)) + one
    else:
        body = (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * n
    at = start.index(b"\x10\x00\x10\x00PN")
    return start[:at] + body + start[at:]


def cut(data, n):
    return data[: len(data) - n]


def bad_rows(**tags):
    return dicom(EIGHT, **tags)


def half_a_frame(syntax):
    """Return a file whose frame lacks its second half, though all around it is whole."""
    made = dataset(COLOUR if syntax == "JPEG" else TWELVE, syntax=syntax, bits=8 if syntax == "JPEG" else 12)
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    made.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])
    return as_bytes(made)


def many_elements():
    """A file of distinct elements without values, which take more memory than the bytes that they lie in."""
    data = as_bytes(dataset(EIGHT))
    numbers = np.arange(150_000)
    words = np.zeros((len(numbers), 4), "<u2")
    words[:, 0], words[:, 1], words[:, 2] = 0x1001 + numbers // 60_000 * 2, numbers % 60_000, 0x4F4C  # LO
    return data[: transfer_syntax_of(data)[1]] + words.tobytes()


def wrong_size(syntax):
    made = dataset(TWELVE, syntax=syntax, bits=12)
    made.Rows, made.Columns = 64, 64
    return as_bytes(made)


def rle_that_grows():
    """Run lengths that ask for more bytes than the header promises."""
    made = dataset(EIGHT, syntax="RLE")
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x01" * 4096
    made.PixelData = pydicom.encaps.encapsulate([frame])
    return as_bytes(made)


BAD = {
    "empty header": (lambda: b"\0" * 128 + b"DICM", "DICOM without pixels"),
    "no pixels": (lambda: dicom(), r"DICOM without pixels \(Digital Mammography X-Ray Image Storage"),
    "truncated": (lambda: cut(dicom(STEPS), 1000), "truncated DICOM file: 7,192 of 8,192 bytes"),
    "truncated JPEG-LS": (lambda: cut(dicom(STEPS, syntax="JPEG-LS", bits=12), 200), "truncated|damaged"),
    "truncated deflated": (lambda: cut(dicom(TWELVE, syntax="deflated"), 99), "truncated DICOM file"),
    "many elements": (many_elements, "too many elements"),
    "encrypted": (lambda: b"\x30\x82\x10\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03" + b"\xa0" * 200, "encrypted"),
    "slide": (lambda: dicom(EIGHT, kind=SLIDE), "this is a whole slide in DICOM.*headwater tiles"),
    "tomosynthesis": (
        lambda: dicom(EIGHT, kind=TOMOSYNTHESIS, NumberOfFrames=60),
        r"a tomosynthesis of 60 frames \(Breast Tomosynthesis Image Storage\)",
    ),
    "cine": (lambda: dicom(EIGHT, NumberOfFrames=30), "a multi-frame file of 30 frames"),
    "video": (lambda: dicom(EIGHT, syntax="1.2.840.10008.1.2.4.102"), r"4\.102 \(MPEG-4.*\) is not.*ffmpeg"),
    "JPEG XL": (lambda: dicom(EIGHT, syntax="1.2.840.10008.1.2.4.110"), "JPEG XL"),
    "JPIP": (lambda: dicom(EIGHT, syntax="1.2.840.10008.1.2.4.94"), "on a server"),
    "JPEG progressive": (lambda: dicom(EIGHT, syntax="1.2.840.10008.1.2.4.55"), "gdcmconv"),
    "private syntax": (lambda: dicom(EIGHT, syntax="1.2.3.4.5"), r"1\.2\.3\.4\.5 is not decoded here"),
    "huge": (lambda: bad_rows(Rows=65535, Columns=65535), "image too large: 65535 x 65535"),
    "no rows": (lambda: bad_rows(Rows=0), "image without pixels"),
    "more rows": (lambda: bad_rows(Rows=74), "truncated DICOM file: 1,074 of 2,146 bytes"),
    "fewer rows": (lambda: bad_rows(Rows=20), "20 pixels take 580 bytes, but 1,074 are there"),
    **{f"another size, {s}": (lambda s=s: wrong_size(s), r"64 x 64 .* compressed image 29 x 37")
       for s in ("JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K")},
    **{f"half a frame, {s}": (lambda s=s: half_a_frame(s), "truncated|damaged")
       for s in ("JPEG", "JPEG extended", "JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K", "RLE")},
    "another size, RLE": (lambda: wrong_size("RLE"), "truncated|damaged"),
    "run lengths that grow": (rle_that_grows, "damaged DICOM pixels"),
    "window of no width": (lambda: bad_rows(WindowCenter=5, WindowWidth=0), "WindowWidth is 0.*--step window=minmax"),
    "window of NaN": (lambda: bad_rows(WindowCenter="nan", WindowWidth=10), "WindowCenter (is nan|cannot be read)"),
    "unknown function": (
        lambda: bad_rows(WindowCenter=5, WindowWidth=10, VOILUTFunction="CUBIC"), "VOILUTFunction is unknown"
    ),
    "rescale of NaN": (lambda: with_number("RescaleSlope", "NaN"), "RescaleSlope (is nan|cannot be read)"),
    "rescale of infinity": (lambda: with_number("RescaleSlope", "1e999"), "RescaleSlope (is inf|cannot be read)"),
    "rescale of 0": (lambda: bad_rows(RescaleSlope=0, RescaleIntercept=0), "RescaleSlope is 0"),
    "rescale of words": (lambda: with_number("RescaleSlope", "much"), "RescaleSlope"),
    "more bits than there are": (lambda: bad_rows(BitsStored=12), "12 bits stored in 8 allocated"),
    "packed bits": (lambda: bad_rows(BitsAllocated=12, BitsStored=12), "12 bits stored in 12 allocated"),
    "high bits": (lambda: dicom(TWELVE, bits=12, HighBit=15), "end at bit 15"),
    "four samples": (lambda: bad_rows(SamplesPerPixel=4), "4 samples per pixel"),
    "grey of three": (lambda: dicom(COLOUR, PhotometricInterpretation="MONOCHROME2"), "grey with several"),
    "unknown colours": (lambda: dicom(COLOUR, PhotometricInterpretation="HSV"), "photometric|HSV"),
    "no palette": (lambda: bad_rows(PhotometricInterpretation="PALETTE COLOR"), "lacks its descriptor"),
    "empty table": (lambda: dicom(EIGHT, VOILUTSequence=[item(LUTDescriptor=[256, 0, 8])]), "look-up table"),
    "nested without end": (lambda: with_sequences(20_000), "nested without end|damaged DICOM header"),
    "nested and closed": (lambda: with_sequences(3_000, defined=True), None),
    "not JPEG": (lambda: not_jpeg(), "neither JPEG, JPEG-LS nor JPEG 2000"),
    "no frame": (lambda: no_frame(), "truncated|damaged"),
}  # fmt: skip


def with_number(keyword, text):
    """A file with a decimal string that no writer would write."""
    made = dataset(EIGHT)
    setattr(made, keyword, "1")
    data = as_bytes(made)
    at = data.index(struct.pack("<HH", *divmod(pydicom.datadict.tag_for_keyword(keyword), 1 << 16)) + b"DS")
    text = text.encode() + b" " * (len(text) % 2)
    return data[: at + 6] + struct.pack("<H", len(text)) + text + data[at + 10 :]


def not_jpeg():
    made = dataset(TWELVE, syntax="JPEG 2000", bits=12)
    made.PixelData = pydicom.encaps.encapsulate([b"BM" + b"\0" * 100])
    return as_bytes(made)


def no_frame():
    made = dataset(TWELVE, syntax="JPEG 2000", bits=12)
    made.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    return as_bytes(made)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_errors_of_one_line(kind):
    """Each says what is wrong; nothing else is raised, printed or allocated."""
    make, why = BAD[kind]
    data = make()
    if why is None:
        read_image(data)
        return
    with pytest.raises(ImageError, match=why) as raised:
        read_image(data)
    words = str(raised.value)
    assert "\n" not in words
    assert len(words) < 400
    assert "Doe" not in words


def test_a_deflated_file_has_a_limit(monkeypatch):
    """A file that would inflate to more is refused before it does; one that is below the limit is read."""
    monkeypatch.setattr(header, "MOST_INFLATED", 4000)
    read_image(dicom(EIGHT, syntax="deflated"))
    with pytest.raises(ImageError, match="more than 4,000 bytes"):
        read_image(dicom(np.zeros((1000, 1000), np.uint8), syntax="deflated"))


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["explicit", "implicit", "RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000"])
)
@settings(max_examples=120, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_are_errors_or_images(seed, syntax):
    """A file with some bytes changed is an image of the promised size, or an `ImageError`; nothing else."""
    random = np.random.default_rng(seed)
    data = bytearray(dicom(TWELVE, syntax=syntax, bits=12, WindowCenter=100, WindowWidth=50))
    for at in random.integers(132, len(data), random.integers(1, 6)):
        data[at] = random.integers(0, 256)
    with contextlib.suppress(ImageError):
        image = read_image(bytes(data), max_pixels=1 << 20)
        assert image.width * image.height <= 1 << 20


def test_messages_hold_no_text_from_the_file():
    """What a header says of itself is not repeated, control characters least of all."""
    with pytest.raises(ImageError) as raised:
        read_image(dicom(EIGHT, syntax="1.2.3", PatientName="\x1b[31mDoe"))
    assert "\x1b" not in str(raised.value)


def test_without_the_packages(monkeypatch):
    """The line to install them is given, for the whole run, not for each image."""
    import headwater._extras as extras

    def missing(module):
        raise ModuleNotFoundError(name=module.split(".")[0])

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'headwater\[dicom\]'"):
        read_image(b"\0" * 128 + b"DICM")


def test_reading_many_leaves_other_warnings_alone(recwarn):
    """pydicom's warnings are not shown; those of others are."""
    import warnings

    warnings.simplefilter("always")
    read_image((ROOT / "test_files" / "SC_rgb_jpeg.dcm").read_bytes())
    warnings.warn("mine", stacklevel=1)
    assert [str(one.message) for one in recwarn] == ["mine"]


# Steps


def test_steps_of_reading():
    """They come first, once each, and those that name the default are left out of the spec."""
    steps = parse_steps(["window=40.0,400", "decode=half", "mammogram"])
    assert steps.names[:3] == ("window=40,400", "decode=half", "background=40")
    assert steps.reading == Reading(None, "40,400", "half")
    assert parse_steps(["window=voi", "decode=full"]) is None
    assert parse_steps(["decode=quarter", "bits=12", "window=minmax"]).names == (
        "bits=12",
        "window=minmax",
        "decode=quarter",
    )
    for words in (
        ["orient=left", "window=voi"], ["window=voi", "window=full"], ["window=5"], ["window=5,0"], ["window=nan,9"],
        ["window="], ["window"], ["decode=2"], ["decode=0x9"], ["decode"], ["jpeg=torch", "window=full"],
        ["window=minmax", "jpeg=torch"],
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"^--step"):
            parse_steps(words)


def test_the_resolution_that_an_encoder_needs():
    """``auto`` becomes the size that is needed, which the spec then holds; where it is not known, it is refused."""
    auto = parse_steps(["decode=auto", "orient=left"])
    assert auto.for_size((224, 256)).names == ("decode=224x256", "orient=left")
    assert parse_steps(["decode=auto", "resize=1520x912"]).for_size((224, 224)).reading.decode == "1520x912"
    assert parse_steps(["decode=half"]).for_size(None).reading.decode == "half"
    for words, size in ((["decode=auto"], None), (["decode=auto", "breast"], (224, 224))):
        with pytest.raises(InputError, match="decode=auto"):
            parse_steps(words).for_size(size)
    reading = Reading(decode="1520x912")
    assert [
        reading.halvings(w, h)
        for w, h in ((2800, 3518), (912, 1520), (1823, 3039), (1822, 3039), (100, 100), (9000, 9000))
    ] == [1, 0, 1, 0, 0, 2]
