"""An index comes back from disk as it was, or is refused: of other features, damaged, or half written."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from headwater.errors import DiskError, StoreError, StoreNotFound
from headwater.retrieve import build_index, check_index, load_index, read_index_info, save_index
from headwater.retrieve.persist import IndexInfo

pytest.importorskip("faiss")

X = np.random.default_rng(0).normal(size=(800, 16)).astype(np.float16)
X[3] = np.nan


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "index" / "clip" / "image.flat.faiss"
    save_index(build_index(X), place, fingerprint="abc", recall_at_10=0.5)
    return place


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "ivfpq"])
def test_an_index_comes_back_as_it_was(kind, tmp_path):
    index = build_index(X, kind)
    place = tmp_path / f"image.{kind}.faiss"
    written = save_index(index, place, fingerprint="abc")
    again = load_index(place, fingerprint="abc")
    assert (again.kind, again.dim, again.n_rows, again.n_vectors) == (kind, 16, 800, 799)
    groups = np.arange(800) // 8
    for options in ({}, {"rows": np.arange(0, 800, 2)}, {"rows": [1, 2, 3]}, {"exclude": (groups, groups[10:20])}):
        for a, b in zip(index.search(X[10:20], 5, **options), again.search(X[10:20], 5, **options), strict=True):
            np.testing.assert_array_equal(a, b)
    assert read_index_info(place) == written


def test_what_stands_beside_an_index(path):
    beside = json.loads((path.parent / "image.flat.faiss.json").read_text())
    assert len(beside.pop("checksum")) == len(beside.pop("sum")) == 32
    assert beside == {
        "format": 1, "kind": "flat", "dim": 16, "n_rows": 800, "n_vectors": 799,
        "fingerprint": "abc", "recall_at_10": 0.5,
    }  # fmt: skip
    assert sorted(file.name for file in path.parent.iterdir()) == ["image.flat.faiss", "image.flat.faiss.json"]


def test_an_index_of_other_features_is_refused(path):
    with pytest.raises(StoreError, match=r"other features \(abc\) than these \(xyz\).*headwater index"):
        load_index(path, fingerprint="xyz")
    assert load_index(path).n_rows == 800


@pytest.mark.parametrize("damage", ["a flipped bit", "a lost end", "nothing left"])
def test_a_damaged_index_is_refused_before_faiss_reads_it(path, damage, monkeypatch):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"a flipped bit": content, "a lost end": path.read_bytes()[:-1], "nothing left": b""}[damage])
    monkeypatch.setattr("headwater.retrieve.persist.load_faiss", lambda: pytest.fail("FAISS was asked"))
    with pytest.raises(StoreError, match=r"damaged.*headwater index"):
        load_index(path, fingerprint="abc")


def test_an_index_beside_the_json_of_its_forerunner_is_refused(path):
    forerunner = path.with_name(path.name + ".json").read_text()
    save_index(build_index(X[:400]), path, fingerprint="abc")
    path.with_name(path.name + ".json").write_text(forerunner)
    with pytest.raises(StoreError, match="damaged"):
        load_index(path)


def described(path, change):
    """Change what stands beside an index, and leave its own checksum out, as an earlier version did."""
    side = path.with_name(path.name + ".json")
    entries = json.loads(side.read_text()) | change
    del entries["sum"]
    side.write_text(json.dumps(entries))


def test_an_index_that_an_earlier_version_wrote(path):
    """What stands beside it has no checksum of its own, which is said, and the index is read."""
    assert check_index(path)
    described(path, {})
    assert not check_index(path)
    assert load_index(path).n_rows == 800


@pytest.mark.parametrize(
    "change", [{"dim": 17}, {"n_vectors": 798}, {"recall_at_10": 0.4}, {"fingerprint": "abd"}, {"sum": "0" * 32}]
)
def test_a_changed_description_is_found(path, change):
    side = path.with_name(path.name + ".json")
    side.write_text(json.dumps(json.loads(side.read_text()) | change))
    with pytest.raises(StoreError, match="differs from its checksum"):
        check_index(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": -1}, "dim: expected int >= 1"),
        ({"dim": 10**30}, "dim: expected int <="),
        ({"n_rows": None}, "n_rows: expected int, got null"),
        ({"recall_at_10": "x"}, "recall_at_10"),
        ({"format": 2}, "format must be 1, but is 2"),
        ({"surplus": 1}, "unknown: surplus"),
        ({"kind": "tree"}, "no kind 'tree'"),
        ({"n_vectors": 800}, r"image\.flat\.faiss: the index does not match the JSON file beside it"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(path, change, message):
    described(path, change)
    with pytest.raises(StoreError, match=message):
        load_index(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_a_description_that_cannot_be_read_is_refused(path, text):
    path.with_name(path.name + ".json").write_text(text)
    with pytest.raises(StoreError, match=r"not the description of an index.*headwater index") as caught:
        read_index_info(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["image.flat.faiss", "image.flat.faiss.json"])
def test_an_index_that_is_not_there_is_said_to_be_missing(path, lost):
    (path.parent / lost).unlink()
    with pytest.raises(StoreNotFound, match=r"image\.flat\.faiss: there is no index\. Build it: headwater index"):
        load_index(path)


def test_a_file_with_the_right_checksum_that_faiss_cannot_read_is_refused(path):
    path.write_bytes(b"not an index")
    described(path, {"checksum": hashlib.blake2b(b"not an index", digest_size=16).hexdigest()})
    with pytest.raises(StoreError, match="FAISS cannot read the index"):
        load_index(path)


def test_a_failed_write_leaves_the_index_that_was_there(path, monkeypatch):
    before = load_index(path).search(X[:1], 3)

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(DiskError, match="No space left"):
            save_index(build_index(X[:100]), path, fingerprint="abc")
    np.testing.assert_array_equal(load_index(path).search(X[:1], 3)[1], before[1])
    assert len(list(path.parent.iterdir())) == 2


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        save_index(build_index(X), tmp_path / "file" / "x.faiss", fingerprint="abc")


def test_the_description_survives_the_way_to_json_and_back(path):
    info = read_index_info(path)
    assert IndexInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info
