"""From slides to a head: tables of tiles, their features, bags, heat maps; and slides that are no images."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater import api
from headwater.embed.contents import Content, SlideTile
from headwater.errors import HeadwaterError, ImageError, InputError, ManifestError, SpecMismatch
from headwater.samples.cases import Cases
from headwater.samples.pictures import picture_of_sample
from headwater.sources.slides import digest, open_slide, tile_at
from tests.slides import DATA, pixels, pyramid

ENCODER = Path(__file__).parents[1] / "slides.py"
"""The file of an encoder that takes no time: the mean colours of parts of an image."""

pytest.importorskip("openslide")
pytest.importorskip("tifffile")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder, which is the current one, with the digests of slides forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digest, "_known", digest._known.__class__())
    return tmp_path


def cut(slides, out="tiles.parquet", **options):
    return api.tiles(slides, out, **{"size": 64, "mpp": 0.5} | options)


def embed(store="s.hw", manifest="tiles.parquet", **options):
    return api.embed(manifest, store, **{"encoder": f"python:{ENCODER}:Mean", "workers": 2} | options)


WORDS = ("tiles", "slides", "-o", "tiles.parquet", "--size", "64", "--overlap", "8", "--json")

# The table


def test_the_table(here):
    """A row for each tile, with paths seen from the table, ids of their own, and a picture for the eye."""
    pyramid("slides/a.tif")
    done = cut("slides", "tables/tiles.parquet", thumbnails="eye")
    table = pl.read_parquet("tables/tiles.parquet")
    assert table.columns == ["id", "slide", "x", "y", "level", "width", "size", "mpp", "tissue"]
    assert table.equals(done.table)
    assert table["slide"].unique().to_list() == ["../slides/a.tif"]
    assert table["id"].is_unique().all()
    assert (table["width"].unique().to_list(), table["size"].unique().to_list()) == ([128], [64])
    assert table["tissue"].min() >= 0.5
    (picture,) = (here / "eye").iterdir()
    with Image.open(picture) as shown:
        assert shown.size[0] > 100
    assert done.to_dict()["slides"][0]["n_tiles"] == len(table)
    assert f"{len(table):,} tiles of 1 slide" in done.lines()[-1]


def test_a_folder_with_a_slide_that_cannot_be_read(here):
    """It is named and counted; the others are cut. None that can be read is an error."""
    pyramid("slides/a.tif")
    pyramid("slides/b.tif", mpp=None)
    (here / "slides" / "c.svs").write_text("no slide")
    done = cut("slides")
    assert list(done.skipped) == ["slides/b.tif", "slides/c.svs"]
    assert done.table["slide"].unique().to_list() == ["slides/a.tif"]
    assert any("--mpp-of-slide" in line for line in done.lines())
    assert "2 slides left out:" in done.lines()
    (here / "slides" / "a.tif").unlink()
    with pytest.raises(ImageError, match="none of 2 slides can be cut"):
        cut("slides")
    with pytest.raises(InputError, match="Pass --mpp-of-slide"):
        cut("slides/b.tif")


def test_slides_of_one_name_in_different_folders(here):
    """They keep apart, by path; names may have any letters."""
    for folder, kind in (("ä ö", "pink"), ("b#tile=1,1,1,1", "purple")):
        pyramid(f"{folder}/case.tif", pixels(600, 500, kind))
    done = cut(["ä ö/case.tif", "b#tile=1,1,1,1/case.tif"])
    assert sorted(done.table["slide"].unique()) == ["b#tile=1,1,1,1/case.tif", "ä ö/case.tif"]
    made = embed()
    assert made.n_failed == 0
    assert made.samples["image_key"].n_unique() == len(done.table)


def test_a_table_of_slides_gives_its_columns(here):
    """Labels and patients of slides come to each of their tiles; an id is that of the slide."""
    for name in ("a", "b"):
        pyramid(f"data/{name}.tif", pixels(600, 500, seed=ord(name)))
    rows = {"slide": ["a.tif", "b.tif"], "id": ["s1", "s2"], "patient": ["007", "008"], "label": [0, 1]}
    pl.DataFrame(rows).write_csv("data/slides.csv")
    table = cut("data/slides.csv", "tiles.csv").table
    assert table.columns[-3:] == ["slide_id", "patient", "label"]
    per_slide = table.group_by("slide", maintain_order=True).agg(
        pl.col("patient").unique(), pl.col("label").unique(), pl.col("slide_id").unique()
    )
    assert per_slide.rows() == [("data/a.tif", ["007"], [0], ["s1"]), ("data/b.tif", ["008"], [1], ["s2"])]
    embedded = embed(manifest="tiles.csv").samples
    assert embedded["patient"].unique().sort().to_list() == ["007", "008"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mpp": 0}, "--mpp must be a finite number above 0"),
        ({"mpp": float("nan")}, "--mpp"),
        ({"mpp": 1e6}, "--mpp is in micrometres"),
        ({"size": 0}, "--size must be at least 1"),
        ({"size": 10**6}, "--size must be at most 8,192"),
        ({"overlap": 64}, "--overlap must be less than --size"),
        ({"overlap": -1}, "--overlap must be at least 0"),
        ({"mask": "otsy"}, "Did you mean 'otsu'"),
        ({"min_tissue": 50}, "--min-tissue is a share"),
        ({"mpp_of_slide": -1}, "--mpp-of-slide"),
        ({"out": "tiles.txt"}, r"\.csv or \.parquet"),
        ({"slides": []}, "no slides"),
        ({"slides": "empty"}, "there are no slides in this folder"),
        ({"slides": "gone.svs"}, "slide not found"),
        ({"slides": "bad.csv"}, "no column of slides"),
        ({"slides": "clash.csv"}, "a column 'x' for each tile"),
        ({"slides": "twice.csv"}, "named in several rows"),
    ],
)
def test_what_is_refused(here, options, words):
    """Options out of range, and slides that are not there, are one line; nothing is written."""
    (here / "empty").mkdir()
    (here / "bad.csv").write_text("name\na.tif\n")
    (here / "clash.csv").write_text("slide,x\na.tif,1\n")
    (here / "twice.csv").write_text("slide\na.tif\na.tif\n")
    pyramid("a.tif", pixels(300, 300), n_levels=1)
    before = sorted(here.rglob("*"))
    with pytest.raises(HeadwaterError, match=words) as caught:
        cut(**{"slides": "a.tif"} | options)
    assert "\n" not in str(caught.value)
    assert sorted(here.rglob("*")) == before


def test_an_empty_slide(here):
    """A slide without tissue gives no tile, which is said; all slides without are an error."""
    pyramid("slides/glass.tif", np.full((600, 800, 3), 243, np.uint8))
    with pytest.raises(InputError, match="no tile of 1 slide has 50% of tissue"):
        cut("slides")
    pyramid("slides/a.tif")
    assert any("1 slide without a tile: slides/glass.tif" in line for line in cut("slides").lines())


def test_only_thumbnails_are_read(here, monkeypatch):
    """However large a slide is, no more of it is read than some thumbnail of a coarse level."""
    pyramid("a.tif", np.repeat(np.repeat(pixels(), 4, 0), 4, 1), n_levels=4, compression="zlib")
    slide, n_pixels = open_slide("a.tif"), []
    read = type(slide)._read
    monkeypatch.setattr(
        type(slide), "_read", lambda self, x, y, level, w, h: n_pixels.append(w * h) or read(self, x, y, level, w, h)
    )
    cut("a.tif", size=224)
    assert sum(n_pixels) <= 2 * 1400 * 1000


# Features


def test_features_are_those_of_tile_files(here):
    """A tile has the vector that a file of its pixels would have, and no file is written."""
    pyramid("a.tif")
    table = cut("a.tif").table
    before = sorted(path.name for path in here.iterdir())
    store = embed()
    assert sorted(path.name for path in here.iterdir()) == sorted([*before, "s.hw"])
    (here / "files").mkdir()
    for number, (x, y, width) in enumerate(table.select("x", "y", "width").iter_rows()):
        open_slide("a.tif").region(x, y, width, 64).save(f"files/{number}.png")
    pl.DataFrame({"image": [f"files/{i}.png" for i in range(len(table))]}).write_csv("files.csv")
    files = embed("f.hw", "files.csv")
    np.testing.assert_array_equal(store.read("Mean/image").X[:], files.read("Mean/image").X[:])


def test_the_geometry_is_part_of_the_spec(here):
    """Tiles of other pixels or micrometres, and other images, do not come into the same features."""
    pyramid("a.tif")
    cut("a.tif")
    store = embed()
    assert store.features("Mean/image").spec.tiles == {"mpp": 0.5, "size": 64, "resampling": "bicubic"}
    Image.fromarray(pixels(100, 100)).save("b.png")
    (here / "b.csv").write_text("image\nb.png\n")
    cut("a.tif", "other.parquet", mpp=0.25)
    for manifest in ("b.csv", "other.parquet"):
        with pytest.raises(SpecMismatch, match=r"preprocessing\.tiles"):
            embed(manifest=manifest)
    assert embed(manifest="other.parquet", name="fine").results["fine/image"].embedded > 0


def test_nothing_is_read_twice(here, monkeypatch):
    """The digest of a slide is computed once in a run, and not at all in the next; a stopped run goes on."""
    pyramid("slides/a.tif")
    pyramid("slides/b.tif", pixels(seed=1))
    table = cut("slides").table
    shutil.copytree("slides", "copy", copy_function=shutil.copy2)
    table[:40].write_parquet("tiles.parquet")
    read = []
    real_digest = digest.file_digest
    monkeypatch.setattr("headwater.embed.items.file_digest", lambda path: read.append(path) or real_digest(path))
    monkeypatch.setattr("headwater.store.file_index.SETTLED_NS", 0)
    assert embed().results["Mean/image"].embedded == 40
    assert len(read) == table[:40]["slide"].n_unique()
    table.write_parquet("tiles.parquet")
    read.clear()
    done = embed().results["Mean/image"]
    assert (done.embedded, done.kept) == (len(table) - 40, 40)
    assert len(read) <= 1
    read.clear()
    assert embed().results["Mean/image"].embedded == 0
    assert not read


def test_a_moved_slide(here):
    """A slide at another place is the same: its features stay, and the samples say where it is now."""
    pyramid("a.tif")
    cut("a.tif")
    embed()
    (here / "new").mkdir()
    shutil.move("a.tif", "new/ä.tif")
    n = len(cut("new/ä.tif").table)
    done = embed()
    assert (done.results["Mean/image"].embedded, done.results["Mean/image"].kept) == (0, n)


def test_a_slide_that_changes(here):
    """Another slide of the same name has other features; an old table of keys is not believed."""
    pyramid("a.tif")
    table = cut("a.tif").table
    store = embed()
    key = store.samples["image_key"][0]
    pyramid("a.tif", pixels(kind="purple", seed=3))
    tile = Content(bytes.fromhex(key), here / store.samples["image"][0])
    with pytest.raises(ImageError, match="changed while it was being embedded"):
        tile.image()
    assert embed().results["Mean/image"].embedded == len(table)


def test_a_slide_that_changes_while_it_is_embedded(here):
    """A tile whose slide was known is read without another digest, until the file changes."""
    pyramid("a.tif")
    cut("a.tif")
    plan = api.embed("tiles.parquet", "s.hw", encoder="builtin:texture", dry_run=True)
    tile = plan.features["image"].items.contents[0]
    assert isinstance(tile, SlideTile)
    digest._known.clear()
    tile.image()
    assert not digest._known
    pyramid("a.tif", pixels(seed=9))
    with pytest.raises(ImageError, match="changed"):
        tile.image()


def test_a_slide_that_is_gone(here):
    """Tiles without their slide fail with a reason; others are embedded."""
    pyramid("slides/a.tif")
    pyramid("slides/b.tif", pixels(seed=1))
    table = cut("slides").table
    (here / "slides" / "b.tif").unlink()
    done = embed()
    n_gone = table.filter(pl.col("slide") == "slides/b.tif").height
    assert done.n_failed == n_gone > 0
    assert "slide not found" in next(iter(done.failed["Mean/image"].values()))
    with pytest.raises(ImageError, match=r"manifest row .* slide not found.*--on-error skip"):
        embed(on_error="stop")


def test_tiles_outside_their_slide(here):
    """Regions outside fail with a reason, at whatever file a table points."""
    pyramid("a.tif", pixels(300, 300), n_levels=1)
    (here / "secret.txt").write_text("secret")
    rows = [("a.tif", 0, 0), ("a.tif", 290, 0), ("a.tif", 2**31, 5), ("../../etc/passwd", 0, 0), ("secret.txt", 0, 0)]
    table = pl.DataFrame(rows, ["slide", "x", "y"], orient="row").with_columns(width=64, size=64)
    table.write_parquet("tiles.parquet")
    done = embed()
    assert done.results["Mean/image"].embedded == 1
    reasons = " ".join(done.failed["Mean/image"].values())
    assert "not inside the slide of 300 x 300" in reasons
    assert "not a whole-slide image" in reasons or "slide not found" in reasons
    assert "secret" not in reasons.replace("secret.txt", "")


def test_tiles_in_other_processes(here):
    """A process that is given tiles reads the same pixels, without a digest of a slide being computed again."""
    pyramid("a.tif")
    cut("a.tif")
    plan = api.embed("tiles.parquet", "s.hw", encoder=f"python:{ENCODER}:Mean", dry_run=True)
    contents = list(plan.features["image"].items.contents[:6])
    code = """
