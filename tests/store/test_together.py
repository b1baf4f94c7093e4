"""Several processes at one store: what one makes, removes or replaces is not in the way of another, nor damage."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater._reading import matching
from headwater.api import gc, index, info, verify
from headwater.errors import StoreBusy, StoreError, StoreNotFound
from headwater.store import (
    BlockResult,
    FeatureSpec,
    Rights,
    Roles,
    Store,
    beside,
    check,
    create_store,
    find_store,
    open_store,
    summed,
)
from headwater.store import _files as files
from headwater.store import store as stores
from headwater.store.features import Features

SPEC = FeatureSpec(encoder="x", modality="image", dim=4, dtype="float32")


def keys_of(n, first=0):
    return np.array([[(first + i) % 256] * 16 for i in range(n)], np.uint8)


def fill(path, name="f/image", n=70, first=0):
    with create_store(path).require_features(name, SPEC, n).writing() as writer:
        for task in writer.plan(keys_of(n, first)):
            writer.commit(task, BlockResult(task.rows, np.ones((len(task.rows), 4), np.float32)))


def samples_of(store, n, first=0):
    """Write samples of so many items."""
    keys = [f"{first + i:02x}" * 16 for i in range(n)]
    table = pl.DataFrame(
        {"id": keys, "image": keys, "image_key": keys, "text_key": pl.Series([None] * n, dtype=pl.String)}
    )
    store.write_samples(table, Roles("id", "image", None, "/"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.hw"


@pytest.fixture
def once(monkeypatch):
    """Return a function that has another process's work done once, just before, or after, a function is called."""

    def do(owner, name, action, *, when=lambda *arguments: True, after=False):
        real = getattr(owner, name)

        def call(*arguments, **options):
            if not when(*arguments):
                return real(*arguments, **options)
            monkeypatch.setattr(owner, name, real)
            if after:
                found = real(*arguments, **options)
                action()
                return found
            action()
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    return do


# Making a store


def test_a_store_that_is_being_made_is_not_there_yet(path):
    """A reader that comes before the first file of a store is told that there is none, not of something else."""
    path.mkdir()
    with files.locked(path / ".lock"):
        (path / ".store.json.1.2.tmp").touch()
        with pytest.raises(StoreNotFound, match=r"a\.hw: there is no store\. Run: headwater embed MANIFEST"):
            open_store(path)
        assert find_store(path) is None


def test_a_store_that_is_made_while_it_is_opened(path, once):
    """A reader that finds no first file, and then a folder with others, opens the store that was made meanwhile."""
    path.mkdir()
    once(stores, "_is_being_made", lambda: create_store(path))
    assert open_store(path).feature_names() == []


# Folders that go, files that move


def test_a_folder_that_goes_while_it_is_looked_through(tmp_path, monkeypatch):
    """What is below a folder is listed though another process removes a part of it at the same time."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").touch()
    glob, gone = Path.glob, []

    def racing(self, pattern):
        if not gone:
            gone.append(shutil.rmtree(tmp_path / "b"))
            raise FileNotFoundError(tmp_path / "b")
        return glob(self, pattern)

    monkeypatch.setattr(Path, "glob", racing)
    assert sorted(found.parent.name for found in matching(tmp_path, "*/x.json")) == ["a", "c"]


def test_sizes_while_files_take_their_place(path, once, monkeypatch):
    """The bytes of features are counted though a file that was listed has taken its place meanwhile."""
    fill(path)
    features = open_store(path).features("f/image")
    listed = files.matching
    monkeypatch.setattr(files, "matching", lambda *where: [*listed(*where), features.folder / ".c.0.0.1.tmp"])
    assert features.n_bytes > 70 * 16
    assert info(path).features["f/image"]["items"] == 70


def test_a_file_goes_with_its_folder(tmp_path, once):
    """A file is removed though another process removes its folder at the same time."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    once(files, "sync", lambda: shutil.rmtree(tmp_path / "a"))
    files.remove_file(tmp_path / "a" / "x")
    assert not (tmp_path / "a").exists()


# Samples that others replace


def test_samples_that_others_replace_again_and_again(path, monkeypatch):
    """A table that was replaced between each look at it and at its checksum is read in the end, not called damaged."""
    store = create_store(path)
    samples_of(store, 3)
    known, looks = summed._known, []

    def replaced(place):
        looks.append(place)
        if len(looks) <= 8 and len(looks) % 2:  # every other look is the writer's own
            samples_of(open_store(path), 3 + len(looks))
        return known(place)

    monkeypatch.setattr(summed, "_known", replaced)
    assert len(open_store(path).samples) > 3


# Features that others remove or replace

READ = {
    "info": info,
    "verify": verify,
    "read": lambda path: open_store(path).read("f/image"),
    "gc": gc,
    "check": lambda path: open_store(path).check_features("f/image", SPEC),
}


