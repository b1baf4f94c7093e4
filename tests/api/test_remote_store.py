"""The commands, with a store in a bucket: they do what they do with one in a folder, and speak of its URL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.store import open_store

ROOT = Path(__file__).parents[2]
TEXTURE = ("--features", "texture/image")


def objects_of(s3, url, below="features.zarr"):
    """The objects of a store below a folder of it, with their bytes."""
    start = len(url) - len("s3://") + 1
    keys = [key for key in s3.find(f"{url}/{below}") if not key.endswith(".lock")]
    return {key[start:]: s3.cat_file(key) for key in keys}


def files_below(folder, below="features.zarr"):
    paths = [path for path in (folder / below).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def url(bucket):
    return f"{bucket}/gallery.hw"


@pytest.fixture
def done(command, tmp_path):
    """Return a function that runs a command which must succeed, and speak of no path of the cache."""

    def run(*words):
        ended = command(*words)
        assert ended.status == 0, ended
        assert "cache" not in ended.out + ended.err
        return ended.out

    return run


@pytest.fixture
def embedded(url, filled, s3):
    """A filled store that was copied into a bucket."""
    s3.put(str(filled), url, recursive=True)
    return url


def test_the_same_bytes_as_in_a_folder(url, filled, s3, gallery, done):
    """Features in a bucket are those of a folder to the byte; the command run again finds nothing to do."""
    for encoder in ("builtin:texture", "builtin:ngram"):
        out = done("embed", gallery / "manifest.csv", url, "--encoder", encoder)
        assert out.endswith(f"48 samples, in {url}\n")
    objects = objects_of(s3, url)
    expected = {name: data for name, data in files_below(filled).items() if "stub-16" not in name}
    assert objects == expected
    assert "48 already stored" in done("embed", gallery / "manifest.csv", url, "--encoder", "builtin:texture")
    assert objects_of(s3, url) == objects


def test_reading_commands(embedded, filled, done, tmp_path, monkeypatch):
    """From another machine fit-head, similar, info, export and verify give what they give of a folder."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "empty-c"))
    fit = (*TEXTURE, "--label", "grade", "--groups", "patient", "--folds", "3", "--json", "--out")
    here = json.loads(done("fit-head", filled, *fit, tmp_path / "here"))
    there = json.loads(done("fit-head", embedded, *fit, tmp_path / "there"))
    assert there["mean"] == here["mean"]
    assert json.loads((tmp_path / "there" / "config.json").read_text())["store"] == embedded
    search = (*TEXTURE, "--id", "s03", "-k", "5", "--json")
    assert done("similar", embedded, *search) == done("similar", filled, *search)
    found = json.loads(done("info", embedded, "--json"))
    same = json.loads(done("info", filled, "--json"))
    assert found["path"] == embedded
    assert found["features"]["texture/image"] == same["features"]["texture/image"]
    done("export", embedded, tmp_path / "out", *TEXTURE, "--format", "npy")
    done("export", filled, tmp_path / "same", *TEXTURE, "--format", "npy")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.npy")} == {
        p.name: p.read_bytes() for p in (tmp_path / "same").glob("*.npy")
    }
    assert done("verify", embedded) == f"{embedded}: all checksums match\n"
    assert done(
        "evaluate", tmp_path / "here", embedded, "--label", "grade", "--groups", "none", "--allow-leakage", "of a test"
    )


def test_an_index(embedded, done, tmp_path, monkeypatch):
    """An index that one machine built is searched by another, and goes with its features."""
    pytest.importorskip("faiss")
    assert embedded in done("index", embedded, *TEXTURE, "--kind", "flat")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))
    search = (*TEXTURE, "--id", "s03", "-k", "5", "--json")
    hits = [json.loads(done("similar", embedded, *search, *how)) for how in ((), ("--index", "flat"))]
    assert [hit["id"] for hit in hits[0]] == [hit["id"] for hit in hits[1]]
    open_store(embedded).remove_features("texture/image")
    assert not any((open_store(embedded).path / "index").rglob("*.faiss*"))