import pickle, sys
from headwater.sources.slides import digest
contents = pickle.load(sys.stdin.buffer)
pixels = [content.image().tobytes() for content in contents]
assert not digest._known
sys.stdout.buffer.write(pickle.dumps(pixels))
"""
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(contents), capture_output=True, check=True)
    assert pickle.loads(done.stdout) == [content.image().tobytes() for content in contents]


# A head over slides


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve slides of twelve patients, half of them purple; tiles, a store, and a head over their tiles."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(12):
        kind = ("pink", "purple")[number % 2]
        pyramid(folder / "slides" / f"{number}.tif", pixels(700, 500, kind, seed=number))
        rows.append((f"{number}.tif", f"p{number}", kind))
    pl.DataFrame(rows, ["slide", "patient", "label"], orient="row").write_csv(folder / "slides" / "slides.csv")
    cut(folder / "slides" / "slides.csv", folder / "tiles.parquet", thumbnails=folder / "thumbnails")
    store = embed(folder / "s.hw", folder / "tiles.parquet")
    run = api.fit_head(
        store,
        features="Mean/image",
        label="label",
        head="mil",
        bags="slide",
        groups="patient",
        folds=3,
        params={"epochs": 8},
        out=folder / "runs" / "mil",
    )
    return folder, store, run


def test_a_head_over_slides(cohort):
    """Slides are bags of tiles: one prediction for each, with the weight of each tile."""
    folder, store, run = cohort
    assert run.metrics["n_samples"] == 12
    assert run.mean["auc"] > 0.9
    weights = pl.read_parquet(folder / "runs" / "mil" / "instances.parquet")
    assert sorted(weights["id"]) == sorted(store.samples["id"])
    assert weights["bag"].n_unique() == 12


@pytest.mark.parametrize("method", ["gradient", "attention"])
def test_explain_a_slide(cohort, method):
    """The relevance of tiles is drawn where they lie on the slide, and glass stays as it is."""
    folder, store, _ = cohort
    bag = store.samples["slide"][0]
    out = folder / f"{method}.png"
    found = api.explain(folder / "runs" / "mil", id=bag, method=method, out=out)
    own = store.samples.filter(pl.col("slide") == bag)
    assert sorted(found.words["Mean/image"]) == sorted(own["id"])
    assert len(found.relevance["Mean/image"]) == len(own)
    if method == "attention":
        assert found.relevance["Mean/image"].sum() == pytest.approx(1, abs=1e-5)
    assert f"of {len(own)} instances" in " ".join(found.lines())
    picture = np.asarray(Image.open(out)).astype(int)
    coloured = (picture.max(2) - picture.min(2)) > 12
    scale = picture.shape[1] / open_slide(tile_at(folder / store.samples["image"][0]).slide).width
    inside = np.zeros(coloured.shape, bool)
    for x, y, width in own.select("x", "y", "width").iter_rows():
        inside[int(y * scale) : int((y + width) * scale) + 1, int(x * scale) : int((x + width) * scale) + 1] = True
    assert coloured.any()
    assert not coloured[~inside].any()
    strongest = int(np.argmax(np.abs(found.relevance["Mean/image"])))
    x, y, width = own.filter(pl.col("id") == found.words["Mean/image"][strongest]).select("x", "y", "width").row(0)
    assert coloured[round((y + width / 2) * scale), round((x + width / 2) * scale)]


def test_explain_refuses_other_bags(cohort):
    """A slide that is not there, and a slide that has changed, are one line."""
    folder, store, _ = cohort
    with pytest.raises(InputError, match=r"no such slide .* Did you mean"):
        api.explain(folder / "runs" / "mil", id="slides/00.tif")
    other = folder / "other"
    shutil.copytree(folder / "slides", other / "slides", copy_function=shutil.copy)
    shutil.copytree(folder / "s.hw", other / "s.hw")
    shutil.copy(folder / "tiles.parquet", other)
    moved = embed(other / "s.hw", other / "tiles.parquet")
    pyramid(other / "slides" / "0.tif", pixels(700, 500, seed=77))
    with pytest.raises(InputError, match="the slide has changed since it was embedded"):
        api.explain(folder / "runs" / "mil", id="slides/0.tif", store=moved, out=other / "x.png")
    assert not (other / "x.png").exists()
    del store


def test_predict_new_slides(cohort, tmp_path):
    """New slides are predicted from a table of their tiles, one picture for each."""
    folder, _, _ = cohort
    for number, kind in enumerate(("pink", "purple")):
        pyramid(tmp_path / f"new{number}.tif", pixels(700, 500, kind, seed=50 + number))
    cut([tmp_path / "new0.tif", tmp_path / "new1.tif"], tmp_path / "new.parquet")
    found = api.predict(
        folder / "runs" / "mil", tmp_path / "new.parquet", heat_maps=tmp_path / "maps", trust_remote_code=True
    )
    assert dict(found.table.select("id", "predicted").iter_rows()) == {"new0.tif": "pink", "new1.tif": "purple"}
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == ["1-new0.tif.png", "2-new1.tif.png"]
    cut([tmp_path / "new0.tif"], tmp_path / "fine.parquet", mpp=0.25)
    with pytest.raises(SpecMismatch, match=r"preprocessing\.tiles"):
        api.predict(folder / "runs" / "mil", tmp_path / "fine.parquet", trust_remote_code=True)


def test_scores_of_tiles_over_their_slides(cohort, tmp_path):
    """For a head on tiles, predict draws the score of each tile over its slide: one picture per slide."""
    _, store, _ = cohort
    run = api.fit_head(
        store, features="Mean/image", label="label", groups="patient", folds=3, params={"C": 1.0}, out=tmp_path / "r"
    )
    found = api.predict(run, store, where="patient IN ('p0', 'p1')", heat_maps=tmp_path / "maps")
    assert len(found.heat_maps) == 2
    pictures = [np.asarray(Image.open(path)).astype(int) for path in sorted((tmp_path / "maps").iterdir())]
    red, blue = ((one[..., 0] - one[..., 2]).sum() for one in reversed(pictures))  # the second class is purple
    assert red > 0 > blue


def test_pictures_of_tiles(cohort, tmp_path, monkeypatch):
    """Similar cases are shown with the tiles themselves; digests come from the store's index of files."""
    folder, store, _ = cohort
    cases = Cases(store, "Mean/image")
    monkeypatch.setattr(digest, "_known", digest._known.__class__())
    picture = picture_of_sample(cases, 0)
    row = store.samples.row(0, named=True)
    expected = open_slide(folder / row["slide"]).region(row["x"], row["y"], row["width"], row["size"])
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
    api.similar(store, features="Mean/image", id=row["id"], k=3, out=tmp_path / "similar.html")
    assert (tmp_path / "similar.html").read_text().count("data:image/") >= 3


