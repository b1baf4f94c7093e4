"""The store: made, found or refused; its samples replaced whole; features and samples read together."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from headwater.errors import InputError, SpecMismatch, StoreBusy, StoreError, StoreNotFound
from headwater.store import (
    BlockResult,
    FeatureSpec,
    Roles,
    check_name,
    create_store,
    find_store,
    hex_from_keys,
    keys_from_hex,
    open_store,
)

ROLES = Roles(id="id", image="image", text="text", root="/data")


def spec(modality="image", **changes):
    return FeatureSpec(**{"encoder": "stub:4", "modality": modality, "dim": 4, "dtype": "float32", **changes})


def keys_of(*numbers):
    return np.array([[n] * 16 for n in numbers], np.uint8)


def fill(store, name, numbers, failed=()):
    """Store for item n the vector n, n, n, n; those in ``failed`` fail."""
    keys = keys_of(*numbers)
    with store.require_features(name, spec(name.split("/")[1]), len(keys)).writing() as writer:
        for task in writer.plan(keys):
            value = writer.features.keys[task.rows][:, :1].astype(np.float32)
            why = {int(r): "damaged: /data/x.png" for r in task.rows if writer.features.keys[r][0] in failed}
            writer.commit(task, BlockResult(task.rows, np.repeat(value, 4, 1), failed=why))


def samples(store, image_keys, text_keys=None, unreadable=None, **columns):
    """Write samples a, b, c, ... whose items are known by these numbers."""
    n = len(image_keys)
    named = [None if k is None else f"{k:02x}" * 16 for k in image_keys]
    words = [None if k is None else f"{k:02x}" * 16 for k in text_keys or [None] * n]
    table = pl.DataFrame(
        {
            "id": list("abcdefgh"[:n]),
            "image": [f"{c}.png" for c in "abcdefgh"[:n]],
            "text": ["words"] * n,
            **columns,
            "image_key": pl.Series(named, dtype=pl.String),
            "text_key": pl.Series(words, dtype=pl.String),
        }
    )
    store.write_samples(table, ROLES, unreadable)


# Making and opening


def test_a_new_store_is_found_again(base):
    """A store that was made is opened, and found, where it is; making it again opens it."""
    made = create_store(f"{base}/deep/a.hw")
    assert json.loads((made.path / "store.json").read_text()) == {"format": 1}
    assert open_store(made.location).path == find_store(made.location).path == create_store(made.location).path
    assert not made.has_samples()
    assert made.feature_names() == []


@pytest.mark.parametrize("hidden", [None, ".DS_Store"])
def test_an_empty_folder_can_become_a_store(tmp_path, hidden):
    """Where nothing is, or a folder with hidden files alone, there is no store yet and one can be made."""
    if hidden:
        (tmp_path / hidden).touch()
    assert find_store(tmp_path) is None
    assert find_store(tmp_path / "none") is None
    assert create_store(tmp_path).path == tmp_path


def test_something_else_is_left_alone(tmp_path):
    """A file, or a folder that holds anything else, is refused and stays as it is."""
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        for call in (create_store, find_store, open_store):
            with pytest.raises(StoreError):
                call(path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_is_there(base):
    """Opening nothing is a StoreNotFound, which is a FileNotFoundError too."""
    with pytest.raises(StoreNotFound, match="headwater embed MANIFEST") as caught:
        open_store(f"{base}/a.hw")
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("call", [create_store, find_store, open_store])
def test_a_newer_format(store, behind, call):
    """A store of a newer format is refused with both numbers."""
    behind.write(store.path / "store.json", b'{"format": 2}')
    with pytest.raises(StoreError, match="format 2; this headwater reads format 1"):
        call(store.location)


def test_a_store_that_was_not_quite_made(base, behind):
    """A store whose making was cut short after its first file is completed by the next run."""
    import zarr

    path = f"{base}/a.hw"
    folder = create_store(path).path / "features.zarr"
    behind.remove(folder / "zarr.json")
    shutil.rmtree(folder)
    fill(create_store(path), "f/image", [1])
    assert [name for name, _ in zarr.open_group(f"{path}/features.zarr", mode="r").groups()] == ["f"]


# Samples


def test_samples_read_back(store):
    """The table comes back as it was written, with what its columns are for, to this store and to another."""
    samples(store, [1, None], unreadable={"b": "gone"})
    for opened in (store, open_store(store.location)):
        assert opened.samples["id"].to_list() == ["a", "b"]
        assert opened.roles == ROLES
        assert opened.unreadable == {"b": "gone"}


def test_samples_are_replaced(store):
    """Writing samples again replaces the table, what is known of unreadable files included."""
    samples(store, [1, None], unreadable={"b": "gone"})
    assert len(store.samples) == 2
    samples(store, [1, 2, 3])
    assert len(store.samples) == 3
    assert store.unreadable == {}
    assert sorted(p.name for p in store.path.glob("*samples*")) == ["samples.parquet", "samples.sum.json"]


def test_no_samples(store):
    """Before a manifest was embedded, the error says what to run."""
    with pytest.raises(StoreNotFound, match=r"no samples yet\. Run: headwater embed"):
        store.select(None)


def test_samples_of_another_program(store, behind, tmp_path):
    """A table without headwater's own words is refused when they are needed, and not before."""
    samples(store, [1])
    store.samples.write_parquet(tmp_path / "other.parquet")
    behind.write(store.path / "samples.parquet", (tmp_path / "other.parquet").read_bytes())
    behind.remove(store.path / "samples.sum.json")
    opened = open_store(store.location)
    assert len(opened.samples) == 1
    with pytest.raises(
        StoreError, match=r"samples\.parquet was written by another tool: .*\('headwater'\)\. Embed the"
    ):
        opened.roles  # noqa: B018


