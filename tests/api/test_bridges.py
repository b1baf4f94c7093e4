"""import and export: vectors come out of every format as they went in, and what cannot be right is refused."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.api import embed, export_features, fit_head, import_features, info, repair, similar, verify, zero_shot
from headwater.embed import content_key
from headwater.errors import EncoderError, SpecMismatch
from headwater.store import BlockResult, create_store, open_store

DATA = Path(__file__).parents[3] / "shared" / "data"
LIBRARY = {"hdf5": "h5py", "parquet": "pyarrow", "h5ad": "anndata", "datasets": "datasets"}


def random(n, dim=6, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(dtype)


def table_of(path, n, **columns):
    pl.DataFrame({"id": [f"s{i}" for i in range(n)], **columns}).write_csv(path)
    return path


@pytest.fixture
def made(tmp_path):
    """Vectors of 150 samples, in a store of several blocks, imported from a .npy file and a table."""
    X = random(150)
    np.save(tmp_path / "v.npy", X)
    label = ["ab"[int(v > 0)] for v in X[:, 0]]
    age = [None if i % 7 == 0 else i for i in range(150)]
    table_of(tmp_path / "t.csv", 150, label=label, age=age, half=[i % 2 == 0 for i in range(150)])
    return import_features(tmp_path / "v.npy", tmp_path / "s.hw", name="clip", table=tmp_path / "t.csv"), X


def bits(values):
    return np.ascontiguousarray(values).view(np.uint8)


# Import


def test_keys_are_of_ids(made):
    """The key of a sample whose content is not at hand is the digest of "imported:" and its id; values are as given."""
    store, X = made
    data = store.read("clip/image")
    assert data.ids.tolist() == [f"s{i}" for i in range(150)]
    assert (bits(data.X[:]) == bits(X)).all()
    expected = [blake2b(f"imported:s{i}".encode(), digest_size=16).hexdigest() for i in range(150)]
    assert data.table["image_key"].to_list() == expected


def test_spec_says_where_from(made, tmp_path):
    """The spec holds the format, the digest of the file and its name; another file under the same name is refused."""
    store, X = made
    spec = store.features("clip/image").spec
    assert spec.encoder == "imported:npy"
    assert spec.weights == blake2b((tmp_path / "v.npy").read_bytes(), digest_size=16).hexdigest()
    assert spec.preprocessing == {"source": "v.npy"}
    np.save(tmp_path / "v.npy", X + 1)
    with pytest.raises(SpecMismatch, match="weights"):
        import_features(tmp_path / "v.npy", store.path, name="clip", table=tmp_path / "t.csv")


def test_store_works(made, tmp_path):
    """What was imported is verified, searched, fitted and, once damaged, imported again, like what was embedded."""
    store, X = made
    assert verify(store) == []
    (hit,) = similar(store, features="clip/image", id="s3", k=1)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = unit @ unit[3]
    assert hit.id == f"s{np.argsort(-cosines)[1]}"
    run = fit_head(store, features="clip/image", label="label", groups="none", folds=3, inner_folds=2)
    assert run.metrics["mean"]["accuracy"] > 0.8
    chunk = store.features("clip/image").pooled.chunk_path(1)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    with pytest.raises(EncoderError, match=r"imported from v\.npy"):
        repair(store)
    import_features(tmp_path / "v.npy", store.path, name="clip", table=tmp_path / "t.csv")
    assert verify(store) == []
    assert (open_store(store.path).read("clip/image").X[:] == X).all()


def test_taken_up_again(made, tmp_path, files_of):
    """An import of which only some blocks were made does the others when run again, and ends as one in a piece."""
    store, X = made
    whole = store.features("clip/image")
    begun = create_store(tmp_path / "again.hw").require_features("clip/image", whole.spec, len(X))
    with begun.writing() as writer:
        task = writer.plan(whole.keys)[0]
        writer.commit(task, BlockResult(task.rows, X[task.rows]))
    assert info(tmp_path / "again.hw").features["clip/image"]["stored"] == 64
    done = import_features(tmp_path / "v.npy", tmp_path / "again.hw", name="clip", table=tmp_path / "t.csv")
    assert (done.results["clip/image"].imported, done.results["clip/image"].kept) == (86, 64)
    one, other = (files_of(path / "features.zarr") for path in (store.path, tmp_path / "again.hw"))
    assert one == other


def test_second_import_lines_up_by_id(made, tmp_path):
    """Vectors of other features find their samples by id, in any order, and bring columns that were not there."""
    store, _ = made
    order = np.random.default_rng(1).permutation(150)
    Y = random(150, 4, seed=1)
    np.savez(tmp_path / "w.npz", emb=Y[order].astype(np.float64), ids=[f"s{i}" for i in order], site=order % 3)
    done = import_features(tmp_path / "w.npz", store.path, name="other")
    assert done.columns == ["site"]
    data = open_store(store.path).read("clip/image", "other/image")
    assert (data.inputs["other/image"][:] == Y).all()
    assert data.table["site"].to_list() == [i % 3 for i in range(150)]
    assert data.table["label"].to_list() == store.read("clip/image").table["label"].to_list()


def test_content_keys(tmp_path):
    """Where image files and texts are at hand, keys are those of their content, so that embedding finds them."""
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(3)] + ["gone.png"]
    table = table_of(tmp_path / "t.csv", 4, image=names, text=["one", "two", "two", "three"])
    np.save(tmp_path / "v.npy", X := random(4))
    np.save(tmp_path / "w.npy", X[[0, 1, 1, 2]])
    store = import_features(tmp_path / "v.npy", tmp_path / "s.hw", name="clip", table=table)
    assert store.results["clip/image"].by_content == 3
    store = import_features(tmp_path / "w.npy", tmp_path / "s.hw", name="clip", modality="text", table=table)
    assert store.samples["image_key"][1] == content_key((tmp_path / "1.png").read_bytes()).hex()
    assert store.samples["image_key"][3] == content_key(b"imported:s3").hex()
    assert store.samples["text_key"].to_list() == [content_key(t).hex() for t in (b"one", b"two", b"two", b"three")]
    assert store.features("clip/text").n_items == 3
    embed(table, tmp_path / "s.hw", encoder="stub:5", name="stub")
    assert open_store(tmp_path / "s.hw").read("clip/image", "stub/image").ids.tolist() == ["s0", "s1", "s2"]


def test_embedding_texts_keeps_imported_images(made, tmp_path):
    """A manifest of the same samples that is embedded for its texts leaves imported images known by their ids."""
    store, X = made
    table_of(tmp_path / "texts.csv", 150, text=[f"report {i}" for i in range(150)])
    embed(tmp_path / "texts.csv", store.path, encoder="stub:5", name="stub")
    data = open_store(store.path).read("clip/image", "stub/text")
    assert (data.inputs["clip/image"][:] == X).all()


def test_dtype(tmp_path):
    """float16 stays, float64 becomes float32, and --dtype says otherwise; what float16 cannot hold is refused."""
    for dtype, stored in ((np.float16, "float16"), (np.float32, "float32"), (np.float64, "float32")):
        np.save(tmp_path / "v.npy", random(5, dtype=dtype))
        store = import_features(tmp_path / "v.npy", tmp_path / f"{dtype.__name__}.hw", name="a")
        assert store.features("a/image").spec.dtype == stored
    np.save(tmp_path / "v.npy", X := random(5))
    store = import_features(tmp_path / "v.npy", tmp_path / "half.hw", name="a", dtype="float16")
    assert (store.read("a/image").X[:] == X.astype(np.float16)).all()


def test_clip_retrieval(tmp_path):
    """A clip-retrieval folder gives images and texts, file 2 before file 10, a row of metadata each."""
    X, T = random(33, dtype=np.float16), random(33, dtype=np.float16, seed=1)
    for folder in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "c" / folder).mkdir(parents=True)
    for i in range(11):
        rows = slice(3 * i, 3 * i + 3)
        np.save(tmp_path / "c" / "img_emb" / f"img_emb_{i}.npy", X[rows])
        np.save(tmp_path / "c" / "text_emb" / f"text_emb_{i}.npy", T[rows])
        about = pl.DataFrame(
            {"image_path": [f"/p/{j}.jpg" for j in range(33)], "caption": [f"c {j}" for j in range(33)]}
        )
        about[rows].write_parquet(tmp_path / "c" / "metadata" / f"metadata_{i}.parquet")
    store = import_features(tmp_path / "c", tmp_path / "s.hw", name="clip")
    data = store.read("clip/image", "clip/text")
    assert data.ids.tolist() == [f"/p/{j}.jpg" for j in range(33)]
    assert (data.inputs["clip/image"][:] == X).all()
    assert (data.inputs["clip/text"][:] == T).all()


@pytest.mark.parametrize("made_by", ["trident", "clam", "stamp"])
def test_slides(tmp_path, made_by):
    """HDF5 files, a slide each, give a sample a patch with slide and place, and take columns of a table of slides."""
    h5py = pytest.importorskip("h5py")
    (tmp_path / "h5").mkdir()
    X = {"one": random(5), "two": random(3, seed=1)}
    places = {name: np.arange(2 * len(x)).reshape(-1, 2) * 256 for name, x in X.items()}
    for name, x in X.items():
        with h5py.File(tmp_path / "h5" / f"{name}.h5", "w") as file:
            file["feats" if made_by == "stamp" else "features"] = x[None] if made_by == "trident" else x
            coords = places[name] + 0.5 if made_by == "stamp" else places[name]
            file["coords"] = coords[None] if made_by == "trident" else coords
    column = "slide_id" if made_by == "clam" else "case"
    (tmp_path / "slide.svs").write_bytes(b"no content of a patch")
    slides = {column: ["two", "one", "three"], "grade": [2, 1, 3], "image": ["slide.svs"] * 3}
    pl.DataFrame(slides).write_csv(tmp_path / "slides.csv")
    id = None if made_by == "clam" else "case"
    store = import_features(tmp_path / "h5", tmp_path / "s.hw", name="uni", table=tmp_path / "slides.csv", id=id)
    data = store.read("uni/image")
    assert (data.X[:] == np.concatenate(list(X.values()))).all()
    assert data.table["slide"].to_list() == ["one"] * 5 + ["two"] * 3
    assert data.table["grade"].to_list() == [1] * 5 + [2] * 3
    assert data.table["x"].to_list() == [0.5 * (made_by == "stamp") + x for p in places.values() for x in p[:, 0]]
    assert data.ids[1] == ("one_512.5_768.5" if made_by == "stamp" else "one_512_768")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensors(tmp_path, suffix, dtype):
    """Files of tensors give their values, of bfloat16 the same as float32; a folder of them holds a slide a file."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    (tmp_path / "v").mkdir()
    x = torch.from_numpy(random(6)).to(getattr(torch, dtype))
    for name, part in (("one", x[:4]), ("two", x[4:])):
        path = tmp_path / "v" / f"{name}{suffix}"
        torch.save(part, path) if suffix == ".pt" else save_file({"features": part.contiguous()}, path)
    store = import_features(tmp_path / "v", tmp_path / "s.hw", name="a")
    data = store.read("a/image")
    assert data.X.dtype == ("float16" if dtype == "float16" else "float32")
    assert (data.X[:] == x.float().numpy()).all()
    assert data.ids.tolist() == ["one_1", "one_2", "one_3", "one_4", "two_1", "two_2"]


