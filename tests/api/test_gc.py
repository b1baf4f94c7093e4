"""gc drops what no sample uses, after saying what that is."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.api import embed, gc, verify
from headwater.errors import InputError, StoreError
from headwater.store import open_store


@pytest.fixture(scope="module", params=[None, "int8", "bfloat16"])
def sound(request, tmp_path_factory, tiny, picture):
    """Return a store of 90 images with tokens, and texts with ragged ones, of which the last manifest lists 50."""
    folder = tmp_path_factory.mktemp("gc")
    rows = [{"id": str(i), "image": f"{i}.png", "text": "a gland" + " mass" * (i % 7) + f" {i}"} for i in range(90)]
    for i in range(90):
        picture(folder / f"{i}.png", i, (24, 20))
    pl.DataFrame(rows).write_csv(folder / "all.csv")
    pl.DataFrame(rows[::2] + rows[1:10:2]).write_csv(folder / "some.csv")
    options = {"encoder": tiny("hf-clip").spec, "tokens": "all", "name": "c", "device": "cpu", "precision": "fp32"}
    for manifest in ("all.csv", "some.csv"):
        embed(folder / manifest, folder / "a.hw", tokens_dtype=request.param, **options)
    embed(folder / "some.csv", folder / "a.hw", encoder="stub:8", name="s")
    return folder / "a.hw"


@pytest.fixture
def store(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "a.hw")


def held(store, name):
    """What each sample has."""
    data = open_store(store).read(name, tokens=name.startswith("c/"))
    index = np.arange(len(data.ids))
    if name == "c/text":
        return {id: np.asarray(data.X[i]) for i, id in enumerate(data.ids.tolist())}
    return dict(zip(data.ids.tolist(), np.asarray(data.X[index]), strict=True))


def test_it_says_what_it_would_drop(store, files_of):
    """Without --yes nothing changes; unused items of each set are counted."""
    before = files_of(store)
    found = gc(store)
    assert {name: n for name, (n, _) in found.items.items()} == {"c/image": 40, "c/text": 40}
    assert any("would drop 40 items of c/image" in line for line in found.lines())
    assert found.lines()[-1] == "nothing was changed: pass --yes to drop"
    assert files_of(store) == before


def test_used_items_are_kept_to_the_bit(store):
    """After dropping, every sample has what it had, the store is sound and smaller, and nothing is left to drop."""
    before = {name: held(store, name) for name in ("c/image", "c/text", "s/image")}
    n_bytes = sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    gc(store, yes=True)
    opened = open_store(store)
    assert opened.feature_names() == ["c/image", "c/text", "s/image", "s/text"]
    assert opened.features("c/image").n_items == 50
    for name, values in before.items():
        after = held(store, name)
        assert list(after) == list(values)
        for id, value in values.items():
            np.testing.assert_array_equal(after[id], value)
    assert verify(store) == []
    assert sum(p.stat().st_size for p in store.rglob("*") if p.is_file()) < n_bytes
    assert "nothing to drop" in gc(store).lines()[0]


def test_a_set_is_dropped_whole(store):
    """A set that is named goes, its journal with it; a name that there is not suggests one that is."""
    gc(store, drop=["s/image"], yes=True)
    assert "s/image" not in open_store(store).feature_names()
    assert not (store / "journal/s/image.jsonl").exists()
    with pytest.raises(InputError, match="Did you mean 's/text'"):
        gc(store, drop=["s/test"])


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, *range(20, 80, 6)])
def test_stopped_anywhere_it_goes_on(store, monkeypatch, step):
    """Stopped before any of its larger steps, nothing used is lost, and the same command ends as if it had not been."""
    from headwater.store import Store

    before = held(store, "c/image")
    count = 0

    def stopping(real):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == step:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("remove_features", "replace_features", "require_features"):
            patch.setattr(Store, name, stopping(getattr(Store, name)))
        patch.setattr(shutil, "rmtree", stopping(shutil.rmtree))
        patch.setattr(Path, "replace", stopping(Path.replace))
        with contextlib.suppress(KeyboardInterrupt):
            gc(store, yes=True)
    gc(store, yes=True)
    after = held(store, "c/image")
    assert verify(store) == []
    for id, value in before.items():
        np.testing.assert_array_equal(after[id], value)
    assert open_store(store).feature_names() == ["c/image", "c/text", "s/image", "s/text"]


def test_from_the_command_line(store, command):
    """The command says what it would drop, and drops it."""
    assert "would drop" in command("gc", store).out
    assert "dropped 40 items" in command("gc", store, "--yes").out


def test_damage_is_not_hidden_by_a_copy(store):
    """A set with a damaged block is left as it is, with advice, and the damage is still found."""
    path = store / "features.zarr/c/image/pooled/c.0.0"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"verify .* --repair"):
        gc(store, yes=True)
    assert len(verify(store)) == 1


def test_why_items_failed_is_kept(store, monkeypatch):
    """An unreadable item of a sample is still known to have failed, and why, after the others were dropped."""
    monkeypatch.setenv("HEADWATER_CHECK", "off")  # the line below has no checksums of the rows that it leaves
    opened = open_store(store)
    features = opened.features("c/image")
    kept = np.flatnonzero(np.isin(features.keys.view("S16")[:, 0], features.keys[:1].view("S16")[:, 0]))
    with features.writing() as writer:
        writer.record(replace(features.state.blocks[0], failed={int(kept[0]): "gone"}, stored=((1, 64),), sums={}))
    gc(store, yes=True)
    assert list(open_store(store).features("c/image").failed.values()) == ["gone"]


def test_a_set_of_no_sample_is_dropped_whole(store):
    """When no sample uses any item of a set, the set goes."""
    samples = pl.read_parquet(store / "samples.parquet").with_columns(text_key=pl.lit(None, pl.String))
    opened = open_store(store)
    opened.write_samples(samples, opened.roles)
    assert set(gc(store).sets) == {"c/text", "s/text"}
    gc(store, yes=True)
    assert open_store(store).feature_names() == ["c/image", "s/image"]
