from __future__ import annotations

import contextlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from headwater.errors import HeadwaterError, ImageError, ImageNotFound
from headwater.sources import IMAGE_SUFFIXES, load_bytes, read_image

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (13, 17), dtype=np.uint8)
RGB = rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)
WIDE = rng.integers(0, 65536, (13, 17), dtype=np.uint16)
WIDE[0, :3] = 0, 65535, 4095


def encode(pixels: npt.NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source: bytes | Path) -> npt.NDArray[np.uint8]:
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def thrice(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def png(width: int, height: int, bit_depth: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG put together chunk by chunk, for what Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    extra = b"".join(chunk(name.encode(), body) for name, body in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(
    samples: npt.NDArray[Any], *, bits: int, sample_format: int = 1, photometric: int = 1, extra_samples: int = -1
) -> bytes:
    """A little-endian TIFF of one uncompressed strip, tag by tag."""
    body = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    n_samples = samples.shape[2] if samples.ndim == 3 else 1
    height, width = samples.shape[:2]
    body += struct.pack("<" + "H" * n_samples, *[bits] * n_samples)
    bits_value = bits | bits << 16 if n_samples == 2 else bits if n_samples == 1 else 8 + samples.nbytes
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, n_samples, bits_value),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8),
        (277, 3, 1, n_samples),
        (278, 4, 1, height),
        (279, 4, 1, samples.nbytes),
        *([(338, 3, 1, extra_samples)] if extra_samples >= 0 else []),
        (339, 3, 1, sample_format),
    ]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + ifd


class TestEightBits:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
    def test_lossless_colour_comes_back_bit_for_bit(self, kind: str) -> None:
        np.testing.assert_array_equal(pixels(encode(RGB, kind)), RGB)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
    def test_grey_is_repeated_in_the_three_channels(self, kind: str) -> None:
        np.testing.assert_array_equal(pixels(encode(GREY, kind)), thrice(GREY))

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_compressed_tiff(self, compression: str) -> None:
        np.testing.assert_array_equal(pixels(encode(RGB, "TIFF", compression=compression)), RGB)

    def test_lossless_webp(self) -> None:
        np.testing.assert_array_equal(pixels(encode(RGB, "WEBP", lossless=True)), RGB)

    def test_a_jpeg_is_what_pillow_decodes_and_is_not_copied(self) -> None:
        data = encode(RGB, "JPEG")
        image = read_image(data)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))
        assert isinstance(image, ImageFile.ImageFile)  # the decoder's own image: nothing was converted

    def test_one_bit(self) -> None:
        bits = GREY > 127
        for kind in ("PNG", "TIFF", "BMP", "PPM"):
            np.testing.assert_array_equal(pixels(encode(Image.fromarray(bits), kind)), thrice(bits * 255))

    def test_two_and_four_bit_grey_fill_the_scale(self) -> None:
        assert pixels(png(4, 1, 2, 0, b"\0\x1b"))[0, :, 0].tolist() == [0, 85, 170, 255]
        assert pixels(png(2, 1, 4, 0, b"\0\x1f"))[0, :, 0].tolist() == [17, 255]

    def test_palette(self) -> None:
        image = Image.fromarray(RGB).quantize(7)
        expected = np.asarray(image.convert("RGB"))
        for kind in ("PNG", "TIFF", "BMP"):
            np.testing.assert_array_equal(pixels(encode(image, kind)), expected)

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_cmyk_white_is_white_and_ink_is_dark(self, kind: str) -> None:
        paper = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
        ink = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
        assert pixels(encode(paper, kind)).min() >= 254
        assert pixels(encode(ink, kind)).max() <= 1

    @pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
    def test_other_colour_spaces_of_tiff(self, mode: str) -> None:
        grey = (
            Image.new("YCbCr", (8, 8), (200, 128, 128))
            if mode == "YCbCr"
            else Image.new("LAB", (8, 8), (255, 128, 128))
        )
        shade = pixels(encode(grey, "TIFF"))
        assert np.ptp(shade) <= 2
        assert shade.mean() == pytest.approx(200 if mode == "YCbCr" else 255, abs=2)