def test_select(store):
    """An SQL expression selects samples in their order."""
    samples(store, [1, 2, 3, 4], age=[40, 50, 60, None], site=["x", "y", "x", "x"])
    assert store.select("age >= 50")["id"].to_list() == ["b", "c"]
    assert store.select("site = 'x' AND age IS NOT NULL")["id"].to_list() == ["a", "c"]
    assert len(store.select(None)) == 4


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("agee > 3", "Did you mean 'age'\\?"),
        ('site = "x"', "Columns: id, .*; write texts in single quotes"),
        ("age +", "cannot be used"),
        ("age", "cannot be used"),
        ("age > 100", "is true for none of the 2 samples"),
    ],
)
def test_select_refuses(store, where, expected):
    """An expression that cannot be used, or holds nowhere, is an InputError on one line."""
    samples(store, [1, 2], age=[40, 50], site=["x", "y"])
    with pytest.raises(InputError, match=expected) as caught:
        store.select(where)
    assert "\n" not in str(caught.value)


# Features


def test_feature_names(store, behind):
    """Feature sets are listed by name; one that a crash left without its first page does not exist."""
    fill(store, "b/image", [1])
    fill(store, "a/text", [1])
    assert store.feature_names() == ["a/text", "b/image"]
    behind.remove(store.path / "features.zarr" / "b" / "image" / "zarr.json")
    store = open_store(store.location)
    assert store.feature_names() == ["a/text"]
    with pytest.raises(StoreNotFound, match="There are: a/text"):
        store.features("b/image")


@pytest.mark.parametrize("name", ["a", "a/sound", "/image", "a/b/image", "../a/image", "a b/image", ".a/image", ""])
def test_names_that_cannot_be(store, name):
    """A name that would leave its folder, or has no modality, is refused."""
    with pytest.raises(InputError, match=r"is not a name of features\. Write NAME/image, NAME/text or NAME/pair"):
        check_name(name)
    with pytest.raises(InputError, match=r"is not a name of features\. Write NAME/image, NAME/text or NAME/pair"):
        store.require_features(name, spec(), 1)


