"""Slides: regions of every backend, coordinates, masks, tables of tiles, digests; and files that are damaged."""

import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw

from headwater.errors import ImageError, ImageNotFound, InputError, ManifestError
from headwater.sources import read_image, read_manifest
from headwater.sources.images import PYRAMID
from headwater.sources.slides import (
    Grid,
    Region,
    open_slide,
    slide_digest,
    slides_in,
    tile_at,
    tile_key,
    tile_table,
    tissue_mask,
)
from headwater.sources.slides import opened as opening
from tests.slides import DATA, pixels, pyramid

openslide = pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")
SVS, DICOM = DATA / "small_HE.svs", DATA / "small_dicom.dcm"
real = pytest.mark.skipif(not SVS.exists(), reason="the shared slides are not here")


def values(image):
    return np.asarray(image).astype(int)


@pytest.fixture(params=["openslide", "tifffile"])
def slide(request, tmp_path):
    """A slide of three levels as each backend reads it, and the pixels of its levels."""
    levels = pyramid(tmp_path / "a.tif", below=request.param == "tifffile")
    found = open_slide(tmp_path / "a.tif")
    assert found.backend == request.param
    return found, levels


def test_a_slide_says_what_it_is(slide):
    """Size, levels and micrometres per pixel, without a pixel being read."""
    found, levels = slide
    assert (found.width, found.height, found.mpp) == (1400, 1000, 0.25)
    assert [(level.width, level.height) for level in found.levels] == [one.shape[1::-1] for one in levels]
    assert [level.downsample for level in found.levels] == [1, 2, 4]


@pytest.mark.parametrize("at", [(0, 0), (300, 420), (13, 7), (1400 - 256, 1000 - 256)])
def test_a_region_at_full_resolution(slide, at):
    """Pixels of level 0 come as they are, across the borders of stored tiles and up to the edge."""
    found, levels = slide
    x, y = at
    np.testing.assert_array_equal(values(found.region(x, y, 256, 256)), levels[0][y : y + 256, x : x + 256])