class TestTransparency:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_colour_with_alpha_is_composited_on_white(self, kind: str) -> None:
        rgba = np.zeros((4, 3, 4), np.uint8)
        rgba[:, :, 0] = 200
        rgba[:, 1, 3], rgba[:, 2, 3] = 128, 255
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        out = pixels(encode(rgba, kind, **options))
        assert out[0, 0].tolist() == [255, 255, 255]
        np.testing.assert_allclose(out[0, 1].astype(int), [227, 127, 127], atol=1)
        assert out[0, 2].tolist() == [200, 0, 0]

    def test_grey_with_alpha(self) -> None:
        la = np.array([[[10, 0], [10, 255], [0, 51]]], np.uint8)
        assert pixels(encode(Image.fromarray(la, "LA"), "PNG"))[0, :, 0].tolist() == [255, 10, 204]

    def test_sixteen_bit_grey_with_alpha(self) -> None:
        out = pixels(png(2, 1, 16, 4, b"\0" + struct.pack(">HHHH", 0x1234, 0, 0x1234, 0xFFFF)))
        assert out[0, :, 0].tolist() == [255, 0x12]

    def test_the_transparent_entry_of_a_palette_is_white(self) -> None:
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        image.putpalette([9, 9, 9, 80, 80, 80, 0, 0, 0])
        assert pixels(encode(image, "PNG", transparency=0))[0, :, 0].tolist() == [255, 80, 0]
        half = pixels(encode(image, "PNG", transparency=bytes([255, 0, 51])))
        assert half[0, :, 0].tolist() == [9, 255, 204]

    def test_a_colour_key_is_white(self) -> None:
        assert pixels(encode(np.array([[7, 8]], np.uint8), "PNG", transparency=7))[0, :, 0].tolist() == [255, 8]
        rgb = np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)
        assert pixels(encode(rgb, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [1, 2, 4]]

    def test_a_colour_key_of_sixteen_bits_is_not_compared_with_eight(self) -> None:
        data = png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x0707, 0x0707, 0x0707), tRNS=struct.pack(">HHH", 7, 7, 7))
        assert pixels(data)[0, 0].tolist() == [7, 7, 7]

    @pytest.mark.parametrize("n_colours", [1, 3])
    def test_premultiplied_alpha_of_tiff(self, n_colours: int) -> None:
        samples = np.array([[[100] * n_colours + [200]]], np.uint8)
        out = pixels(tiff(samples, bits=8, photometric=1 if n_colours == 1 else 2, extra_samples=1))
        np.testing.assert_allclose(out.astype(int), 155, atol=1)  # 100 + 255 - 200