def test_one_vector_a_slide(tmp_path):
    """A folder of single vectors gives a sample a slide, by its name."""
    torch = pytest.importorskip("torch")
    (tmp_path / "v").mkdir()
    X = random(3)
    for i in range(3):
        torch.save(torch.from_numpy(X[i]), tmp_path / "v" / f"slide{i}.pt")
    data = import_features(tmp_path / "v", tmp_path / "s.hw", name="titan").read("titan/image")
    assert data.ids.tolist() == ["slide0", "slide1", "slide2"]
    assert (data.X[:] == X).all()


def with_lists(n):
    """Vectors, and a table with a column of them."""
    X = random(n)
    table = pl.DataFrame({"id": [f"s{i}" for i in range(n)], "label": ["a"] * n, "v": X.tolist()})
    return X, table.with_columns(pl.col("v").cast(pl.List(pl.Float32)))


@pytest.mark.parametrize("kind", [list, np.ndarray])
def test_parquet(tmp_path, kind):
    """A Parquet file's column of vectors, as lists or as arrays, gives them bit for bit, with the other columns."""
    X, table = with_lists(70)
    table = table if kind is list else table.with_columns(pl.col("v").list.to_array(6))
    table.write_parquet(tmp_path / "v.parquet")
    data = import_features(tmp_path / "v.parquet", tmp_path / "s.hw", name="a").read("a/image")
    assert (bits(data.X[:]) == bits(X)).all()
    assert data.table.columns == ["id", "label", "image_key", "text_key"]