@pytest.mark.parametrize(("width", "size", "level"), [(512, 256, 1), (800, 200, 2)])
def test_a_region_of_a_coarser_level(slide, width, size, level):
    """Where a level fits, its pixels come without being resampled; the corner is in level-0 pixels."""
    found, levels = slide
    x, y, scale = 256, 128, 2**level
    expected = levels[level][y // scale : y // scale + size, x // scale : x // scale + size]
    np.testing.assert_array_equal(values(found.region(x, y, width, size)), expected)
    assert found.level_for(width / size) == level


def test_a_region_between_levels(slide):
    """A region between two levels is read from the finer one and resized bicubically, as Pillow does it."""
    found, levels = slide
    x, y, width, size = 300, 200, 600, 224  # 2.68: level 1
    part = levels[1][y // 2 : y // 2 + 300, x // 2 : x // 2 + 300]
    expected = Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(values(found.region(x, y, width, size)), values(expected))


@pytest.mark.parametrize("region", [(-1, 0, 64, 64), (0, 1000 - 63, 64, 64), (0, 0, 2000, 64), (0, 0, 0, 64)])
def test_a_region_outside(slide, region):
    """What is not wholly inside the slide is an error that names region and file."""
    with pytest.raises(ImageError, match=r"region .* is not inside the slide of 1400 x 1000: .*a\.tif"):
        slide[0].region(*region)


@pytest.mark.parametrize("size", [0, 8193])
def test_a_size_without_bounds(slide, size):
    """An image that would take all memory is refused."""
    with pytest.raises(ImageError, match="must be 1 to 8,192"):
        slide[0].region(0, 0, 64, size)


def test_a_region_too_large_to_read_at_once(tmp_path):
    """A wide region of a slide without a coarser level is refused before memory is taken for it."""
    pyramid(tmp_path / "flat.tif", np.zeros((9000, 9000, 3), np.uint8), n_levels=1, compression="zlib")
    with pytest.raises(ImageError, match="no coarser level"):
        open_slide(tmp_path / "flat.tif").region(0, 0, 9000, 224)


def test_a_thumbnail(slide):
    """The thumbnail is the whole slide, at the wanted size, whichever level it is read from."""
    found, levels = slide
    for longest in (100, 350, 1400):
        thumbnail = found.thumbnail(longest)
        assert max(thumbnail.size) == longest
        expected = Image.fromarray(levels[0]).resize(thumbnail.size, Image.Resampling.BOX)
        assert np.abs(values(thumbnail) - values(expected)).mean() < 1


def test_a_thumbnail_in_parts(tmp_path):
    """A slide without levels is read in parts, which fit together without seams."""
    image = np.asarray(Image.fromarray(pixels()).resize((5000, 4100)))
    pyramid(tmp_path / "flat.tif", image, n_levels=1)
    thumbnail = open_slide(tmp_path / "flat.tif").thumbnail(1000)
    expected = Image.fromarray(image).resize((1000, 820), Image.Resampling.BOX)
    assert np.abs(values(thumbnail) - values(expected)).max() <= 1


@real
def test_regions_equal_those_of_openslide():
    """Regions of a real slide are those that OpenSlide reads, pixel by pixel."""
    mine, theirs = open_slide(SVS), openslide.OpenSlide(str(SVS))
    assert (mine.width, mine.height, mine.mpp) == (2220, 2967, 0.499)
    for x, y in ((0, 0), (700, 900), (1111, 2222), (2220 - 256, 2967 - 256)):
        expected = theirs.read_region((x, y), 0, (256, 256)).convert("RGB")
        np.testing.assert_array_equal(values(mine.region(x, y, 256, 256)), values(expected))


@real
def test_a_dicom_slide_that_openslide_refuses():
    """Its frames are read by pydicom; they continue each other across their borders."""
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(str(DICOM))
    slide = open_slide(DICOM)
    assert (slide.backend, slide.width, slide.height, slide.mpp) == ("pydicom", 3236, 2638, None)
    part = values(slide.region(400, 400, 1000, 1000))
    for border in (100, 600):  # of frames, at 500 and 1000
        across = np.abs(part[:, border] - part[:, border - 1]).mean(), np.abs(part[:, 301] - part[:, 300]).mean()
        down = np.abs(part[border] - part[border - 1]).mean(), np.abs(part[301] - part[300]).mean()
        assert across[0] < 3 * across[1]
        assert down[0] < 3 * down[1]


def dicom(path, frames, shape, *, organised="TILED_FULL", spacing=None, uid="1.2.3", **more):
    """Write uncompressed frames ``(n, rows, columns, 3)`` as a DICOM slide of a shape (height, width)."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = VLWholeSlideMicroscopyImageStorage, "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3.4"
    data.SeriesInstanceUID, data.Modality = uid, "SM"
    data.NumberOfFrames, data.Rows, data.Columns = len(frames), *frames.shape[1:3]
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    if organised:
        data.DimensionOrganizationType = organised
    if spacing is not None:
        measures, group = Dataset(), Dataset()
        measures.PixelSpacing = list(spacing)
        group.PixelMeasuresSequence = [measures]
        data.SharedFunctionalGroupsSequence = [group]
    for name, value in more.items():
        setattr(data, name, value)
    data.PixelData = frames.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def framed(image, side, by_column):
    """Cut an image into frames, padded with zeros, row by row or column by column."""
    height, width = (-(-n // side) * side for n in image.shape[:2])
    padded = np.zeros((height, width, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    parts = padded.reshape(height // side, side, width // side, side, 3)
    parts = parts.transpose(2, 0, 1, 3, 4) if by_column else parts.transpose(0, 2, 1, 3, 4)
    return parts.reshape(-1, side, side, 3)


@pytest.mark.parametrize(("organised", "by_column"), [("TILED_FULL", False), ("", False), ("", True)])
def test_the_order_of_dicom_frames(tmp_path, organised, by_column):
    """Frames lie row by row; where the file does not say so, they may lie column by column."""
    image = np.asarray(Image.fromarray(pixels(150, 110)).resize((600, 440), Image.Resampling.BICUBIC))
    dicom(
        tmp_path / "a.dcm", framed(image, 128, by_column), (440, 600), organised=organised, spacing=(0.00025, 0.00025)
    )
    slide = open_slide(tmp_path / "a.dcm")
    assert (slide.backend, slide.mpp) == ("pydicom", 0.25)
    np.testing.assert_array_equal(values(slide.region(100, 30, 400, 400)), image[30:430, 100:500])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"organised": "TILED_SPARSE"}, "TILED_SPARSE"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"TotalPixelMatrixColumns": 4_000_000_000}, "frames"),
        ({"Rows": 0}, "frames of"),
        ({"SamplesPerPixel": 4}, "not 8-bit RGB"),
    ],
)
def test_dicom_frames_that_fill_no_slide(tmp_path, more, words):
    """A DICOM slide that says impossible things of itself is refused in one line."""
    dicom(tmp_path / "a.dcm", framed(pixels(256, 256), 128, False), (256, 256), **more)
    with pytest.raises(ImageError, match=words) as caught:
        open_slide(tmp_path / "a.dcm")
    assert "\n" not in str(caught.value)


def test_a_dicom_series_is_one_slide(tmp_path):
    """Of the files of a series, the largest stands for all; other DICOM files are no slides."""
    for name, side in (("b.dcm", 256), ("a.dcm", 128)):
        dicom(tmp_path / name, framed(pixels(side, side), 128, False), (side, side))
    dicom(tmp_path / "other.dcm", framed(pixels(128, 128), 128, False), (128, 128), uid="1.2.4")
    (tmp_path / ".hidden.svs").write_bytes(b"")
    assert [path.name for path in slides_in(tmp_path)] == ["b.dcm", "other.dcm"]


# Files that are no slides, or damaged


def test_what_is_no_slide(tmp_path):
    """Missing files, folders, pipes, texts, images and empty files are each one line that says what it is."""
    (tmp_path / "text.svs").write_text("not a slide")
    (tmp_path / "empty.svs").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "strips.tif")
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "folder.svs").mkdir()
    for name, words in (
        ("text.svs", "not a whole-slide image"),
        ("empty.svs", "not a whole-slide image"),
        ("image.png", "not a whole-slide image"),
        ("strips.tif", "it is not tiled"),
        ("pipe.svs", "cannot read slide"),
        ("folder.svs", "cannot read slide"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            open_slide(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(ImageNotFound, match="slide not found"):
        open_slide(tmp_path / "gone.svs")


@real
def test_a_truncated_slide(tmp_path):
    """A slide whose end is missing is an error of one line, when it is opened or when the part is read."""
    data = SVS.read_bytes()
    for share in (0.01, 0.3, 0.9):
        path = tmp_path / f"{share}.svs"
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageError) as caught:
            tile_table(open_slide(path), Grid(mask="none"))
        assert "\n" not in str(caught.value)


def test_a_mirax_slide_without_its_folder(tmp_path):
    """The message says which folder is missing."""
    Image.new("RGB", (32, 32)).save(tmp_path / "case.mrxs", "JPEG")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "Slidedat.ini").write_text("[GENERAL]\n")
    with pytest.raises(ImageError, match=r"case\.mrxs"):
        open_slide(tmp_path / "case.mrxs")
    shutil.rmtree(tmp_path / "case")
    with pytest.raises(ImageError, match=r"folder 'case' that belongs beside it is missing"):
        open_slide(tmp_path / "case.mrxs")


def test_damaged_tiles(tmp_path):
    """Damage inside a slide is found when that part is read, in one line; other parts can still be read."""
    for below in (False, True):
        path = tmp_path / f"{below}.tif"
        pyramid(path, below=below, compression="jpeg")
        with tifffile.TiffFile(path) as file:
            place, n = file.pages[0].dataoffsets[7], file.pages[0].databytecounts[7]
        data = bytearray(path.read_bytes())
        data[place : place + n] = b"\xff" * n
        path.write_bytes(data)
        slide = open_slide(path)
        slide.region(0, 0, 200, 200)
        with pytest.raises(ImageError) as caught:
            slide.region(256 + 20, 256 + 20, 200, 200)
        assert "\n" not in str(caught.value)
        if below:  # its handle stays usable
            slide.region(0, 0, 200, 200)


def test_a_tile_that_is_larger_than_it_says(tmp_path):
    """A JPEG tile that declares more pixels than a tile has is refused before memory is taken for them."""
    path = tmp_path / "a.tif"
    pyramid(path, below=True, compression="jpeg")
    with tifffile.TiffFile(path) as file:
        place, n = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0", place, place + n)
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="a tile is no JPEG of its size"):
        open_slide(path).region(0, 0, 100, 100)


@pytest.mark.parametrize("mpp", [None, 0.0001, 5000])
def test_a_slide_without_a_resolution(tmp_path, mpp):
    """Without micrometres per pixel, or with absurd ones, the slide is refused and the option named."""
    pyramid(tmp_path / "a.tif", mpp=mpp)
    slide = open_slide(tmp_path / "a.tif")
    assert slide.mpp is None
    with pytest.raises(InputError, match="Pass --mpp-of-slide"):
        tile_table(slide, Grid())
    assert tile_table(slide, Grid(), 0.25).table["width"].unique().to_list() == [448]


# Many readers


def test_threads_read_what_one_reads(slide):
    """Many threads that read from one slide get the pixels that one gets."""
    found, levels = slide
    rng = np.random.default_rng(0)
    places = [(int(x), int(y)) for x, y in zip(rng.integers(0, 1144, 200), rng.integers(0, 744, 200), strict=True)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda at: values(found.region(*at, 256, 256)), places))
    for (x, y), part in zip(places, done, strict=True):
        np.testing.assert_array_equal(part, levels[0][y : y + 256, x : x + 256])


def _sums(path, places, before, queue):
    slide = open_slide(path)
    queue.put((slide is not before, [int(values(slide.region(*at, 256, 256)).sum()) for at in places]))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_forks_read_what_their_parent_reads(tmp_path):
    """Processes forked while the slide is open open it anew, and read the right pixels at the same time."""
    levels = pyramid(tmp_path / "a.tif")
    before = open_slide(tmp_path / "a.tif")
    before.region(0, 0, 64, 64)
    places = [(x, y) for x in range(0, 1100, 190) for y in range(0, 700, 190)]
    expected = [int(levels[0][y : y + 256, x : x + 256].astype(int).sum()) for x, y in places]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_sums, args=(tmp_path / "a.tif", places, before, queue)) for _ in range(3)]
    for child in children:
        child.start()
    mine = [int(values(before.region(*at, 256, 256)).sum()) for at in places]
    assert [queue.get(timeout=60) for _ in children] == [(True, expected)] * 3
    assert mine == expected
    for child in children:
        child.join()


def test_a_bounded_number_stays_open(tmp_path):
    """However many slides are read, some stay open, the last used."""
    for number in range(opening.MOST_OPEN + 5):
        pyramid(tmp_path / f"{number}.tif", pixels(300, 300), n_levels=1)
        open_slide(tmp_path / f"{number}.tif").region(0, 0, 64, 64)
    assert len(opening._opened.slides) == opening.MOST_OPEN
    last = open_slide(tmp_path / f"{number}.tif")
    assert open_slide(tmp_path / f"{number}.tif") is last


def test_a_slide_that_changes_is_opened_again(tmp_path):
    """A file that was replaced is not read from what was open before."""
    path = tmp_path / "a.tif"
    pyramid(path, pixels(600, 600, "pink"))
    before = values(open_slide(path).region(200, 200, 64, 64))
    pyramid(path, pixels(600, 600, "purple", seed=1))
    assert np.abs(values(open_slide(path).region(200, 200, 64, 64)) - before).mean() > 20


# Digests and names of tiles


def test_the_digest_of_a_slide(tmp_path):
    """It is that of the file, stays when the file moves, and changes with a byte."""
    pyramid(tmp_path / "a.tif", pixels(300, 300), n_levels=1)
    shutil.copy(tmp_path / "a.tif", tmp_path / "ä b.tif")
    first = slide_digest(tmp_path / "a.tif")
    assert slide_digest(tmp_path / "ä b.tif") == first
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.tif").write_bytes(data)
    assert slide_digest(tmp_path / "a.tif") != first


def test_the_digest_of_a_slide_of_several_files(tmp_path):
    """The folder of a MIRAX slide counts, by content and names; renaming the slide with its folder changes nothing."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.mrxs").write_bytes(b"head")
        (tmp_path / name).mkdir()
        (tmp_path / name / "Data0000.dat").write_bytes(b"pixels")
        (tmp_path / name / "Slidedat.ini").write_text("[GENERAL]")
    first = slide_digest(tmp_path / "a.mrxs")
    assert slide_digest(tmp_path / "b.mrxs") == first
    (tmp_path / "b" / "Data0000.dat").write_bytes(b"others")
    assert slide_digest(tmp_path / "b.mrxs") != first
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "a" / "Data0001.dat").symlink_to("/etc/hostname")
    assert slide_digest(tmp_path / "a.mrxs") == first  # a link that leads elsewhere is not followed


