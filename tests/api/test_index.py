"""index: an index that is out of date is brought up to date, and searches as widely as a recall needs."""

import json

import numpy as np
import pytest

from headwater.api import gc, index, similar, verify
from headwater.errors import InputError, StoreError

pytest.importorskip("faiss")
N, NEW = 400, 30
ASKED = {"features": "made/image", "k": 12}


@pytest.fixture
def growing(make_store, write_features):
    """A store of 400 samples, and a function that makes it one of 430 samples."""
    X = np.random.default_rng(0).standard_normal((N + NEW, 12)).astype(np.float32)
    store = make_store(X[:N])
    later = make_store(X, path="later.hw")
    keys = later.features("made/image").keys

    def grow():
        write_features(store, "made/image", X, keys, dtype="float32")
        store.write_samples(later.samples, later.roles)

    return store, grow


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_new_items_are_added(growing, kind, command):
    """After items were added an index is refused; `index` adds them, and search finds them as exact search does."""
    store, grow = growing
    words = ("index", store.path, "--features", "made/image", "--kind", kind)
    assert "updated" not in command(*words).out
    grow()
    with pytest.raises(StoreError, match="Bring it up to date: headwater index"):
        similar(store, **ASKED, id="r410", index=kind)
    done = command(*words)
    assert f"updated: {NEW} added, 0 removed" in done.out
    for id in ("r410", "r005"):
        expected = [hit.id for hit in similar(store, **ASKED, id=id)]
        found = [hit.id for hit in similar(store, **ASKED, id=id, index=kind)]
        assert len(set(found) & set(expected)) >= (12 if kind == "flat" else 9)
    assert verify(store) == []


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_items_that_were_removed_are_not_found(growing, kind):
    """After a smaller manifest and gc, rows have other numbers; the index is updated, and finds only what is left."""
    store, _ = growing
    index(store, features="made/image", kind=kind)
    table = store.samples.filter(np.arange(N) % 10 != 3)
    store.write_samples(table, store.roles)
    gc(store, yes=True)
    made = index(store, features="made/image", kind=kind)
    assert (made.how, made.n_added, made.n_removed, made.n_vectors) == ("updated", 0, 40, 360)
    assert made.recall_at_10 > 0.9
    expected = similar(store, features="made/image", id="r200", k=359)
    found = similar(store, features="made/image", id="r200", k=359, index=kind)
    assert {hit.id for hit in found} == {hit.id for hit in expected} == set(table["id"]) - {"r200"}


def test_what_is_up_to_date_is_kept(growing, command):
    """An index that is up to date is not written again, unless it is to be built anew or searched otherwise."""
    store, _ = growing
    words = ("index", store.path, "--features", "made/image", "--kind", "ivf", "--json")
    first = json.loads(command(*words).out)
    assert first["how"] == "built"
    file = store.index_path("made/image", "ivf")
    stamp = file.stat().st_ino
    assert json.loads(command(*words).out)["how"] == "kept"
    assert file.stat().st_ino == stamp
    assert json.loads(command(*words, "--anew").out)["how"] == "built"
    assert file.stat().st_ino != stamp


def test_a_recall_is_reached_and_kept_to(growing, command):
    """--recall chooses a breadth and says the recall that it measured; an update chooses again for the same recall."""
    store, grow = growing
    words = ("index", store.path, "--features", "made/image", "--kind", "ivf")
    line = command(*words, "--recall", "0.95").out
    assert "(breadth " in line
    assert "other queries)" in line
    made = index(store, features="made/image", kind="ivf")
    assert made.how == "kept"
    assert made.breadth is not None
    assert made.recall_at_10 >= 0.95
    grow()
    again = index(store, features="made/image", kind="ivf")
    assert again.how == "updated"
    assert again.recall_at_10 >= 0.95
    few = index(store, features="made/image", kind="ivf", recall=0.3)
    assert few.breadth < again.breadth


@pytest.mark.parametrize("what", ["image.flat.faiss", "image.flat.faiss.json", "image.flat.faiss.marks"])
def test_a_damaged_index_is_built_anew(growing, what, command):
    """verify names a damaged file of an index, and `index` builds it anew."""
    store, grow = growing
    index(store, features="made/image", kind="flat")
    file = store.path / "index" / "made" / what
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    assert len(verify(store)) == 1
    grow()
    made = index(store, features="made/image", kind="flat")
    assert (made.how, made.n_vectors) == ("built", N + NEW)
    assert verify(store) == []


def test_an_index_of_an_earlier_version(growing):
    """An index without marks is searched as before, and built anew when it is out of date."""
    store, grow = growing
    index(store, features="made/image", kind="flat")
    file = store.index_path("made/image", "flat")
    file.with_name(f"{file.name}.marks").unlink()
    beside = file.with_name(f"{file.name}.json")
    entries = json.loads(beside.read_text())
    for entry in ("marks", "sum"):
        del entries[entry]
    beside.write_text(json.dumps(entries))
    assert len(similar(store, **ASKED, id="r001", index="flat")) == 12
    grow()
    assert index(store, features="made/image", kind="flat").how == "built"


@pytest.mark.parametrize("recall", [0, 1.5, float("nan")])
def test_what_is_no_recall(growing, recall):
    """A recall is a share; it is refused before an index is built."""
    with pytest.raises(InputError, match="--recall must be above 0 and at most 1"):
        index(growing[0], features="made/image", recall=recall)