def test_lance(tmp_path):
    """A Lance table's column of vectors gives them bit for bit, with the other columns.

    In a process of its own, since Lance minds every fork of a process from then on.
    """
    if importlib.util.find_spec("lance") is None:
        pytest.skip("needs lance")
    X, table = with_lists(70)
    table.with_columns(pl.col("v").list.to_array(6)).write_parquet(tmp_path / "v.parquet")
    code = "import lance, pyarrow.parquet as pq, headwater as hw\n"
    code += "lance.write_dataset(pq.read_table('v.parquet'), 'v.lance')\n"
    code += "hw.import_features('v.lance', 's.hw', name='a')"
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=tmp_path, env=os.environ | path, check=True, capture_output=True)
    data = open_store(tmp_path / "s.hw").read("a/image")
    assert (bits(data.X[:]) == bits(X)).all()
    assert data.table.columns == ["id", "label", "image_key", "text_key"]


def test_columns_that_could_be_several_things(tmp_path):
    """Where several columns could hold the words, none is taken for them, and samples are known by their ids."""
    np.save(tmp_path / "v.npy", random(3))
    table = table_of(tmp_path / "t.csv", 3, caption=list("abc"), report=list("def"))
    store = import_features(tmp_path / "v.npy", tmp_path / "s.hw", name="a", modality="text", table=table)
    assert store.results["a/text"].by_content == 0