def test_keys_of_tiles():
    """A key depends on the slide and on each number of the region."""
    region = Region(0, 448, 448, 224)
    keys = {tile_key(b"a" * 16, region), tile_key(b"b" * 16, region)}
    keys |= {tile_key(b"a" * 16, region._replace(**{name: 7})) for name in Region._fields}
    assert len(keys) == 6


@pytest.mark.parametrize(
    "place",
    [
        "a.svs#tile=-1,0,1,1",
        "a.svs#tile=0,0,0,1",
        "a.svs#tile=1e3,0,1,1",
        "a.svs#tile=00,0,1,1",
        "a.svs",
        "#tile=0,0,1,1",
        "a.svs#tile=99999999999,0,1,1",
        "a.svs#tile=0,0,1,1 ",
        "a.svs#tile=٣,0,1,1",
    ],
)
def test_texts_that_name_no_tile(place):
    """Only whole numbers in the one form name a tile."""
    assert tile_at(place) is None


# Tissue


def test_tissue_between_glass_ink_and_borders():
    """Tissue is found; glass, marks of pens and black borders are not."""
    picture = Image.fromarray(pixels(600, 400))
    pen = ImageDraw.Draw(picture)
    marks = {(20, 20): (20, 60, 200), (120, 20): (20, 140, 60), (220, 20): (30, 30, 35), (320, 20): (220, 30, 40)}
    for (x, y), colour in marks.items():
        pen.rectangle((x, y, x + 60, y + 15), fill=colour)
    pen.rectangle((0, 380, 600, 400), fill=(0, 0, 0))
    mask = tissue_mask(picture)
    assert mask[150:250, 200:400].mean() > 0.98
    for x, y in marks:
        assert not mask[y : y + 16, x : x + 61].any()
    assert not mask[382:].any()
    assert mask[:40].mean() == mask[:, :40].mean() == 0


