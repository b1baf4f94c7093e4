"""Single flipped bits in every kind of file of a store: verify finds each, and no reader returns other values."""

import random
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.api import embed, index, similar, verify
from headwater.errors import HeadwaterError
from headwater.store import FileIndex, open_store

N = 70


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of pooled features, tokens, ragged ones, int8 and bfloat16, failed items, samples and indexes."""
    folder = tmp_path_factory.mktemp("flips")
    (folder / "images").mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for i in range(N):
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"images/{i}.png")
        rows.append({"id": f"r{i}", "image": f"images/{i}.png", "text": f"{'left right mass benign'[: i % 22]} {i}"})
    (folder / f"images/{N - 1}.png").write_bytes(b"no image")
    pl.DataFrame(rows).with_columns(age=pl.Series(range(N))).write_csv(folder / "m.csv")
    table, path = folder / "m.csv", folder / "a.hw"
    embed(table, path, encoder="builtin:clip", tokens="2", batch_size=16)
    embed(table, path, encoder="builtin:clip", tokens="all", tokens_dtype="int8", name="small", batch_size=16)
    embed(table, path, encoder="builtin:clip", tokens="2", tokens_dtype="bfloat16", name="wide", batch_size=16)
    for kind in ("flat", "hnsw"):
        index(path, features="clip/image", kind=kind)
    assert verify(path) == []
    return path


def counted_bytes(path, store):
    """Return the bytes of a file that mean something, as ranges: the rest of a block that is not full holds nothing."""
    size = path.stat().st_size
    if not path.name.startswith("c."):
        return [(0, size)]
    base, modality, *part = path.parent.relative_to(store / "features.zarr").parts
    features = open_store(store).features(f"{base}/{modality}")
    part, number, n = "/".join(part), int(path.name.split(".")[1]), features.n_items
    if part in ("keys", "tokens/offsets", "tokens/lengths", "status"):
        width = {"keys": 16, "status": 1}.get(part, 8)
        return [(0, width * n if part != "status" else min(features.block_rows, n - number * features.block_rows))]
    stored = np.flatnonzero(features.status == 1)
    if part in ("tokens/values", "tokens/scales"):
        rows, array = features.token_parts[part].chunk_rows, features.token_parts[part]
        width = size // rows
        offsets, lengths = features.token_places
        places = np.concatenate([np.arange(offsets[i], offsets[i] + lengths[i]) for i in stored]) - number * rows
        assert len(array)
    else:
        rows = features.block_rows
        width, places = size // rows, stored - number * rows
    return [(int(p) * width, (int(p) + 1) * width) for p in places if 0 <= p < rows]


def everything(store):
    """Return all that a reader can be given of a store."""
    opened = open_store(store)
    found = [opened.samples.to_dict(as_series=False), opened.roles, dict(opened.unreadable)]
    for name in opened.feature_names():
        features = opened.features(name)
        stored = np.flatnonzero(features.status == 1)
        found += [name, features.spec, features.keys.tobytes(), features.pooled[stored].tobytes(), features.failed]
        found += [features.tokens[int(row)].tobytes() for row in stored]
    for kind in ("flat", "hnsw"):
        hits = similar(opened, features="clip/image", id="r1", index=kind)
        found.append([(hit.id, hit.score) for hit in hits])
    return found


def keys_of_files(store):
    """Return what is looked up of files, rather than read: none of a damaged index of them."""
    files = pl.Series("path", [str(store.parent / f"images/{i}.png") for i in range(N)])
    return FileIndex(store).keys_of(files).to_list()


def flips(store, folder, seed, n):
    path = shutil.copytree(store, folder / "a.hw")
    shutil.copytree(store.parent / "images", folder / "images")
    draw = random.Random(seed)
    whole, known = everything(path), {*keys_of_files(path), None}
    every = [p for p in sorted(path.rglob("*")) if p.is_file() and p.suffix != ".lock" and p.stat().st_size]
    kinds = {}
    for file in every:
        kind = f"{file.suffix} {file.parent.name}" if not file.name.startswith("c.") else file.parent.name
        kinds.setdefault(kind, []).append(file)
    missed, other, n_refused = [], [], 0
    for number in range(n):
        kind = list(kinds)[number % len(kinds)]
        file = draw.choice(kinds[kind])
        ranges = counted_bytes(file, path)
        if not ranges:
            continue
        start, stop = draw.choice(ranges)
        place, bit = draw.randrange(start, stop), draw.randrange(8)
        with file.open("r+b") as raw:
            raw.seek(place)
            was = raw.read(1)
            raw.seek(place)
            raw.write(bytes([was[0] ^ (1 << bit)]))
        what = (str(file.relative_to(path)), place, bit)
        try:
            try:
                found = list(verify(path))
            except HeadwaterError as error:
                found = [str(error)]
            if not found:
                missed.append(what)
            try:
                if everything(path) != whole:
                    other.append(what)
            except HeadwaterError:
                n_refused += 1
            if not set(keys_of_files(path)) <= known:
                other.append(what)
        finally:
            with file.open("r+b") as raw:
                raw.seek(place)
                raw.write(was)
    assert missed == []
    assert other == []
    assert n_refused > n / 3  # of files that readers read
    assert verify(path) == []
    return len(kinds)


def test_a_hundred_flipped_bits(store, tmp_path):
    """Of a hundred flipped bits, over every kind of file, each is found, and none is read."""
    assert flips(store, tmp_path, 0, 100) > 15


@pytest.mark.slow
def test_a_thousand_flipped_bits(store, tmp_path):
    """Of a thousand flipped bits, over every kind of file, each is found, and none is read."""
    flips(store, tmp_path, 1, 1000)