def test_arrays_of_one_file_are_not_mixed(tmp_path):
    """Another array of the same file, under the same name, is refused by the spec."""
    np.savez(tmp_path / "v.npz", a=random(3), b=random(3, seed=1))
    import_features(tmp_path / "v.npz", tmp_path / "s.hw", name="x", vectors="a")
    with pytest.raises(SpecMismatch, match="vectors: stored 'a', now 'b'"):
        import_features(tmp_path / "v.npz", tmp_path / "s.hw", name="x", vectors="b")


# What cannot be right


def test_refusals(refused, made, tmp_path):
    """What cannot be right is one line that names rows, ids or files, and nothing is written."""
    _, X = made
    np.save(tmp_path / "bad.npy", np.where(np.isin(np.arange(150), [3, 8])[:, None], np.nan, X))
    np.save(tmp_path / "large.npy", 1e6 * X)
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=X, b=X)
    table_of(tmp_path / "short.csv", 149)
    table_of(tmp_path / "same.csv", 150, code=["x"] * 150)
    table_of(tmp_path / "texts.csv", 150, text=["same words"] * 150)
    pl.DataFrame({"id": [f"t{i}" for i in range(150)]}).write_csv(tmp_path / "others.csv")
    pl.DataFrame({"id": ["a", "b", "c"], "v": [[1.0, 2], [1.0], [3.0, 4]]}).write_parquet(tmp_path / "ragged.parquet")

    def line(source, *options, into="new.hw"):
        return refused("import", tmp_path / source, tmp_path / into, "--name", "a", *options)

    assert "NaN or infinite numbers in rows 4 ('4'), 9 ('9')" in line("bad.npy")
    assert "Pass --dtype float32" in line("large.npy", "--dtype", "float16")
    assert "it holds Python objects, and headwater unpickles none" in line("objects.npy")
    assert "'a', 'b'" in line("two.npz")
    assert re.search(
        r"short\.csv: has 149 rows, but .* has 150 vectors", line("v.npy", "--table", tmp_path / "short.csv")
    )
    assert "'x' (150 rows)" in line("v.npy", "--table", tmp_path / "same.csv", "--id", "code")
    why = line("v.npy", "--modality", "text", "--table", tmp_path / "texts.csv")
    assert "the same content but different vectors in rows 1 ('s0'), 2 ('s1')" in why
    why = line("v.npy", "--table", tmp_path / "others.csv", into="s.hw")
    assert "150 only there, such as 't0'" in why
    assert "150 only in the store, such as 's0'" in why
    assert "rows 2 (1)" in line("ragged.parquet")
    assert "Did you mean" in line("v.np")
    assert "hdf5" in line("v.npy", "--format", "hdf")
    assert "--modality text" in line("v.npy", "--prompts")