@pytest.mark.parametrize(("shade", "share"), [((243, 242, 244), 0), ((0, 0, 0), 0), ((205, 130, 175), 1)])
def test_slides_of_one_kind(shade, share):
    """An empty slide has no tissue, however its noise is divided, and a slide without glass has nothing else."""
    noise = np.random.default_rng(0).normal(0, 2, (200, 300, 3))
    assert tissue_mask(Image.fromarray(np.clip(noise + shade, 0, 255).astype(np.uint8))).mean() == pytest.approx(
        share, abs=0.02
    )


def test_pale_and_brown_tissue():
    """Pale eosin, brown chromogen and its pale blue counterstain are tissue."""
    for shade in ((238, 210, 225), (150, 105, 70), (185, 190, 215)):
        picture = Image.new("RGB", (200, 200), (243, 243, 243))
        picture.paste(shade, (50, 50, 150, 150))
        mask = tissue_mask(picture)
        assert mask[60:140, 60:140].all(), shade
        assert not mask[:40].any()


# Tables of tiles


def test_a_grid_without_a_mask(slide):
    """Every whole tile of the grid is listed once, with the level that is read."""
    table = tile_table(slide[0], Grid(mpp=0.5, size=100, mask="none")).table
    assert len(table) == (1400 // 200) * (1000 // 200)
    assert table["width"].unique().to_list() == [200]
    assert table["level"].unique().to_list() == [1]
    assert table["tissue"].null_count() == len(table)
    assert (table["x"].max() + 200, table["y"].max() + 200) == (1400, 1000)
    assert table.select("x", "y").is_unique().all()


def test_tiles_overlap(slide):
    """Neighbouring tiles share as many pixels as asked, at the tile's resolution."""
    table = tile_table(slide[0], Grid(mpp=0.5, size=100, overlap=25, mask="none")).table
    assert np.diff(table["x"].unique().sort()).tolist() == [150] * 8
    assert table["x"].max() + 200 <= 1400


def test_tiles_have_enough_tissue(slide):
    """The share of tissue is that of the mask, and tiles with less than asked are left out."""
    found, _ = slide
    every = tile_table(found, Grid(size=50, min_tissue=0)).table
    half = tile_table(found, Grid(size=50, min_tissue=0.5)).table
    assert 0 < len(half) < len(every) == 14 * 10
    assert half["tissue"].min() >= 0.5
    assert every.filter(pl.col("tissue") >= 0.5).equals(half)
    y, x = np.mgrid[:1000, :1400]
    inside = ((x - 700) / 560) ** 2 + ((y - 500) / 400) ** 2 < 1
    true = np.array([inside[y : y + 100, x : x + 100].mean() for x, y in every.select("x", "y").iter_rows()])
    assert np.abs(true - every["tissue"].to_numpy()).mean() < 0.03


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 0.37])
def test_a_tile_spans_its_micrometres(slide, mpp):
    """Width times the slide's micrometres is size times the wanted ones, to half a pixel."""
    table = tile_table(slide[0], Grid(mpp=mpp, size=64, mask="none")).table
    assert abs(table["width"][0] * 0.25 - 64 * mpp) <= 0.125