def test_features_of_another_spec(store, tmp_path):
    """Features are opened again under the same spec, refused under another, and left as they are by checking."""
    fill(store, "f/image", [1, 2])
    assert store.require_features("f/image", spec(), 9).n_items == 2
    for call in (lambda s: store.require_features("f/image", s, 2), lambda s: store.check_features("f/image", s)):
        with pytest.raises(SpecMismatch, match="weights: stored '', now 'x'"):
            call(spec(weights="x"))
    store.check_features("new/image", spec())
    assert store.feature_names() == ["f/image"]


@pytest.mark.parametrize(
    ("encoder", "moved", "same"),
    [
        ("hf:/data/uni", "hf:models/uni/", True),
        ("hf:ORG/uni", "hf:./uni", True),
        ("python:lab.py:Mean", "python:/code/lab.py:Mean", True),
        ("python:lab.py:Mean", "python:/code/lab.py:Median", False),
        ("timm:local-dir:/a/vit", "timm:local-dir:/b/vit", True),
        ("hf:/data/uni", "hf:/data/uni2", False),
        ("hf:uni", "timm:uni", False),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32-quickgelu/openai", False),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-16/openai", False),
    ],
)
def test_an_encoder_that_has_moved(store, encoder, moved, same):
    """Features of an encoder whose files lie elsewhere by now are the same, if its weights are, and its name."""
    store.require_features("f/image", spec(encoder=encoder, weights="w"), 1)
    for weights in ("w", "", "v"):
        if weights == "w" and same:
            store.check_features("f/image", spec(encoder=moved, weights=weights))
            continue
        with pytest.raises(SpecMismatch, match="encoder: stored"):
            store.check_features("f/image", spec(encoder=moved, weights=weights))


def test_code_that_has_moved(store):
    """A user's own encoder is known by its code, also where it has no weights."""
    store.require_features("f/image", spec(encoder="python:a.py:A", preprocessing={"code": "c"}), 1)
    store.check_features("f/image", spec(encoder="python:/x/a.py:A", preprocessing={"code": "c"}))
    with pytest.raises(SpecMismatch, match="code: stored 'c', now 'd'"):
        store.check_features("f/image", spec(encoder="python:/x/a.py:A", preprocessing={"code": "d"}))


def test_features_that_are_being_written(store):
    """Features that another process writes are refused at once, before anything is changed for them."""
    fill(store, "f/image", [1])
    with store.features("f/image").writing(), pytest.raises(StoreBusy):
        store.check_features("f/image", spec())


def test_unfinished_files_are_removed_by_the_next_writer(store):
    """What a killed process left beside a file is removed when the features are next written, and only that."""
    fill(store, "f/image", [1])
    folder = store.path / "features.zarr" / "f"
    left = [folder / ".zarr.json.1.tmp", folder / "image" / "pooled" / ".c.0.0.1.tmp"]
    for path in left:
        path.write_bytes(b"half")
    n_files = sum(p.is_file() for p in store.path.rglob("*"))
    store.require_features("f/image", spec(), 1)
    assert not any(path.exists() for path in left)
    assert sum(p.is_file() for p in store.path.rglob("*")) == n_files - 2


def test_the_group_of_a_name_keeps_its_attributes(store, behind):
    """A second modality under one name leaves alone what somebody wrote into the group of that name."""
    fill(store, "f/image", [1])
    page = store.path / "features.zarr" / "f" / "zarr.json"
    behind.write(page, behind.read(page).replace(b"{}", b'{"mine": 1}'))
    fill(store, "f/text", [1])
    assert json.loads(behind.read(page))["attributes"] == {"mine": 1}


# Reading