def test_damaged_and_pickled_files(refused, tmp_path):
    """Files that are damaged, hold objects or differ in width are one line; nothing is unpickled."""
    torch = pytest.importorskip("torch")
    h5py = pytest.importorskip("h5py")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "cut.h5").write_bytes(b"no")
    (tmp_path / "cut.safetensors").write_bytes(b"no")
    (tmp_path / "cut.parquet").write_bytes(b"no")
    torch.save({"features": Path("x")}, tmp_path / "object.pt")
    (tmp_path / "h5").mkdir()
    for name, dim in (("a", 3), ("b", 4)):
        with h5py.File(tmp_path / "h5" / f"{name}.h5", "w") as file:
            file["features"] = random(2, dim)
    for name in ("cut.npy", "cut.h5", "cut.safetensors", "cut.parquet"):
        assert "cannot be read" in refused("import", tmp_path / name, tmp_path / "s.hw", "--name", "a")
    pickled = refused("import", tmp_path / "object.pt", tmp_path / "s.hw", "--name", "a")
    assert "the file holds other objects than tensors, and headwater unpickles none" in pickled
    assert "vectors of 4 numbers" in refused("import", tmp_path / "h5", tmp_path / "s.hw", "--name", "a")


# Export


def read_back(format, out, name):
    """Vectors, ids and labels of an export, by the format's own library."""
    if format in ("npy", "safetensors"):
        from safetensors.numpy import load_file

        table = pl.read_parquet(out / "samples.parquet")
        files = out / f"{name.replace('/', '-')}.npy", out / "features.safetensors"
        X = np.load(files[0]) if format == "npy" else load_file(files[1])[name]
        return X, table["id"].to_list(), table["label"].to_list()
    if format == "hdf5":
        import h5py

        with h5py.File(out) as file:
            return file[name][:], file["ids"].asstr()[:].tolist(), file["samples/label"].asstr()[:].tolist()
    if format == "parquet":
        table = pl.read_parquet(out)
        return table[name].to_numpy(), table["id"].to_list(), table["label"].to_list()
    if format == "h5ad":
        import anndata

        found = anndata.read_h5ad(out)
        X = found.X if name == "clip/image" else found.obsm[name.replace("/", "_")]
        return X, found.obs_names.tolist(), found.obs["label"].tolist()
    import datasets

    found = datasets.load_from_disk(out)
    return np.array(found[name][:], found.features[name].feature.dtype), found["id"][:], found["label"][:]


@pytest.mark.parametrize("format", ["npy", "hdf5", "parquet", "h5ad", "datasets", "safetensors"])
def test_round_trip(made, tmp_path, format, command):
    """Each format's own reader gives the values bit for bit, float16 included, with ids and columns in their order."""
    pytest.importorskip(LIBRARY.get(format, "numpy"))
    store, X = made
    half = random(150, 3, np.float16, seed=2)
    np.save(tmp_path / "half.npy", half)
    store = import_features(tmp_path / "half.npy", store.path, name="half", table=tmp_path / "t.csv")
    both = ("--features", "clip/image", "--features", "half/image")
    done = command("export", store.path, tmp_path / "out", *both, "--format", format, "--where", "half", "--json")
    assert json.loads(done.out)["n_samples"] == 75
    for name, expected in (("clip/image", X), ("half/image", half)):
        values, ids, labels = read_back(format, tmp_path / "out", name)
        assert values.dtype == expected.dtype
        assert (bits(values) == bits(expected[::2])).all()
        assert ids == [f"s{i}" for i in range(0, 150, 2)]
        assert labels == store.samples["label"][::2].to_list()
    assert sorted(p.name for p in tmp_path.glob("*out*")) == ["out"]


@pytest.mark.parametrize("format", ["npy", "hdf5", "parquet", "safetensors"])
def test_there_and_back(made, tmp_path, format):
    """What import reads of what export writes is a store of the same samples, values, keys and columns."""
    pytest.importorskip(LIBRARY.get(format, "numpy"))
    store, X = made
    suffix = {"hdf5": ".h5", "parquet": ".parquet"}.get(format, "")
    out = tmp_path / f"out{suffix}"
    export_features(store, out, features="clip/image", format=format)
    file = {"npy": out / "clip-image.npy", "safetensors": out / "features.safetensors"}.get(format, out)
    table = None if file == out else out / "samples.parquet"
    back = import_features(file, tmp_path / "back.hw", name="clip", table=table)
    data, before = back.read("clip/image"), store.read("clip/image")
    assert (bits(data.X[:]) == bits(X)).all()
    assert data.ids.tolist() == before.ids.tolist()
    assert data.table["image_key"].to_list() == before.table["image_key"].to_list()
    assert data.table["label"].to_list() == before.table["label"].to_list()
    assert data.table["age"].fill_nan(None).to_list() == before.table["age"].to_list()