def test_a_slide_that_is_too_coarse(tmp_path):
    """Pixels are not invented unless asked."""
    pyramid(tmp_path / "a.tif", mpp=1.0)
    slide = open_slide(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"1 micrometres per pixel, which is coarser than 0\.5. Pass --mpp 1, or --up"):
        tile_table(slide, Grid(mpp=0.5))
    assert tile_table(slide, Grid(mpp=0.5, upsample=True, mask="none")).table["width"][0] == 112


def test_a_slide_smaller_than_a_tile(tmp_path):
    """It is said, instead of an empty table."""
    pyramid(tmp_path / "a.tif", pixels(300, 300), n_levels=1)
    with pytest.raises(ImageError, match="a tile is 448 pixels wide, but the slide has only 300 x 300"):
        tile_table(open_slide(tmp_path / "a.tif"), Grid())


# Slides as images


def test_a_pyramid_read_as_an_image_says_so(tmp_path):
    """An image that was read from a slide is marked, and an ordinary tiled TIFF is not."""
    for name, more in (("beside", {}), ("below", {"below": True})):
        pyramid(tmp_path / f"{name}.tif", pixels(600, 500), **more)
        assert read_image(tmp_path / f"{name}.tif").info.get(PYRAMID)
    pyramid(tmp_path / "plain.tif", pixels(600, 500), n_levels=1)
    assert not read_image(tmp_path / "plain.tif").info.get(PYRAMID)