@pytest.fixture
def two(path):
    """A store with two feature sets."""
    fill(path)
    fill(path, "g/image")
    samples_of(open_store(path), 70)
    return path


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("moment", ["listed", "journal", "opened"])
def test_features_that_go_while_they_are_read(two, once, what, moment):
    """Whenever another process removes features, a reader goes on without them, or is told so: they are not damaged."""
    what_of = READ[what]

    def remove():
        open_store(two).remove_features("f/image")

    def is_f(features, *arguments):
        return features.name == "f/image"

    if moment == "listed":
        once(Store, "feature_names", remove, after=True)
    elif moment == "journal":
        once(Features, "_layout", remove, when=is_f)
    else:
        once(Features, "_require_sane", remove, when=is_f, after=True)
    try:
        found = what_of(two)
    except StoreBusy:
        pass
    except StoreNotFound:
        assert what == "read"
    else:
        assert what != "verify" or found == []
    assert verify(two) == []


@pytest.mark.parametrize("what", ["info", "verify", "read"])
def test_features_that_others_take_the_place_of(two, once, monkeypatch, what):
    """Between the steps in which others take their place, features are not missing: a reader waits, or is told."""
    monkeypatch.setattr(stores, "OPEN_TRIES", 2)
    samples_of(open_store(two), 20)
    told = []

    def read():
        try:
            found = READ[what](two)
        except StoreBusy as error:
            told.append(str(error))
        else:
            told.append("read")
            assert what != "verify" or found == []

    once(Path, "replace", read, when=lambda source, target: target == two / "features.zarr/f/image")
    gc(two, yes=True)
    assert len(told) == 1
    if what == "read":
        assert (
            "another process is compacting f/image. Wait for it to end; if it was stopped, run: headwater gc" in told[0]
        )
    assert open_store(two).features("f/image").n_items == 20
    assert verify(two) == []


def test_a_part_that_goes_while_it_is_verified(two, once):
    """Features that are removed between the checks of verify are said to have changed, not to be damaged."""
    for part in ("wrong_metadata", "wrong_status"):
        fill(two)
        once(check, part, lambda: open_store(two).remove_features("f/image"), when=lambda f: f.name == "f/image")
        with suppress(StoreBusy):
            assert list(open_store(two).verify()) == []
    assert verify(two) == []


def test_metadata_of_a_name_that_goes(two, once):
    """The group of a name that another process removes is not said to be damaged."""
    store = open_store(two)
    once(stores, "read_own_json", lambda: shutil.rmtree(two / "features.zarr/f"), when=lambda p: p.parent.name == "f")
    assert list(store._damaged_groups()) == []


def test_a_set_that_was_removed_is_not_written(two):
    """A writer whose features were removed since it opened them is told so."""
    features = open_store(two).features("f/image")
    open_store(two).remove_features("f/image")
    for write in (features.writing, lambda: features.sharing("0-of-2")):
        with pytest.raises(StoreBusy, match="has changed it since it was opened"), write():
            pass


def test_files_of_a_set_that_is_made_anew_are_left_alone(two, once):
    """A writer of features that were removed does not take files away from the process that makes them anew."""
    stale = open_store(two).features("f/image")
    open_store(two).remove_features("f/image")
    left = two / "features.zarr/f/image/pooled"  # of a run that was stopped while it made them
    left.mkdir(parents=True)
    (left / "zarr.json").write_text("{}")

    def late():
        with suppress(StoreBusy), stale.writing():
            pass

    once(files, "sync", late, when=lambda path: path.parent.name == "pooled" and path.suffix == ".tmp")
    fill(two)
    assert verify(two) == []


# Two that drop


def test_what_another_drops_is_dropped(two, once):
    """Of two that drop the same features one does; the other finds it done."""
    once(Store, "changing", lambda: open_store(two).remove_features("f/image"))
    gc(two, drop=["f/image"], yes=True)
    assert open_store(two).feature_names() == ["g/image"]


def test_a_copy_that_another_makes_is_left_to_it(two):
    """While one process compacts features, another removes none of its copy and does not put it in its place."""
    samples_of(open_store(two), 20)
    fill(two, beside("f/image"), 20)
    marker = open_store(two).journal_of(beside("f/image")).with_suffix(".whole")
    with Rights(open_store(two).journal_of("f/image"), "f/image").alone():
        with pytest.raises(StoreBusy, match="f/image is being written"):
            gc(two, yes=True)
        marker.touch()
        with pytest.raises(StoreBusy, match="f/image is being written"):
            gc(two, yes=True)
        assert open_store(two).features(beside("f/image")).n_items == 20
    gc(two, yes=True)
    assert open_store(two).features("f/image").n_items == 20
    assert verify(two) == []


@pytest.mark.parametrize("first", [0, 100])
def test_what_a_new_manifest_uses_is_not_dropped(two, monkeypatch, first):
    """Items of a manifest that is embedded between the look of gc and its work are kept, also of a set without any."""
    samples_of(open_store(two), 20, first)
    module, looks = sys.modules["headwater.api.gc"], []
    used = module._used

    def embedded_then(store, features):
        found = used(store, features)
        looks.append(features.name)
        if len(looks) == 2:  # both have been looked at
            samples_of(open_store(two), 60)
        return found

    monkeypatch.setattr(module, "_used", embedded_then)
    gc(two, yes=True)
    for name in ("f/image", "g/image"):
        assert len(open_store(two).read(name).ids) == 60


