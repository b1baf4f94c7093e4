"""Data that several files share: images, a manifest, stores."""

import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

N = 48
N_FEW = 16


def _paint(path, seed, coarse=6):
    """Save a random image of ``coarse`` times ``coarse`` squares, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = np.random.default_rng(seed).integers(0, 256, (coarse, coarse, 3), np.uint8)
    Image.fromarray(squares).resize((48, 48), Image.Resampling.NEAREST).save(path)
    return path


def table_of(n=N):
    """The rows of the manifest that `gallery` holds: grade is seen in the image, four rows a patient."""
    return pl.DataFrame(
        {
            "id": [f"s{i:02d}" for i in range(n)],
            "image": [f"images/{i:02d}.png" for i in range(n)],
            "patient": [f"p{i // 4}" for i in range(n)],
            "grade": [("low", "high")[i % 2] for i in range(n)],
            "age": [30 + i for i in range(n)],
            "site": ["north" if i < n // 2 else "south" for i in range(n)],
            # one in eight says the other: a word that tells the label almost always would be refused
            "caption": [f"{('smooth', 'rough')[i % 8 in (1, 3, 5)]} tissue, field {i % 7}" for i in range(n)],
            "tags": [("a;b", "b", "c")[i % 3] for i in range(n)],
            "same": ["x"] * n,
            "empty": pl.Series([None] * n, dtype=pl.String),
        }
    )


@pytest.fixture(scope="session")
def gallery(tmp_path_factory):
    """A folder of images with a manifest; nobody writes to it."""
    folder = tmp_path_factory.mktemp("gallery")
    for i in range(N):
        _paint(folder / "images" / f"{i:02d}.png", i, coarse=(6, 10)[i % 2])
    table_of().write_csv(folder / "manifest.csv")
    return folder


@pytest.fixture(scope="session")
def filled(gallery, tmp_path_factory):
    """A store of the gallery: texture of the images, n-grams of the captions, a stub of both; nobody writes to it."""
    from headwater.api import embed

    path = tmp_path_factory.mktemp("filled") / "gallery.hw"
    for encoder in ("builtin:texture", "builtin:ngram", "stub:16"):
        embed(gallery / "manifest.csv", path, encoder=encoder)
    return path


@pytest.fixture
def store(filled, tmp_path):
    """A copy of the filled store that a test may write to."""
    return shutil.copytree(filled, tmp_path / "gallery.hw")


@pytest.fixture
def quick_texture(monkeypatch):
    """Let ``builtin:texture`` look at 64 pixels a side instead of 256, in this process: a sixteenth of the work."""
    monkeypatch.setattr("headwater.embed.builtin.TextureEncoder.SIDES", (64, 32, 16))


@pytest.fixture
def images(gallery, tmp_path):
    """A copy of the first rows of the gallery that a test may change."""
    folder = tmp_path / "gallery"
    (folder / "images").mkdir(parents=True)
    for i in range(N_FEW):
        shutil.copy(gallery / "images" / f"{i:02d}.png", folder / "images")
    table_of(N_FEW).write_csv(folder / "manifest.csv")
    return folder


@pytest.fixture(scope="session")
def paint():
    """Return a function that saves a random image."""
    return _paint
