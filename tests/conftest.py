"""Fixtures shared by several folders: tiny encoders of every kind, the command line in this process, made stores."""

import importlib.util
import logging
import os
import sys
import tempfile
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.cli import main
from headwater.store import BlockResult, FeatureSpec, Roles, create_store, hex_from_keys
from tests.extras import ABSENT, pytest_ignore_collect, pytest_runtest_call, pytest_runtest_setup
from tests.models import MEMBERS

__all__ = ["pytest_ignore_collect", "pytest_runtest_call", "pytest_runtest_setup"]  # hooks, found here by pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a test process a core: more threads would spin
CACHE = tempfile.TemporaryDirectory(prefix="headwater-tests-")
os.environ["HEADWATER_CACHE"] = CACHE.name  # never the user's own
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network fails at once, instead of after retries


@pytest.fixture(scope="session", autouse=True)
def no_disk_is_waited_for():
    """Let ``fsync`` do nothing but look at its file: what tests kill is processes, and the system outlives these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a member's name to its `Tiny`, built when it is first asked for."""
    built = {}

    def build(name):
        if name not in built:
            if importlib.util.find_spec("torch"):
                import torch

                torch.manual_seed(zlib.crc32(name.encode()))  # what `scatter` only adds to is drawn by the library
            built[name] = MEMBERS[name](tmp_path_factory.mktemp(name))
        return built[name]

    return build


@pytest.fixture(scope="session")
def picture():
    """Return a function that saves a smooth random image, the same for the same seed."""

    def save(path, seed, size=(72, 64)):
        random = np.random.default_rng(zlib.crc32(f"picture {seed}".encode()))
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def image_files(tmp_path_factory, picture):
    """Return some images of different sizes and colours, as files."""
    folder = tmp_path_factory.mktemp("images")
    return [picture(folder / f"{i}.png", i, size) for i, size in enumerate([(90, 70), (64, 64), (41, 120), (200, 150)])]


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
def resized_by_pillow(monkeypatch):
    """Let encoders resize images as their libraries do; tests/embed/test_preprocess.py compares both."""
    monkeypatch.setattr("headwater.embed._preprocess._size_from", lambda step, image: None)


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
        done = Done(status, *capsys.readouterr())
        if ABSENT and "is not installed. Run: pip install 'headwater[" in done.err:
            pytest.skip(done.error)
        return done

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


ENDPOINT, BUCKET = "HEADWATER_TEST_S3_ENDPOINT", "HEADWATER_TEST_S3_BUCKET"
"""Environment variables: the S3 endpoint to test instead of moto's, and a bucket there; see docs/buckets.md."""
GIVEN = {name: os.environ.get(name, "") for name in (ENDPOINT, BUCKET)}  # the fixture `s3` hides them from the tests


@pytest.fixture(scope="session")
def s3_server():
    """The URL of an S3 server: the one that the environment names, or one that the first test starts."""
    if bool(GIVEN[ENDPOINT]) != bool(GIVEN[BUCKET]):
        pytest.fail(f"set both {ENDPOINT} and {BUCKET}, or neither")
    pytest.importorskip("s3fs")
    if GIVEN[ENDPOINT]:
        yield GIVEN[ENDPOINT]
        return
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A plain client of that server, which this process and those that it starts use from now on."""
    import s3fs

    ours = ("HEADWATER_",) if GIVEN[ENDPOINT] else ("AWS_", "FSSPEC_", "HEADWATER_")
    for name in [name for name in os.environ if name.startswith(ours) and name != "HEADWATER_CACHE"]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if GIVEN[ENDPOINT]:  # credentials and region are those of the environment
        settings = {"AWS_ENDPOINT_URL": s3_server}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    """The URL of an empty bucket, or of an empty prefix; what is read from it is cached in ``tmp_path / "cache"``."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    name = f"b{uuid.uuid4().hex[:12]}"
    if not GIVEN[ENDPOINT]:
        s3.mkdir(name)
        yield f"s3://{name}"
        return
    place = f"{GIVEN[BUCKET].removeprefix('s3://').strip('/')}/headwater-tests/{name}"
    yield f"s3://{place}"
    own = type(s3)(use_listings_cache=False, skip_instance_cache=True)  # a test may have patched the other
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(own.rm_file, own.find(place)))


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


@pytest.fixture(scope="session")
def files_of():
    """Return a function that reads every file below a folder."""
    return _files_of


@pytest.fixture
def write_features():
    """Return a function that writes vectors into a store as a run would."""
    return _write_features