def test_two_that_build_one_index(two, once):
    """The two files of an index that several build at once belong together."""
    pytest.importorskip("faiss")
    module, order = sys.modules["headwater.api.index"], []
    save = module.save_index

    def slow(*arguments, **options):
        order.append("begun")
        time.sleep(0.2)
        found = save(*arguments, **options)
        order.append("ended")
        return found

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(module, "save_index", slow)
        list(pool.map(lambda _: index(two, features="f/image", kind="flat"), range(2)))
    assert order == ["begun", "ended"] * 2
    assert verify(two) == []


def test_an_index_that_is_replaced_while_it_is_verified(two, once):
    """An index whose second file is yet to come is not damaged; one of which it does not come is."""
    pytest.importorskip("faiss")
    place = Path(index(two, features="f/image", kind="flat").path)
    data = place.read_bytes()
    place.write_bytes(data + b"new")
    once(sys.modules["headwater.api.inspect"], "fetch_file", lambda: place.write_bytes(data))
    assert verify(two) == []
    place.write_bytes(data + b"new")
    assert len(verify(two)) == 1
    place.unlink()
    assert len(verify(two)) == 1


# Damage


def test_damage_is_still_found(two):
    """What nobody has changed since, and differs, is damaged."""
    (two / "features.zarr/f/image/status/c.0").unlink()
    (two / "features.zarr/g/image/keys/zarr.json").write_text("{}")
    found = verify(two)
    assert len(found) == 2
    (two / "features.zarr/f/image/keys/c.0.0").unlink()
    with pytest.raises(StoreError, match="is missing") as caught:
        open_store(two).features("f/image")
    assert not isinstance(caught.value, StoreBusy)


# Many at once

WORKER = """
import json, random, sys, time, traceback
import headwater
from headwater.errors import StoreBusy, StoreNotFound

for line in sys.stdin:
    what, arguments, options, pause = json.loads(line)
    time.sleep(random.random() * pause)
    try:
        found = getattr(headwater, what)(*arguments, **options)
        said = f"damaged: {list(found)}" if what == "verify" and found else "done"
    except StoreBusy:
        said = "busy"
    except StoreNotFound as error:
        said = "busy" if what in ("info", "verify") else f"{error!r}"
    except Exception:
        said = traceback.format_exc()
    print(json.dumps(said), flush=True)
"""
ROUNDS = {
    "names": lambda m, a: [("embed", [m[i], a], {"name": f"n{i}"}) for i in range(4)],
    "shards": lambda m, a: [("embed", [m[0], a], {"name": "n0", "shard": f"{i}/4"}) for i in range(4)],
    "alone": lambda m, a: [("embed", [m[i], a], {"name": "n0"}) for i in range(4)],
    "read": lambda m, a: (
        [("embed", [m[i], a], {"name": f"n{i}"}) for i in range(2)] + [("info", [a], {}), ("verify", [a], {})]
    ),
    "drop": lambda m, a: [
        ("gc", [a], {"yes": True}),
        ("embed", [m[1], a], {"name": "n0"}),
        ("gc", [a], {"yes": True}),
        ("verify", [a], {}),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROUNDS)
def test_many_at_once(tmp_path, picture, kind):
    """Whatever four processes do at once in a store, each ends well or is told that another writes; all is whole."""
    for i in range(90):
        picture(tmp_path / f"{i}.png", i, (8, 8))
    manifests = []
    for number in range(4):
        rows = range(number * 5, number * 5 + 70)
        table = pl.DataFrame({"id": [str(i) for i in rows], "image": [f"{i}.png" for i in rows]})
        table.write_csv(tmp_path / f"{number}.csv")
        manifests.append(str(tmp_path / f"{number}.csv"))
    line, env = [sys.executable, "-c", WORKER], {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for _ in "1234"
    ]

    def ask(worker, what, arguments, options, pause=0.0):
        more = {"encoder": "stub:8", "workers": 1, **options} if what == "embed" else options
        worker.stdin.write(json.dumps([what, arguments, more, pause]) + "\n")
        worker.stdin.flush()

    try:
        for number in range(12):
            path = tmp_path / f"{number}.hw"
            if kind == "drop":
                ask(running[0], "embed", [manifests[0], str(path)], {"name": "n0"})
                assert json.loads(running[0].stdout.readline()) == "done"
                ask(running[0], "embed", [manifests[1], str(path)], {"name": "n1"})
                assert json.loads(running[0].stdout.readline()) == "done"
            work = ROUNDS[kind](manifests, str(path))
            for worker, words in zip(running, work, strict=True):
                ask(worker, *words, pause=(0, 0.01, 0.05)[number % 3])
            said = [json.loads(worker.stdout.readline()) for worker in running]
            assert set(said) <= ({"done"} if kind in ("names", "shards") else {"done", "busy"}), said
            assert verify(path) == []
            assert matching(path, "**/*.tmp") == []
            for features in open_store(path).every_features() if kind in ("names", "shards") else ():
                assert features.n_items == 70
                assert (features.status == 1).all()
    finally:
        for worker in running:
            worker.kill()
            worker.communicate()
