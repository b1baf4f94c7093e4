"""The command line in this process, and data that several files share: images, a manifest, stores."""

import shutil
import sys
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.cli import main
from headwater.store import BlockResult, FeatureSpec, Roles, create_store, hex_from_keys

N = 48
N_FEW = 16


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    status: int
    out: str
    err: str

    @property
    def error(self):
        """The one line that it failed with."""
        last = self.err.splitlines()[-1]
        assert last.startswith("headwater: ")
        assert "Traceback" not in self.err
        return last


@pytest.fixture
def command(capsys, monkeypatch):
    """Return a function that runs a command line as a terminal would, in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["headwater", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that runs a command which must fail with one line, status 1, and change no file."""

    def run(*words, status=1):
        before = _files_of(tmp_path)
        done = command(*words)
        assert done.status == status, done
        assert _files_of(tmp_path) == before, "something was written"
        return done.error

    return run


def _files_of(folder):
    """Every file below a folder with its bytes, and every folder; locks and the cache of files hold nothing of ours."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if p.suffix != ".lock" and p.name != "files.parquet"
    }


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
            "caption": [f"{('smooth', 'rough')[i % 2]} tissue, field {i % 7}" for i in range(n)],
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
def images(gallery, tmp_path):
    """A copy of the first rows of the gallery that a test may change."""
    folder = tmp_path / "gallery"
    (folder / "images").mkdir(parents=True)
    for i in range(N_FEW):
        shutil.copy(gallery / "images" / f"{i:02d}.png", folder / "images")
    table_of(N_FEW).write_csv(folder / "manifest.csv")
    return folder


def _write_features(store, name, X, keys, **spec):
    """Write vectors into a store as a run would."""
    modality = name.split("/")[1]
    described = FeatureSpec(**{"encoder": "test:made", "modality": modality, "dim": X.shape[1], **spec})
    with store.require_features(name, described, len(X)).writing() as writer:
        writer.set_environment({})
        for task in writer.plan(keys):
            writer.commit(task, BlockResult(task.rows, X[task.rows]))


def _keys_of(n, start=0):
    """Return distinct content keys."""
    words = np.arange(start, start + n, dtype="<u8") * np.uint64(0x9E3779B97F4A7C15)
    return np.ascontiguousarray(np.column_stack([words, words])).view(np.uint8)


@pytest.fixture
def make_store(tmp_path):
    """Return a function that makes a store of given vectors and columns, no image behind it."""

    def make(X, name="made/image", path="made.hw", first_key=0, **columns):
        store = create_store(tmp_path / path)
        keys = _keys_of(len(X), first_key)
        hexed = pl.Series(hex_from_keys(keys), dtype=pl.String)
        none = pl.Series([None] * len(X), dtype=pl.String)
        table = pl.DataFrame({"id": [f"r{i:03d}" for i in range(len(X))], **columns})
        table = table.with_columns(image=hexed + ".png", image_key=hexed, text_key=none)
        store.write_samples(table, Roles("id", "image", None, "/"))
        _write_features(store, name, np.asarray(X, np.float32), keys, dtype="float32")
        return store

    return make


@pytest.fixture
def files_of():
    """Return a function that reads every file below a folder."""
    return _files_of


@pytest.fixture(scope="session")
def paint():
    """Return a function that saves a random image."""
    return _paint


@pytest.fixture
def write_features():
    """Return a function that writes vectors into a store as a run would."""
    return _write_features