@real
def test_an_aperio_slide_read_as_an_image_says_so():
    """A slide of a scanner is one, even without a pyramid."""
    assert read_image(SVS).info.get(PYRAMID)


# Manifests


HOSTILE = {
    "x": [-1, 2**40, float("nan"), float("inf"), 0.5, None, "a"],
    "y": [-1e30, None],
    "width": [0, -5, 2**33],
    "size": [0, 8193, 10**9],
    "slide": [None, "", "  "],
}


@pytest.mark.parametrize(("column", "value"), [(c, v) for c, vs in HOSTILE.items() for v in vs])
def test_hostile_cells(tmp_path, column, value):
    """A cell out of range is refused with its row and column, before a slide is looked at."""
    row = {"slide": "a.svs", "x": 0, "y": 0, "width": 448, "size": 224}
    table = pl.DataFrame([row, row | {column: value}], strict=False, infer_schema_length=None)
    if isinstance(value, str) and column != "slide":
        table = pl.DataFrame([{k: str(v) for k, v in one.items()} for one in (row, row | {column: value})])
    table.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=rf"row 2 has .* in column '{column}'") as caught:
        read_manifest(tmp_path / "t.parquet")
    assert "\n" not in str(caught.value)


def test_a_table_that_lacks_a_column(tmp_path):
    """What is missing is named."""
    pl.DataFrame({"slide": ["a.svs"], "x": [0], "y": [0]}).write_csv(tmp_path / "t.csv")
    with pytest.raises(ManifestError, match="width and size are missing"):
        read_manifest(tmp_path / "t.csv")


def test_other_tables_are_read_as_before(tmp_path):
    """A table with image files may have columns x, y and slide of its own."""
    pl.DataFrame({"image": ["a.png"], "slide": ["s"], "x": [-3], "y": [0.5]}).write_csv(tmp_path / "t.csv")
    table = read_manifest(tmp_path / "t.csv")
    assert (table.image, table.image_places()[0]) == ("image", str(tmp_path / "a.png"))
    assert table.tile_geometry() is None


def test_tiles_of_several_geometries(tmp_path):
    """Tiles of other pixels or micrometres are refused together."""
    row = {"slide": "a.svs", "x": 0, "y": 0, "width": 448, "size": 224, "mpp": 0.5}
    for other in ({"size": 256}, {"mpp": 0.25}, {"mpp": None}):
        pl.DataFrame([row, row | {"x": 448} | other]).write_parquet(tmp_path / "t.parquet")
        with pytest.raises(ManifestError, match="2 geometries are mixed"):
            read_manifest(tmp_path / "t.parquet").tile_geometry()