def test_gc(embedded, gallery, done, tmp_path, s3, monkeypatch):
    """Items that a shorter manifest lacks are dropped from the bucket; the rest is as it was."""
    before = np.asarray(open_store(embedded).read("texture/image", where="age < 50").X[:])
    table = pl.read_csv(gallery / "manifest.csv").with_columns(image=f"{gallery}/" + pl.col("image")).head(20)
    table.write_csv(tmp_path / "few.csv")
    open_store(embedded).remove_features("stub-16/image")
    done("embed", tmp_path / "few.csv", embedded, "--encoder", "builtin:texture")
    assert "would drop 28 items of texture/image" in done("gc", embedded)
    assert "dropped 28 items of texture/image" in done("gc", embedded, "--yes")
    assert not any("compacted" in key for key in s3.find(embedded))
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))
    store = open_store(embedded)
    assert store.features("texture/image").n_items == 20
    assert np.array_equal(np.asarray(store.read("texture/image").X[:]), before)
    assert "all checksums match" in done("verify", embedded)


def test_repair(embedded, gallery, command, done, s3):
    """A byte that is flipped in the bucket is found by verify, and mended by --repair from the files."""
    place = f"{embedded}/features.zarr/texture/image/pooled/c.0.0"
    whole = s3.cat_file(place)
    s3.pipe_file(place, whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
    refused = command("verify", embedded, "--repair")  # copied from a folder, it does not know where its images are
    assert refused.status == 1
    assert "the images of texture/image are missing, such as " in refused.err
    s3.pipe_file(place, whole)
    done("embed", gallery / "manifest.csv", embedded, "--encoder", "builtin:texture")
    right = objects_of(s3, embedded)
    place = f"{embedded}/features.zarr/texture/image/pooled/c.0.0"
    data = bytearray(s3.cat_file(place))
    data[9] ^= 1
    s3.pipe_file(place, bytes(data))
    ended = command("verify", embedded)
    assert ended.status == 1
    assert "block 0 of pooled differs from its checksum" in ended.out + ended.err
    assert command("fit-head", embedded, *TEXTURE, "--label", "grade", "--groups", "none").status == 1
    assert "all checksums match now" in done("verify", embedded, "--repair")
    assert objects_of(s3, embedded) == right


def test_repair_of_a_key(embedded, command, done, s3):
    """A key that is damaged in the bucket is refused when it is read, and found again by --repair."""
    right = objects_of(s3, embedded)
    place = f"{embedded}/features.zarr/texture/image/keys/c.0.0"
    data = bytearray(s3.cat_file(place))
    data[40] ^= 1
    s3.pipe_file(place, bytes(data))
    ended = command("fit-head", embedded, *TEXTURE, "--label", "grade", "--groups", "none")
    repair = f"Run: headwater verify {embedded} --repair"
    assert ended.error == f"headwater: texture/image: keys differs from its checksum. {repair}"
    assert "all checksums match now" in done("verify", embedded, "--repair")
    assert objects_of(s3, embedded) == right


def test_import(url, done, tmp_path, monkeypatch):
    """Vectors of another tool are imported into a bucket."""
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    pl.DataFrame({"id": [f"r{i}" for i in range(30)]}).write_csv(tmp_path / "table.csv")
    done("import", tmp_path / "vectors.npy", url, "--name", "made", "--table", tmp_path / "table.csv")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))
    assert np.array_equal(np.asarray(open_store(url).read("made/image").X[:]), vectors)


def test_killed(url, filled, gallery, s3, tmp_path):
    """After kill -9 the same command goes on, from an empty cache too, and ends in the bytes of a whole run."""
    line = [sys.executable, "-m", "headwater", "embed", str(gallery / "manifest.csv"), url]
    line += ["--encoder", "stub:16"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    kills = 0
    for begun in ("store.json", "features.zarr/stub-16/image/pooled/c.0.0"):
        env["HEADWATER_CACHE"] = str(tmp_path / f"until {len(begun)}")
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        while not s3.exists(f"{url}/{begun}") and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 2, "the run was over before it was killed"
    env["HEADWATER_CACHE"] = str(tmp_path / "last")
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    expected = {name: data for name, data in files_below(filled).items() if "stub-16" in name or name.count("/") == 1}
    assert objects_of(s3, url) == expected


def test_samples_and_groups(embedded, gallery, done, tmp_path, monkeypatch):
    """The table of samples is replaced in the bucket, and groups are written into it."""
    table = pl.read_csv(gallery / "manifest.csv").with_columns(image=f"{gallery}/" + pl.col("image"), grade=pl.lit("x"))
    table.head(20).write_csv(tmp_path / "few.csv")
    assert f"20 samples, in {embedded}" in done("samples", embedded, tmp_path / "few.csv")
    done("audit", embedded, *TEXTURE, "--groups", "none", "--groups-out", "together")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "another"))
    store = open_store(embedded)
    assert store.samples["grade"].to_list() == ["x"] * 20
    assert store.samples["together"].null_count() == 0
    assert store.about.made == {"together": "audit"}