def test_export_refuses(refused, made, tmp_path):
    """A place that is taken, an unknown format, features that are not there: one line, and nothing is written."""
    store, _ = made
    features = ("--features", "clip/image")
    assert "t.csv already exists" in refused("export", store.path, tmp_path / "t.csv", *features)
    assert "Did you mean 'parquet'" in refused("export", store.path, tmp_path / "o", *features, "--format", "parket")
    assert "Did you mean 'clip/image'" in refused("export", store.path, tmp_path / "o", "--features", "clip/images")


# Other people's features


@pytest.mark.skipif(not (DATA / "clip_flickr").exists(), reason="needs shared data: clip_flickr")
def test_flickr(tmp_path):
    """CLIP features of photographs and captions that others made, imported, find the right photograph as they did."""
    folder = DATA / "clip_flickr"
    for modality in ("image", "text"):
        file, table = folder / f"{modality}_embeddings.npy", folder / "metadata.csv"
        store = import_features(file, tmp_path / "f.hw", name="clip", modality=modality, table=table)
    data = store.read("clip/image", "clip/text")
    photographs, first = np.unique(data.table["image_id"].to_numpy(), return_index=True)
    cosines = data.inputs["clip/text"][:] @ data.inputs["clip/image"][first].T
    assert len(photographs) == 100
    assert round(float(np.mean(photographs[cosines.argmax(1)] == data.table["image_id"].to_numpy())), 3) == 0.832
    caption = data.table["caption"][0]
    assert len(similar(store, features="clip/image", text=caption, k=5)) == 5


@pytest.mark.skipif(not (DATA / "clip_pathmnist").exists(), reason="needs shared data: clip_pathmnist")
def test_pathmnist_prompts(tmp_path):
    """Prompts that others embedded, imported as texts that are no samples, classify images without an encoder."""
    folder = DATA / "clip_pathmnist"
    about = json.loads((folder / "prompt_map.json").read_text())
    texts = [row["template"].format(label=row["synonym"]) for row in about]
    pl.DataFrame({"text": texts}).write_csv(tmp_path / "prompts.csv")
    table_of(tmp_path / "t.csv", 1000, label=[("adipose", "background")[i % 2] for i in range(1000)])
    import_features(folder / "image_embeddings.npy", tmp_path / "p.hw", name="clip", table=tmp_path / "t.csv")
    file, table = folder / "prompt_embeddings.npy", tmp_path / "prompts.csv"
    import_features(file, tmp_path / "p.hw", name="clip", modality="text", table=table, prompts=True)
    classes = {}
    for row, text in zip(about, texts, strict=True):
        if row["label_name"] is not None:
            classes.setdefault(row["label_name"], []).append(text)
    lines = ['templates = ["{}"]', "[classes]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in classes.items())]
    (tmp_path / "prompts.toml").write_text("\n".join(lines))
    run = zero_shot(tmp_path / "p.hw", features="clip", prompts=tmp_path / "prompts.toml", label="label")
    means = []
    P, X = (np.load(folder / f"{n}_embeddings.npy").astype(np.float64) for n in ("prompt", "image"))
    for name in sorted(classes):
        of_class = P[[row["label_name"] == name for row in about]]
        mean = (of_class / np.linalg.norm(of_class, axis=1, keepdims=True)).mean(0)
        means.append(mean / np.linalg.norm(mean))
    best = np.array(sorted(classes))[(X @ np.stack(means).T).argmax(1)]
    assert run.predictions["predicted"].to_list() == best.tolist()


def test_files_of_slides_whose_names_are_no_text_are_refused(refused, tmp_path):
    """A folder of slides with a name in another encoding is refused by name."""
    (tmp_path / "h5").mkdir()
    (tmp_path / "h5" / os.fsdecode(b"caf\xe9.h5")).touch()
    assert "are not in UTF-8" in refused("import", tmp_path / "h5", tmp_path / "s.hw", "--name", "uni")