class TestWideSamples:
    expected = thrice(np.rint(WIDE / 257))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_sixteen_bit_grey_is_divided_by_257_and_rounded(self, kind: str) -> None:
        out = pixels(encode(Image.fromarray(WIDE), kind))
        np.testing.assert_array_equal(out, self.expected)
        assert out[0, :3, 0].tolist() == [0, 255, 16]

    def test_every_sixteen_bit_value(self) -> None:
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        np.testing.assert_array_equal(pixels(encode(Image.fromarray(values), "PNG")), thrice(np.rint(values / 257)))

    def test_big_endian_tiff(self) -> None:
        data = encode(Image.frombytes("I;16B", (17, 13), WIDE.astype(">u2").tobytes()), "TIFF")
        assert data.startswith(b"MM")
        np.testing.assert_array_equal(pixels(data), self.expected)

    def test_the_scale_does_not_follow_the_values(self) -> None:
        dim = (WIDE % 4096).astype(np.uint16)
        np.testing.assert_array_equal(pixels(encode(Image.fromarray(dim), "PNG")), thrice(np.rint(dim / 257)))

    def test_sixteen_bit_colour_is_within_one_step(self) -> None:
        wide = rng.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
        for data in (png(7, 5, 16, 2, rows), tiff(wide, bits=16, photometric=2)):
            np.testing.assert_array_equal(pixels(data), wide // 256)
            assert np.abs(pixels(data) - wide / 257).max() <= 1

    def test_white_is_zero(self) -> None:
        np.testing.assert_array_equal(pixels(tiff(WIDE, bits=16, photometric=0)), 255 - self.expected)
        np.testing.assert_array_equal(pixels(tiff(GREY, bits=8, photometric=0)), 255 - thrice(GREY))

    def test_twelve_bit_tiff_fills_the_scale(self) -> None:
        packed = np.frombuffer(bytes.fromhex("fff800000fff"), np.uint8).reshape(1, 6)  # 4095, 2048, 0, 4095
        data = bytearray(tiff(packed, bits=12))
        width = data.index(struct.pack("<HHII", 256, 4, 1, 6))
        data[width : width + 12] = struct.pack("<HHII", 256, 4, 1, 4)
        assert pixels(bytes(data))[0, :, 0].tolist() == [255, 128, 0, 255]

    @pytest.mark.parametrize(("dtype", "sample_format"), [(np.uint32, 1), (np.int32, 2), (np.int16, 2)])
    def test_other_integers_are_read_as_sixteen_bit_or_refused(
        self, dtype: type[np.generic], sample_format: int
    ) -> None:
        bits = np.dtype(dtype).itemsize * 8
        values = np.array([[0, 257, 32767]], dtype)
        assert pixels(tiff(values, bits=bits, sample_format=sample_format))[0, :, 0].tolist() == [0, 1, 127]
        beyond = np.array([[0, 70000]], dtype) if bits == 32 else np.array([[-1, 3]], dtype)
        with pytest.raises(ImageError, match="no fixed scale"):
            read_image(tiff(beyond, bits=bits, sample_format=sample_format))

    def test_unit_floats_are_multiplied_by_255_and_others_refused(self) -> None:
        unit = np.array([[0, 0.25, 1]], np.float32)
        assert pixels(tiff(unit, bits=32, sample_format=3))[0, :, 0].tolist() == [0, 64, 255]
        for beyond in (-0.1, 1.5, np.nan, np.inf):
            data = tiff(np.array([[0, beyond]], np.float32), bits=32, sample_format=3)
            with pytest.raises(ImageError, match=r"floating-point samples .* no fixed scale"):
                read_image(data)

    @settings(max_examples=60, deadline=None)
    @given(maxval=st.integers(1, 65535), plain=st.booleans(), colour=st.booleans(), seed=st.integers(0, 9))
    def test_the_maxval_of_a_netpbm_file_is_white(self, maxval: int, plain: bool, colour: bool, seed: int) -> None:
        shape = (3, 5, 3) if colour else (3, 5)
        samples = np.random.default_rng(seed).integers(0, maxval + 1, shape)
        samples.flat[:2] = 0, maxval
        magic = {(True, True): 3, (True, False): 2, (False, True): 6, (False, False): 5}[plain, colour]
        body = (
            " ".join(map(str, samples.flat)).encode()
            if plain
            else samples.astype(np.uint8 if maxval < 256 else ">u2").tobytes()
        )
        out = pixels(f"P{magic}\n# by a scanner 9 9 9\n5 3\n{maxval}\n".encode() + body)
        exact = samples * 255 / maxval
        assert out.flat[0] == 0
        assert out.reshape(-1, 3)[0 if colour else 1].max() == 255
        np.testing.assert_allclose(
            out, exact if colour else np.repeat(exact[..., None], 3, 2), atol=1 if plain else 0.5001
        )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :16] = 255, 0, 0  # upright, the red corner is top left
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](corners)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = pixels(encode(stored, kind, exif=exif.tobytes()))
    assert out.shape == corners.shape
    np.testing.assert_allclose(out[4:12, 4:12].mean((0, 1)), [255, 0, 0], atol=8)
    np.testing.assert_allclose(out[20:, 20:].mean((0, 1)), [0, 0, 0], atol=8)


def test_of_several_frames_the_first_is_read() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    for kind in ("TIFF", "PNG"):
        assert pixels(encode(frames[0], kind, save_all=True, append_images=frames[1:])).max() == 10