def test_a_content_gives_a_file_of_its_tile(cohort):
    """What asks for the file of a tile, such as the page of similar cases, gets a PNG of it."""
    folder, store, _ = cohort
    row = store.samples.row(5, named=True)
    content = Content(bytes.fromhex(row["image_key"]), folder / row["image"])
    from headwater.sources import read_image

    np.testing.assert_array_equal(np.asarray(read_image(content.file())), np.asarray(content.image()))


def test_store_is_read_without_slides(cohort):
    """The samples say of each tile where it is."""
    _, store, _ = cohort
    row = store.samples.row(0, named=True)
    assert row["image"] == f"{row['slide']}#tile={row['x']},{row['y']},{row['width']},{row['size']}"


# Slides are no images


def test_a_slide_is_not_squashed_in_silence(here):
    """A pyramid named as an image fails with a line that names the tiles command, unless resizing is asked for."""
    pyramid("a.tif", pixels(600, 500))
    Image.fromarray(pixels(100, 100)).save("b.png")
    Image.fromarray(pixels(90, 90)).save("c.mrxs", "JPEG")
    (here / "t.csv").write_text("image\na.tif\nb.png\nc.mrxs\n")
    done = embed(manifest="t.csv")
    assert done.results["Mean/image"].embedded == 1
    assert sorted(done.failed["Mean/image"]) == ["a.tif", "c.mrxs"]
    assert all("headwater tiles" in why for why in done.failed["Mean/image"].values())
    meant = embed("r.hw", "t.csv", steps=("resize=256x256",))
    assert meant.results["Mean/image"].embedded == 3


