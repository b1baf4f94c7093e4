"""Stores and runs whose JSON somebody changed: each command ends well, or in one line, never in a traceback.

Checksums are made anew after a change, as somebody would who means it.
"""

import hashlib
import io
import json
import random
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest

from headwater.store.journal import written

ARCHIVE = Path(__file__).parents[1] / "data" / "first.tar.xz"
DEEP = json.loads("[" * 90 + "]" * 90)
VALUES = [None, -1, 0, 1, 10**30, -(10**30), 1e308, float("nan"), float("inf"), 0.5, "", "x", "../../../etc/passwd"]
VALUES += ["float128", "x" * 70_000, "a\nb", "\ud800", [], {}, [[]], [None], {"a": None}, DEEP, True, [1, 2, 3], ["x"]]
STORE = {
    "store.json": "json",
    "features.zarr/zarr.json": "json",
    "features.zarr/clip/image/zarr.json": "json",
    "features.zarr/clip/text/tokens/values/zarr.json": "json",
    "features.zarr/small/image/pooled/zarr.json": "json",
    "journal/clip/image.jsonl": "lines",
    "journal/clip/text.jsonl": "lines",
    "journal/small/image.jsonl": "lines",
    "samples.sum.json": "json",
    "samples.parquet": "words",
    "index/clip/image.flat.faiss.json": "index",
}
ON_A_STORE = [
    ["info", "STORE"],
    ["verify", "STORE"],
    ["similar", "STORE", "--features", "clip/image", "--id", "r0", "-k", "2", "--index", "flat"],
    ["similar", "STORE", "--features", "clip/text", "--id", "r0", "-k", "2"],
    ["fit-head", "STORE", "--features", "clip/image", "--label", "label", "--groups", "patient", "--folds", "2"],
    ["fit-head", "STORE", "--features", "small/image", "--label", "label", "--groups", "none", "--folds", "2"],
    ["export", "STORE", "OUT", "--features", "clip/text"],
]
RUNS = {
    "linear": ["config.json", "metrics.json", "head.json", "decision.json"],
    "mlp": ["head.json"],
    "knn": ["head.json"],
    "prototypes": ["head.json"],
    "xgboost": ["head.json"],
    "co-attention": ["config.json", "head.json"],
    "mil": ["config.json", "head.json", "metrics.json"],
    "ridge": ["metrics.json", "head.json"],
    "tip-adapter": ["head.json"],
    "zero-shot": ["metrics.json", "head.json"],
    "evaluated": ["metrics.json", "config.json"],
    "fine-tuned": ["config.json", "metrics.json", "encoder/0/adapter.json"],
    "sweep": ["config.json"],
}
ON_A_RUN = [
    ["evaluate", "RUN", "STORE", "--label", "label", "--groups", "patient", "--allow-leakage", "its own rows"],
    ["compare", "RUN", "RUNS/prototypes"],
    ["explain", "RUN", "--store", "STORE", "--id", "r0"],
    ["plot", "RUN"],
]
ON_FINE_TUNED = [
    ["embed", "TABLE", "STORE", "--encoder", "builtin:clip", "--adapter", "RUN", "--name", "tuned"],
]
ON_A_SWEEP = [
    [
        *("sweep", "STORE", "--features", "plain/image", "--features", "texture/image", "--label", "label"),
        *("--groups", "patient", "--folds", "2", "--inner-folds", "2", "--out", "RUN"),
    ],
]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "first"


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value[:3]):
            yield from places(part, (*path, number))


def mutated(value, draw):
    """Return a JSON value with one place changed: another value, gone, or one more."""
    made = json.loads(json.dumps(value))
    inside = [place for place in places(value) if place]
    if not inside:
        return draw.choice(VALUES)
    *above, last = draw.choice(inside)
    part = made
    for key in above:
        part = part[key]
    kind = draw.randrange(8)
    if kind == 0 and isinstance(part, dict):
        del part[last]
    elif kind == 1 and isinstance(part, dict):
        part["one more"] = draw.choice(VALUES)
    else:
        part[last] = draw.choice(VALUES)
    return made