class TestRefusals:
    def reason(self, source: bytes | Path, **options: Any) -> str:
        with pytest.raises(ImageError) as caught:
            read_image(source, **options)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, HeadwaterError)
        return str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        for read in (read_image, load_bytes):
            with pytest.raises(ImageNotFound, match=r"image file not found: .*gone\.png"):
                read(tmp_path / "gone.png")
            with pytest.raises(FileNotFoundError):
                read(tmp_path / "gone.png")

    def test_a_folder(self, tmp_path: Path) -> None:
        assert self.reason(tmp_path) == f"this is a folder, not an image file: {tmp_path}"

    def test_a_name_no_file_can_have(self) -> None:
        with pytest.raises(ImageError, match="cannot read image file"):
            load_bytes("a\0b.png")

    def test_no_bytes(self, tmp_path: Path) -> None:
        assert "empty image file" in self.reason(b"")
        (tmp_path / "empty.png").touch()
        assert self.reason(tmp_path / "empty.png").endswith("empty.png")

    @pytest.mark.parametrize("data", [b"<html>gone</html>", b"%!PS-Adobe-3.0", bytes(1000), b"GIF89a" + bytes(50)])
    def test_not_an_image(self, data: bytes) -> None:
        assert "not an image" in self.reason(data)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM"])
    def test_a_file_cut_in_half_is_called_truncated(self, tmp_path: Path, kind: str) -> None:
        data = encode(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
        path = tmp_path / "half"
        path.write_bytes(data[: len(data) // 2])
        assert self.reason(path).startswith("truncated image")
        assert str(path) in self.reason(path)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("PNG", {}),
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("BMP", {}),
            ("WEBP", {}),
            ("PPM", {}),
        ],
    )
    def test_cut_anywhere_a_file_gives_its_pixels_or_an_image_error(self, kind: str, options: dict[str, Any]) -> None:
        data = encode(RGB, kind, **options)
        whole = pixels(data)
        for length in range(len(data)):
            with contextlib.suppress(ImageError):
                np.testing.assert_array_equal(pixels(data[:length]), whole)

    @settings(max_examples=150, deadline=None)
    @given(
        kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM"]),
        flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    )
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # on damaged metadata
    def test_a_damaged_file_gives_an_image_or_an_image_error(self, kind: str, flips: list[tuple[int, int]]) -> None:
        data = bytearray(encode(RGB, kind))
        for position, value in flips:
            data[position % len(data)] = value
        with contextlib.suppress(ImageError):
            assert read_image(bytes(data), max_pixels=1 << 20).mode == "RGB"

    @pytest.mark.parametrize("header", [b"P5 3 3 70000 ", b"P5 3 3 0 ", b"P6 0 3 100 ", b"P5 3 0 255 "])
    def test_impossible_netpbm_headers(self, header: bytes) -> None:
        assert "image" in self.reason(header + bytes(99))

    def test_too_many_pixels_are_refused_from_the_header_alone(self) -> None:
        bomb = png(50_000, 50_000, 1, 0, b"\0")
        assert "50000 x 50000 is 2,500,000,000 pixels, but at most 268,435,456 are allowed" in self.reason(bomb)
        assert "at most 220 are allowed" in self.reason(encode(RGB, "PNG"), max_pixels=220)
        assert "at most 220 are allowed" in self.reason(b"P5 17 13 4095 " + bytes(442), max_pixels=220)
        assert read_image(encode(RGB, "PNG"), max_pixels=221).size == (17, 13)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
def test_pillows_own_pixel_limit_plays_no_part(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(RGB, kind)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    turned = encode(RGB, "TIFF", exif=rotated.tobytes(), compression="tiff_lzw")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert read_image(data).size == (17, 13)
    assert read_image(turned).size == (13, 17)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_a_truncated_file_is_refused_by_itself_not_by_a_global_switch() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(ImageError):
        read_image(encode(RGB, "JPEG")[:-200])
    assert before == ImageFile.LOAD_TRUNCATED_IMAGES


def test_many_threads_read_the_same_pixels() -> None:
    files = [encode(RGB, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")] * 20
    alone = [pixels(data) for data in files[:6]]
    with ThreadPoolExecutor(8) as pool:
        for i, out in enumerate(pool.map(pixels, files)):
            np.testing.assert_array_equal(out, alone[i % 6])


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "wrongly_named.png"
    path.write_bytes(encode(RGB, "JPEG"))
    assert load_bytes(path) == path.read_bytes()
    np.testing.assert_array_equal(pixels(path), pixels(load_bytes(path)))
    np.testing.assert_array_equal(np.asarray(read_image(str(path))), pixels(path))


def test_suffixes_are_lower_case_with_their_dot() -> None:
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


@needs_data
def test_the_pgm_and_the_png_of_one_mammogram_are_the_same_picture() -> None:
    pgms = sorted((DATA / "mini_mias").rglob("*.pgm"))
    assert pgms
    for pgm in pgms:
        np.testing.assert_array_equal(pixels(pgm), pixels(DATA / "mini_mias" / "images" / f"{pgm.stem}.png"))


@needs_data
@pytest.mark.parametrize("pattern", ["glas/images/train_1*.jpg", "covid_cxr/images/cxr00*.jpg"])
def test_real_jpegs_are_what_pillow_converts_them_to(pattern: str) -> None:
    paths = sorted(DATA.glob(pattern))
    assert len(paths) > 5
    for path in paths:
        with Image.open(path) as image:
            np.testing.assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))
