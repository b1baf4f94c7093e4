"""Features that are nearly the same for every item are said to be, with the levels of the images and what to do."""

import numpy as np
import pytest
from PIL import Image

from headwater.api import embed, fit_head
from headwater.embed import Content, content_key
from headwater.embed.constant_features import mean_cosine
from headwater.errors import ImageError, InputError
from headwater.sources import read_image
from headwater.sources.reading import Reading
from headwater.sources.steps import parse_steps

N = 6


def scene(seed):
    """Return grey levels from 0 to 1, different for each seed, of shape (64, 64)."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(coarse, float) / 255


def rgba(grey, alpha):
    return Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, alpha)]).astype(np.uint8))


KINDS = {
    "12 bits in 16": lambda x: Image.fromarray((x * 4095).astype(np.uint16)),
    "10 bits in 16": lambda x: Image.fromarray((x * 1023).astype(np.uint16)),
    "transparent": lambda x: rgba(x * 255, 0),
    "nearly transparent": lambda x: rgba(x * 255, 12),
    "black": lambda x: Image.fromarray((x * 2).astype(np.uint8)),
    "saturated": lambda x: Image.fromarray((240 + x * 15).astype(np.uint8)),
    "flat": lambda x: Image.fromarray((120 + x * 9).astype(np.uint8)),
    "8 bits": lambda x: Image.fromarray((x * 255).astype(np.uint8)),
    "16 bits": lambda x: Image.fromarray((x * 65535).astype(np.uint16)),
    "pale": lambda x: Image.fromarray((100 + x * 150).astype(np.uint8)),
    "opaque": lambda x: rgba(x * 255, 255),
    "mostly white": lambda x: Image.fromarray(np.where(x > 0.3, 255, x * 255).astype(np.uint8)),
}
SAID = {
    "12 bits in 16": "brightest 1",
    "10 bits in 16": "nearly black. If they hold 12-bit samples in 16-bit files, pass --step bits=12",
    "transparent": "darkest 255, brightest 255 of 255). The images are nearly white. Transparent pixels become white",
    "nearly transparent": "nearly white. Transparent pixels become white",
    "black": "The images are nearly black.",
    "saturated": "nearly white. Transparent pixels become white: if there are any, export the images without "
    "transparency; otherwise check the exposure.",
    "flat": "The images have hardly any contrast. Check how they were exported.",
}


@pytest.fixture
def made(tmp_path):
    """Return a function that writes a manifest of images of one kind."""

    def write(kind):
        for i in range(N):
            KINDS[kind](scene(i)).save(tmp_path / f"{i}.png")
        rows = [f"{i},{i}.png,{'ab'[i % 2]},{i}" for i in range(N)]
        (tmp_path / "m.csv").write_text("\n".join(["id,image,label,patient", *rows]))
        return tmp_path / "m.csv"

    return write


BY_BOTH = ("12 bits in 16", "transparent", "flat", "8 bits", "pale")  # of the others one encoder says enough
CASES = [(kind, "builtin:clip") for kind in KINDS] + [(kind, "builtin:texture") for kind in BY_BOTH]
CASES += [pytest.param(kind, "builtin:texture", marks=pytest.mark.slow) for kind in KINDS if kind not in BY_BOTH]


@pytest.mark.parametrize(("kind", "encoder"), CASES)
def test_images_that_show_nothing(made, tmp_path, kind, encoder):
    """Images of a few levels are warned of with these levels; images that show something are not."""
    done = embed(made(kind), tmp_path / "a.hw", encoder=encoder, name="f", device="cpu")
    warned = [line for line in done.lines() if line.startswith("warning: ")]
    if kind not in SAID:
        assert warned == []
        return
    (line,) = warned
    assert line.startswith("warning: f/image: items are nearly the same (mean cosine ")
    assert SAID[kind] in line
    assert done.to_dict()["warnings"] == [line.removeprefix("warning: ")]
    assert "\n" not in line


def test_the_step_that_is_advised_helps(made, tmp_path):
    """Read as 12 bits, the images are those that 8 bits show, and nothing is warned of."""
    manifest = made("12 bits in 16")
    done = embed(manifest, tmp_path / "a.hw", encoder="builtin:clip", name="f", steps=["bits=12"], device="cpu")
    assert not done.alike
    wide = done.read("f/image").X[:]
    again = embed(made("8 bits"), tmp_path / "b.hw", encoder="builtin:clip", name="f", device="cpu")
    plain = again.read("f/image").X[:]
    cosines = np.sum(wide * plain, 1, dtype=float) / np.linalg.norm(wide, axis=1) / np.linalg.norm(plain, axis=1)
    assert (cosines > 0.99).all()


def test_stored_features_that_are_alike(make_store):
    """``fit-head`` warns of an input that is nearly constant, by name, and of no other."""
    random = np.random.default_rng(0)
    labels = {"label": list("ab" * 20), "patient": [str(i) for i in range(40)]}
    for spread, warned in ((1.0, False), (0.1, False), (0.003, True), (0.0, True)):
        X = 1 + spread * random.normal(size=(40, 16))
        store = make_store(X, path=f"s{spread}.hw", **labels)
        run = fit_head(store, features="made/image", label="label", groups="patient", folds=2)
        found = [line for line in run.metrics["warnings"] if "nearly the same features" in line]
        assert bool(found) == warned, spread
        assert all("made/image: " in line and "--step bits=12" in line for line in found)


def test_the_mean_cosine_by_hand():
    """It is the mean over all pairs of different rows, rows of zeros being the same as each other."""
    X = np.random.default_rng(0).normal(size=(7, 3)) + 1
    X[2] = X[5] = 0
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]

    def cosine(one, other):
        scale = np.linalg.norm(one) * np.linalg.norm(other)
        return one @ other / scale if scale else float(not one.any() and not other.any())

    assert mean_cosine(X) == pytest.approx(np.mean([cosine(X[i], X[j]) for i, j in pairs]))
    assert np.isnan(mean_cosine(X[:1]))


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_bits(tmp_path, bits):
    """Samples of N bits in a 16-bit PNG, TIFF or PGM are scaled by 2 ** N - 1; 8-bit files stay as they are."""
    top = (1 << bits) - 1
    samples = np.array([[0, top // 3, top]], np.uint16)
    expected = np.round(samples.astype(float) * 255 / top).astype(int).tolist()
    for name in ("a.png", "a.tif"):
        Image.fromarray(samples).save(tmp_path / name)
        assert np.asarray(read_image(tmp_path / name, reading=Reading(bits)))[:, :, 0].tolist() == expected
    pgm = b"P5 3 1 65535 " + samples.astype(">u2").tobytes()
    assert np.asarray(read_image(pgm, reading=Reading(bits)))[:, :, 0].tolist() == expected
    Image.fromarray(np.array([[0, 100, 255]], np.uint8)).save(tmp_path / "b.png")
    assert np.asarray(read_image(tmp_path / "b.png", reading=Reading(bits)))[:, :, 0].tolist() == [[0, 100, 255]]
    if bits < 16:
        Image.fromarray(samples * 2).save(tmp_path / "c.png")
        with pytest.raises(ImageError, match=rf"more than {bits} bits: pass --step bits={bits + 1}"):
            read_image(tmp_path / "c.png", reading=Reading(bits))


def test_bits_as_a_step(tmp_path):
    """The step comes first and once, of 9 to 16 bits, and says how files are read."""
    steps = parse_steps(["bits=12", "orient=left"])
    assert (steps.reading.bits, steps.names) == (12, ("bits=12", "orient=left"))
    assert parse_steps(["orient=left"]).reading.bits is None
    for words in (["orient=left", "bits=12"], ["bits=12", "bits=12"], ["bits=8"], ["bits=17"], ["bits"], ["bits=x"]):
        with pytest.raises(InputError, match=r"--step"):
            parse_steps(words)
    Image.fromarray(np.full((2, 2), 4095, np.uint16)).save(tmp_path / "a.png")
    content = Content(content_key((tmp_path / "a.png").read_bytes()), tmp_path / "a.png")
    assert content.image(Reading(12)).getpixel((0, 0)) == (255, 255, 255)