def change(path, kind, draw):
    """Change a file, and make its checksum anew."""
    if kind == "json":
        path.write_text(json.dumps(mutated(json.loads(path.read_text()), draw)))
    elif kind == "lines":
        lines = path.read_bytes().splitlines()
        chosen = draw.randrange(len(lines))
        value = mutated({k: v for k, v in json.loads(lines[chosen]).items() if k != "sum"}, draw)
        lines[chosen] = json.dumps({"sum": "x"} | value).encode() if draw.randrange(4) == 0 else encoded(value)
        path.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
    elif kind == "index":
        value = mutated(json.loads(path.read_text()), draw)
        rest = {k: v for k, v in value.items() if k != "sum"}
        sum_ = hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()
        path.write_text(json.dumps(rest | {"sum": sum_}))
    else:
        table, words = pl.read_parquet(path), pl.read_parquet_metadata(path)
        metadata = {name: words[name] for name in ("headwater", "unreadable")}
        chosen = draw.choice(list(metadata))
        metadata[chosen] = json.dumps(mutated(json.loads(metadata[chosen]), draw))
        if draw.randrange(2):
            column = draw.choice(["image_key", "text_key", "id", "label", "patient"])
            other = draw.choice([pl.lit(None), pl.lit("zz"), pl.lit(1.5), pl.lit([1]), pl.lit("\x00" * 32)])
            table = table.with_columns(other.alias(column))
        data = io.BytesIO()
        table.write_parquet(data, metadata=metadata)
        path.write_bytes(data.getvalue())
        path.with_name("samples.sum.json").unlink(missing_ok=True)


def encoded(value):
    try:
        return written(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def ends_in_a_line(command, words):
    """Run a command; it may fail, in one line."""
    done = command(*words)
    if done.status:
        assert done.status == 1 or words[0] == "plot", (words, done)
        assert "Traceback" not in done.err
        if words[0] == "verify":  # which found something
            assert "differ from their checksums" in done.out or done.err.startswith("headwater: ")
            return
        assert done.err.strip().splitlines()[-1].startswith("headwater: "), (words, done.err[-2000:])
        assert len(done.err) < 4000, (words, len(done.err))


def edit_stores(first, command, tmp_path, seed, n):
    draw = random.Random(seed)
    for number in range(n):
        name = draw.choice(list(STORE))
        path = first / "store.hw" / name
        kept = {p: p.read_bytes() for p in (first / "store.hw").rglob("*") if p.is_file() and p.stat().st_size < 50_000}
        try:
            change(path, STORE[name], draw)
            for words in draw.sample(ON_A_STORE, 3):
                place = {"STORE": first / "store.hw", "OUT": tmp_path / f"out{number}"}
                ends_in_a_line(command, [place.get(word, word) for word in words])
        except BaseException as error:
            error.add_note(f"seed {seed}, edit {number} of {name}: {path.read_bytes()[:3000]!r}")
            raise
        finally:
            for p, data in kept.items():
                p.write_bytes(data)


def edit_runs(first, command, tmp_path, seed, n):
    draw = random.Random(seed)
    for number in range(n):
        name = draw.choice(list(RUNS))
        run = shutil.copytree(first / "runs" / name, tmp_path / f"run{number}")
        path = run / draw.choice(RUNS[name])
        try:
            change(path, "json", draw)
            commands = {"fine-tuned": ON_FINE_TUNED, "sweep": ON_A_SWEEP}.get(name, ON_A_RUN)
            for words in draw.sample(commands, min(2, len(commands))):
                place = {"STORE": first / "store.hw", "RUN": run, "TABLE": first / "table.csv"}
                words = [place.get(word, word) for word in words]
                ends_in_a_line(command, [str(word).replace("RUNS/", f"{first}/runs/") for word in words])
        except BaseException as error:
            error.add_note(f"seed {seed}, edit {number} of {name}/{path.name}: {path.read_bytes()[:3000]!r}")
            raise
        finally:
            shutil.rmtree(run)


def test_some_edited_stores(first, command, tmp_path):
    """A store of which one value was changed opens, or is refused in one line."""
    edit_stores(first, command, tmp_path, 0, 12)


def test_some_edited_runs(first, command, tmp_path):
    """A run of which one value was changed is used, or is refused in one line."""
    edit_runs(first, command, tmp_path, 0, 12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_edited_stores(first, command, tmp_path, seed):
    """A hundred edited stores end well, or in one line."""
    edit_stores(first, command, tmp_path, seed, 50)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_edited_runs(first, command, tmp_path, seed):
    """A hundred edited runs end well, or in one line."""
    edit_runs(first, command, tmp_path, seed, 50)
