"""Steps before an encoder."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.errors import InputError
from headwater.sources import make_histology
from headwater.sources.mammogram import breast_box, dark_to_zero, facing_left
from headwater.sources.stain import MACENKO_REFERENCE, macenko, macenko_of, reinhard, reinhard_of
from headwater.sources.steps import parse_steps


def mammogram(right=False):
    """A bright half disc at one side, a small label in the far corner, faint noise all over."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :200]
    grey = rng.integers(0, 12, (300, 200))
    grey[((y - 150) / 110) ** 2 + (x / 120) ** 2 < 1] = 140
    grey[20:34, 170:195] = 250
    if right:
        grey = grey[:, ::-1]
    return Image.fromarray(np.repeat(grey[..., None], 3, 2).astype(np.uint8))


def test_the_breast_is_found_and_the_label_is_not():
    """The box is that of the half disc, within the width of the search's pixels."""
    left, top, right, bottom = breast_box(mammogram())
    assert left == 0
    assert abs(top - 40) <= 3
    assert abs(right - 120) <= 3
    assert abs(bottom - 260) <= 3


def test_an_image_without_a_bright_region_is_kept_whole():
    """A blank image has no breast to crop to."""
    assert breast_box(Image.new("RGB", (30, 20))) == (0, 0, 30, 20)


def test_breasts_face_left():
    """An image of the other side becomes the mirror image; one that faces left stays."""
    one, other = mammogram(), mammogram(right=True)
    assert facing_left(one) is one
    np.testing.assert_array_equal(np.asarray(facing_left(other)), np.asarray(one))


def test_background_becomes_black():
    """Pixels below the threshold are 0, all others stay."""
    before, after = np.asarray(mammogram()), np.asarray(dark_to_zero(mammogram(), 40))
    assert (after[before < 40] == 0).all()
    np.testing.assert_array_equal(after[before >= 40], before[before >= 40])


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """Return painted tissue of two laboratories."""
    folder = tmp_path_factory.mktemp("tissue")
    make_histology(folder, n_patients=2, images_per_patient=1, magnifications=(200,), laboratories=2, seed=3)
    return [Image.open(file).convert("RGB") for file in sorted((folder / "images").iterdir())]


@pytest.mark.parametrize(("of", "to"), [(macenko_of, macenko), (reinhard_of, reinhard)])
def test_laboratories_come_to_look_alike(tissue, of, to):
    """Brought to the stains of the first, the second's mean colour is nearer to it than before."""
    one, other = tissue
    changed = to(other, of(one))
    mean = [np.asarray(image, float).mean((0, 1)) for image in (one, other, changed)]
    assert np.abs(mean[2] - mean[0]).sum() < 0.6 * np.abs(mean[1] - mean[0]).sum()


def test_macenko_finds_the_stains_that_an_image_was_made_of():
    """Colours and strengths of two stains are recovered from pixels that mix them."""
    rng = np.random.default_rng(0)
    amounts = rng.gamma(1.5, 0.5, (2, 10_000))
    amounts[:, :2000] *= np.array([[1.0], [0.0]])
    amounts[:, 2000:4000] *= np.array([[0.0], [1.0]])
    pixels = 240 * np.exp(-MACENKO_REFERENCE.vectors @ amounts) - 1
    image = Image.fromarray(np.clip(pixels.T.reshape(100, 100, 3), 0, 255).round().astype(np.uint8))
    found = macenko_of(image)
    cosines = (found.vectors * MACENKO_REFERENCE.vectors).sum(0)
    cosines /= np.linalg.norm(MACENKO_REFERENCE.vectors, axis=0)
    assert (cosines > 0.99).all()


def test_macenko_to_its_own_stains_changes_little(tissue):
    """An image brought to its own stains is what it was, but for what no two stains can make."""
    image = tissue[0]
    again = np.asarray(macenko(image, macenko_of(image)), float)
    assert np.abs(again - np.asarray(image)).mean() < 12