def test_huge_images_are_counted(here):
    """Images far larger than the encoder's input are counted in a warning, unless resizing is asked for."""
    Image.new("L", (2700, 2600), 99).save("large.png")
    Image.fromarray(pixels(100, 100)).save("small.png")
    (here / "t.csv").write_text("image\nlarge.png\nsmall.png\n")
    (warning,) = embed(manifest="t.csv", encoder="builtin:texture").to_dict()["warnings"]
    assert "1 of 2 images are more than 10 times as large as the 256 pixels" in warning
    assert "2,700 x 2,600" in warning
    assert "headwater tiles" in warning
    meant = embed("r.hw", "t.csv", encoder="builtin:texture", steps=("resize=256x256",))
    assert not meant.to_dict()["warnings"]


def test_tiles_and_images_are_not_mixed(here):
    """A manifest that names both is refused."""
    pyramid("a.tif")
    Image.fromarray(pixels(100, 100)).save("b.png")
    (here / "t.csv").write_text('image\n"a.tif#tile=0,0,128,64"\nb.png\n')
    with pytest.raises(ManifestError, match="tiles of slides and other images are mixed"):
        embed(manifest="t.csv")


def test_texts_with_tiles_have_no_geometry(here):
    """A column of texts beside tiles is embedded as any other."""
    pyramid("a.tif")
    cut("a.tif").table.with_columns(text=pl.lit("tissue")).write_parquet("tiles.parquet")
    store = embed(encoder="builtin:ngram")
    assert store.features("ngram/text").spec.tiles is None


def test_the_command(here, capsys, monkeypatch):
    """The commands of the page, typed: a table, then its features."""
    from headwater.cli import main

    pyramid("slides/a.tif")
    monkeypatch.setattr("sys.argv", ["headwater", *WORDS])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["n_tiles"] > 0


@pytest.mark.skipif(not DATA.exists(), reason="the shared slides are not here")
def test_real_slides(here):
    """A slide of Aperio and one of DICOM that OpenSlide refuses are cut, embedded, and read again."""
    assert len(cut(DATA / "small_HE.svs", "a.parquet", size=224).table) > 30
    assert len(cut(DATA / "small_dicom.dcm", "b.parquet", size=224, mpp_of_slide=0.5).table) > 40
    assert embed("a.hw", "a.parquet").n_failed == embed("b.hw", "b.parquet").n_failed == 0
    skipped = cut(DATA, "c.parquet", size=224).skipped
    assert list(skipped) == [str(DATA / "small_dicom.dcm")]  # the radiograph beside them is no slide