def test_read_puts_vectors_beside_samples(store):
    """Each sample comes with the vector of its own item, in the samples' order, shared items included."""
    fill(store, "f/image", [1, 2, 3])
    samples(store, [3, 1, 3, 2])
    data = store.read("f/image")
    assert data.ids.tolist() == ["a", "b", "c", "d"]
    assert np.asarray(data.X[:])[:, 0].tolist() == [3, 1, 3, 2]
    assert data.table["id"].to_list() == data.ids.tolist()
    assert len(data.left_out) == 0
    assert np.asarray(store.read("f/image", where="id <> 'b'").X[:])[:, 0].tolist() == [3, 3, 2]


def test_read_says_why_samples_are_left_out(store):
    """A sample without features is left out with the reason: nothing there, unreadable, failed, not made yet."""
    fill(store, "f/image", [1, 2], failed=[2])
    samples(store, [1, 2, 9, None, None, None], unreadable={"d": "image file not found: /data/d.png"})
    table = store.samples.with_columns(
        pl.when(pl.col("id") == "f").then(None).otherwise(pl.col("image")).alias("image")
    )
    store.write_samples(table, ROLES, store.unreadable)
    data = store.read("f/image")
    assert data.ids.tolist() == ["a"]
    assert dict(data.left_out.rows()) == {
        "b": "damaged: /data/x.png",
        "c": "not embedded yet in f/image",
        "d": "image file not found: /data/d.png",
        "e": "not embedded yet in f/image",
        "f": "no image",
    }


def test_read_several(store):
    """Of several feature sets, only samples that have all of them are read, row by row alike."""
    fill(store, "f/image", [1, 2, 3])
    fill(store, "g/text", [7, 8])
    samples(store, [1, 2, 3], [8, 7, None])
    data = store.read("f/image", "g/text")
    assert data.ids.tolist() == ["a", "b"]
    assert np.asarray(data.inputs["f/image"][:])[:, 0].tolist() == [1, 2]
    assert np.asarray(data.inputs["g/text"][:])[:, 0].tolist() == [8, 7]
    assert data.left_out.row(0)[0] == "c"
    with pytest.raises(InputError, match=r"data\.inputs"):
        data.X  # noqa: B018


def test_read_nothing(store):
    """When no sample has the features, the error says of one why."""
    fill(store, "f/image", [1])
    samples(store, [5, 6])
    with pytest.raises(InputError, match="not embedded yet in f/image"):
        store.read("f/image")


def test_verify_looks_at_every_feature_set(store, behind):
    """A store is verified with all its feature sets; what differs is said for each."""
    fill(store, "f/image", [1])
    fill(store, "g/text", [1])
    samples(store, [1])
    assert list(store.verify()) == []
    for name in ("f/image", "g/text"):
        behind.remove(store.path / "features.zarr" / name / "pooled" / "c.0.0")
    assert [name in line for name, line in zip(("f/image", "g/text"), store.verify(), strict=True)] == [True, True]


def test_changes_of_a_store_wait_for_each_other(store):
    """Reading the samples and writing them back is one step, whoever does it at the same time."""
    samples(store, [1])
    rows = 20

    def add(number):
        with open_store(store.location).changing():
            mine = open_store(store.location)
            table = mine.samples
            more = table[:1].with_columns(pl.lit(f"new{number}").alias(mine.roles.id))
            mine.write_samples(pl.concat([table, more]), mine.roles)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(rows)))
    assert len(open_store(store.location).samples) == 1 + rows


def test_two_that_make_the_same_features_make_them_once(store):
    """The block size that the first chose is the one that both write by."""
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(lambda n: open_store(store.location).require_features("h/image", spec(), n), [64, 100_000] * 8)
        )
    assert len({features.block_rows for features in made}) == 1


def test_keys_as_hex():
    """Keys become hex digits and back, none lost, an empty list too."""
    keys = keys_of(0, 1, 255)
    assert hex_from_keys(keys) == ["00" * 16, "01" * 16, "ff" * 16]
    assert np.array_equal(keys_from_hex(pl.Series(hex_from_keys(keys))), keys)
    assert keys_from_hex(pl.Series([], dtype=pl.String)).shape == (0, 16)