@pytest.mark.parametrize("change", [lambda i: macenko(i, MACENKO_REFERENCE), lambda i: breast_box(i) and i])
def test_glass_stays_glass(change):
    """An image without tissue is left as it is."""
    glass = Image.new("RGB", (40, 40), (245, 244, 246))
    np.testing.assert_array_equal(np.asarray(change(glass)), np.asarray(glass))


def test_steps_are_made_in_order_and_named(tmp_path, tissue):
    """A shorthand is spelled out; a file is named by what was taken from it; sizes are height x width."""
    steps = parse_steps(["mammogram", "resize=152x91"])
    assert steps.names == ("background=40", "breast", "orient=left", "resize=152x91")
    assert steps(mammogram(right=True)).size == (91, 152)
    tissue[0].save(tmp_path / "a.png")
    for kind in ("macenko", "reinhard"):
        taken = parse_steps([f"{kind}={tmp_path / 'a.png'}"])
        again = parse_steps(taken.names)  # without the file
        assert again.names == taken.names
        np.testing.assert_array_equal(np.asarray(again(tissue[1])), np.asarray(taken(tissue[1])))
    assert parse_steps(["macenko"]).names == ("macenko",)
    assert parse_steps([]) is None


@pytest.mark.parametrize(("kind", "of"), [("macenko", macenko_of), ("reinhard", reinhard_of)])
def test_a_reference_is_fitted_to_the_images_of_a_manifest(tissue, tmp_path, kind, of):
    """It lies between those of the images, in any order, past one that is glass; and is kept as numbers."""
    images = [*tissue, tissue[0].crop((0, 0, 96, 64)), Image.new("RGB", (64, 64), "white")]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    pl.DataFrame({"image": [f"{i}.png" for i in range(4)]}).write_csv(tmp_path / "training.csv")
    (tmp_path / "back.csv").write_text("image\n3.png\n2.png\n1.png\n0.png\n")
    (name,) = (steps := parse_steps([f"{kind}={tmp_path / 'training.csv'}"])).names
    assert parse_steps([f"{kind}={tmp_path / 'back.csv'}"]).names == (name,)
    each = np.array([of(image).numbers() for image in images[:3]])
    found = np.array([float(number) for number in name.partition("=")[2].split(",")])
    if kind == "reinhard":
        assert found == pytest.approx(np.median(each, axis=0), rel=1e-5)
    else:
        assert found[6:] == pytest.approx(np.median(each[:, 6:], axis=0), rel=1e-5)
        vectors = each[:, :6].reshape(3, 3, 2).mean(0)
        assert found[:6] == pytest.approx((vectors / np.linalg.norm(vectors, axis=0)).ravel(), rel=1e-5)
    np.testing.assert_array_equal(np.asarray(parse_steps([name])(tissue[0])), np.asarray(steps(tissue[0])))
    (tmp_path / "glass.csv").write_text("image\n3.png\n")
    with pytest.raises(InputError, match=r"from any of 1 images \(.*3\.png: too little tissue"):
        parse_steps([f"{kind}={tmp_path / 'glass.csv'}"])
    (tmp_path / "texts.csv").write_text("text\nred\n")
    with pytest.raises(InputError, match=rf"--step {kind}=.*texts\.csv: the manifest has no images"):
        parse_steps([f"{kind}={tmp_path / 'texts.csv'}"])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("blur", "There are: background"),
        ("resise=3x4", "Did you mean 'resize'"),
        ("resize=0x4", "resize=1520x912"),
        ("background=400", "background=40"),
        ("orient", "orient=left"),
        ("reinhard", "reinhard=FILE"),
        ("macenko=/nowhere.png", "no such file"),
    ],
)
def test_other_steps_are_refused(step, message):
    """A step that there is not is an error that says how to write one."""
    with pytest.raises(InputError, match=message):
        parse_steps([step])
