"""Files of vectors are somebody else's: no other file is read, and nothing is unpacked past a file's size."""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.errors import VectorsError
from headwater.sources import read_vectors
from headwater.sources._bounds import FREE, require_parquet_room

h5py = pytest.importorskip("h5py")
torch = pytest.importorskip("torch")

HUGE = 10**12
X = np.arange(12, dtype=np.float32).reshape(4, 3)


def refused(path, **options):
    with pytest.raises(VectorsError) as caught:
        list(read_vectors(path, "image", **options).gather([np.arange(2)]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def hdf5(path, make):
    with h5py.File(path, "w") as file:
        make(file)
    return path


def external(file):
    Path(file.filename).with_name("secret").write_bytes(bytes(X))
    place = [(str(Path(file.filename).with_name("secret")), 0, X.nbytes)]
    file.create_dataset("features", X.shape, "f4", external=place)


def virtual(file):
    other = Path(file.filename).with_name("other.h5")
    hdf5(other, lambda f: f.create_dataset("v", data=X))
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[:] = h5py.VirtualSource(other, "v", X.shape)
    file.create_virtual_dataset("features", layout)


def external_link(file):
    other = Path(file.filename).with_name("other.h5")
    hdf5(other, lambda f: f.create_dataset("v", data=X))
    file["features"] = h5py.ExternalLink(str(other), "v")


def external_group(file):
    other = Path(file.filename).with_name("other.h5")
    hdf5(other, lambda f: f.create_dataset("g/features", data=X))
    file["g"] = h5py.ExternalLink(str(other), "g")


def with_coords(coords):
    def make(file):
        file["features"], file["coords"] = X, coords

    return make


def words(file):
    file["features"] = X
    file.create_dataset("ids", data=np.array([b"\xff\xfe", b"b", b"c", b"d"], "S2"), dtype=h5py.string_dtype())


def external_words(file):
    file["features"] = X
    Path(file.filename).with_name("secret").write_bytes(b"a" * 4)
    file.create_dataset("ids", (4,), "S1", external=[(str(Path(file.filename).with_name("secret")), 0, 4)])


HDF5 = {
    "external storage": (external, "in another file"),
    "external storage of ids": (external_words, "in another file"),
    "virtual": (virtual, "in another file"),
    "external link": (external_link, "no floating-point array of shape (n, d) or (1, n, d). There are: nothing."),
    "external link of a group": (
        external_group,
        "no floating-point array of shape (n, d) or (1, n, d). There are: nothing.",
    ),
    "soft link out of the file's groups": (
        lambda f: f.__setitem__("features", h5py.SoftLink("/nowhere")),
        "no floating-point array of shape (n, d) or (1, n, d). There are: nothing.",
    ),
    "rows that are not there": (
        lambda f: f.create_dataset("features", (HUGE, 8), "f4", chunks=(1024, 8)),
        " bytes of arrays, but the file has only ",
    ),
    "rows of no numbers": (
        lambda f: f.create_dataset("features", (HUGE, 0), "f4", chunks=(1024, 1), maxshape=(None, None)),
        "declares 1,000,000,000,000 bytes of arrays, but the file has only ",
    ),
    "a column that is not there": (
        lambda f: (f.create_dataset("features", data=X), f.create_dataset("ids", (HUGE,), "i8", chunks=(1024,))),
        " bytes of arrays, but the file has only ",
    ),
    "words that are not there": (
        lambda f: (
            f.create_dataset("features", data=X),
            f.create_dataset("ids", (HUGE,), h5py.string_dtype(), chunks=(1024,)),
        ),
        " bytes of arrays, but the file has only ",
    ),
    "a bomb": (
        lambda f: f.create_dataset("features", data=np.zeros((20_000, 1024), "f4"), compression="gzip"),
        " bytes of arrays, but the file has only ",
    ),
    "a large chunk": (
        lambda f: f.create_dataset("features", (4, 4), "f4", chunks=(1 << 14, 1 << 14), maxshape=(None, None)),
        " bytes of arrays, but the file has only ",
    ),
    "many arrays": (
        lambda f: [f.create_dataset(f"a{i}", (4096, 1024), "f4", chunks=(1024, 8)) for i in range(8)],
        " bytes of arrays, but the file has only ",
    ),
    "coords of one axis": (with_coords(np.arange(4)), "'coords' holds int64 (4,)"),
    "coords of one column": (with_coords(np.arange(4)[:, None]), "'coords' holds int64 (4, 1)"),
    "coords of four axes": (with_coords(np.zeros((1, 1, 4, 2))), "'coords' holds float64"),
    "coords of words": (with_coords(np.array([b"a"] * 4)), "'coords' holds object (4,)"),
    "a single number for coords": (with_coords(3), "'coords' holds int64 ()"),
    "coords of fewer": (with_coords(np.zeros((3, 2))), "3 coords for 4 vectors"),
    "words not in UTF-8": (words, "not in UTF-8"),
}


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5(kind, tmp_path):
    """What an HDF5 file keeps elsewhere, only declares, or says in another form is one line, and is not read."""
    make, why = HDF5[kind]
    assert why in refused(hdf5(tmp_path / "a.h5", make))


def npy(shape, dtype="<f4", data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def npz(path, packed=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def npz_of(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def written(path, data):
    path.write_bytes(data)
    return path


def saved(path, value):
    torch.save(value, path)
    return path


def repacked(path, value):
    """Save tensors, and pack the archive that torch does not pack."""
    torch.save(value, plain := path.with_suffix(".plain"))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    plain.unlink()
    return path


def safetensors(path, **shapes):
    import json

    header = json.dumps({n: {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}).encode()
    return written(path, len(header).to_bytes(8, "little") + header)


def pipe(path):
    os.mkfifo(path)
    return path


def parquet(path, **columns):
    pl.DataFrame(columns).write_parquet(path, compression="zstd")
    return path


FILES = {
    "npy that only declares": lambda t: written(t / "a.npy", npy((HUGE, 8))),
    "npy of no numbers": lambda t: written(t / "a.npy", npy((HUGE, 0))),
    "npy of objects": lambda t: written(t / "a.npy", npy((2, 2), "|O")),
    "npy that is an archive": lambda t: npz(t / "a.npy", v=npy(X.shape, data=X.tobytes())),
    "npz that only declares": lambda t: npz(t / "a.npz", v=npy((HUGE, 8))),
    "npz bomb": lambda t: npz(t / "a.npz", zipfile.ZIP_DEFLATED, v=npy((10_000, 1024), data=bytes(40_960_000))),
    "npz of many bombs": lambda t: npz(
        t / "a.npz", zipfile.ZIP_DEFLATED, **{f"v{i}": npy((2500, 1024), data=bytes(10_240_000)) for i in range(8)}
    ),
    "npz of no numbers": lambda t: npz(t / "a.npz", v=npy((HUGE, 0))),
    "npz of objects": lambda t: npz(t / "a.npz", v=npy((2, 2), "|O")),
    "npz that is cut": lambda t: npz(t / "a.npz", v=npy((4, 3))),
    "npz whose ids are no words": lambda t: npz(
        t / "a.npz", v=npy((4, 3), data=X.tobytes()), ids=npy((4,), "|S1", b"\xff\xfeab")
    ),
    "npz with a member of the same name": lambda t: npz_of(
        t / "a.npz", **{"v": b"words that are no array", "v.npy": npy(X.shape, data=X[:2].tobytes())}
    ),
    "npz that is none": lambda t: written(t / "a.npz", b"no"),
    "expanded tensor": lambda t: saved(t / "a.pt", torch.zeros(1).expand(HUGE, 8)),
    "expanded bfloat16": lambda t: saved(t / "a.pt", {"v": torch.zeros(1, dtype=torch.bfloat16).expand(HUGE, 8)}),
    "tensor of overlapping rows": lambda t: saved(t / "a.pt", torch.zeros(4).as_strided((HUGE, 4), (0, 1))),
    "tensor of no numbers": lambda t: saved(t / "a.pt", {"v": torch.zeros(1).as_strided((HUGE, 0), (0, 1))}),
    "packed tensors": lambda t: repacked(t / "a.pt", {"v": torch.zeros(10_000, 1024)}),
    "tensors whose ids are half characters": lambda t: saved(
        t / "a.pt", {"v": torch.zeros(2, 3), "ids": ["\ud800", "b"]}
    ),
    "safetensors of no numbers": lambda t: safetensors(t / "a.safetensors", v=[HUGE, 0]),
    "safetensors that only declare": lambda t: safetensors(t / "a.safetensors", v=[HUGE, 4]),
    "parquet of packed lists": lambda t: parquet(
        t / "a.parquet", v=pl.Series([np.zeros(1024, np.float32)] * 10_000, dtype=pl.Array(pl.Float32, 1024))
    ),
    "parquet whose footer is damaged": lambda t: written(t / "a.parquet", b"PAR1" + b"\xff" * 64 + b"\x40\0\0\0PAR1"),
    "parquet without a footer": lambda t: written(t / "a.parquet", b"PAR1"),
    "pipe": lambda t: pipe(t / "a.npy"),
    "pipe for hdf5": lambda t: pipe(t / "a.h5"),
    "pipe for parquet": lambda t: pipe(t / "a.parquet"),
    "device": lambda t: (t / "a.npy").symlink_to("/dev/zero") or t / "a.npy",
}


@pytest.mark.parametrize("kind", FILES)
def test_files(kind, tmp_path):
    """Nothing is read of a file that declares more than it can hold, waits, or holds what is no array of numbers."""
    refused(FILES[kind](tmp_path))


def linked(folder, name, target):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    return folder


def slides(folder, suffix=".h5"):
    folder.mkdir(parents=True)
    for name in "ab":
        if suffix == ".h5":
            hdf5(folder / f"{name}.h5", with_coords(np.arange(8).reshape(4, 2)))
        else:
            torch.save(torch.tensor(X), folder / f"{name}.pt")
    return folder


def retrieval(folder):
    for part in ("img_emb", "metadata"):
        (folder / part).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", X)
    pl.DataFrame({"key": list("abcd")}).write_parquet(folder / "metadata" / "metadata_0.parquet")
    return folder


def outside(tmp_path, suffix):
    made = {
        ".h5": lambda p: hdf5(p, with_coords(np.zeros((4, 2)))),
        ".npy": lambda p: np.save(p, X) or p,
        ".pt": lambda p: saved(p, torch.tensor(X)),
        ".parquet": lambda p: parquet(p, key=list("abcd")),
    }
    return made[suffix](tmp_path / f"outside{suffix}")


@pytest.mark.parametrize("column", [{"x": np.arange(4)}, {"x": [b"a"] * 4, "y": [b"b"] * 4}, {"slide": np.arange(4)}])
def test_columns_of_other_kinds(column, tmp_path):
    """Arrays that are called as coordinates or slides are, and are none, are what a file says of its patches."""

    def make(file):
        file["features"] = X
        for name, values in column.items():
            file[name] = np.array(values)

    (tmp_path / "f").mkdir()
    hdf5(tmp_path / "f" / "a.h5", make)
    assert read_vectors(tmp_path / "f", "image").samples.ids[:2] == ["a_1", "a_2"]


@pytest.mark.parametrize("format", ["h5", "npz", "parquet", "npy", "lance"])
def test_damage_that_comes_later(format, tmp_path):
    """A file whose numbers are damaged behind its description is one line when they are read."""
    path = tmp_path / f"a.{format}"
    values = np.random.default_rng(0).standard_normal((4000, 16)).astype(np.float32)
    if format == "h5":
        hdf5(path, lambda f: f.create_dataset("features", data=values, compression="gzip", chunks=(100, 16)))
    elif format == "npz":
        np.savez_compressed(path, v=values)
    elif format == "parquet":
        pl.DataFrame({"v": values.tolist()}).write_parquet(path)
    elif format == "npy":
        np.save(path, values)
    else:
        lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
        lance.write_dataset(pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 16)}), path)
    found = read_vectors(path, "image")
    (file,) = [path] if path.is_file() else (path / "data").iterdir()
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle - 60_000 : middle + 60_000] = b"\xff" * 120_000
    file.write_bytes(bytes(data) if format != "npy" else bytes(data[:2000]))
    with pytest.raises(VectorsError) as caught:
        list(found.gather([np.arange(4000)]))
    assert "\n" not in str(caught.value)


FOLDERS = {
    "hdf5": lambda t: linked(slides(t / "f"), "b.h5", outside(t, ".h5")),
    "hdf5 by ..": lambda t: (outside(t, ".h5"), linked(slides(t / "f"), "b.h5", "../outside.h5"))[1],
    "clam": lambda t: (slides(t / "g"), (t / "f").mkdir(), linked(t / "f", "h5_files", t / "g"))[2],
    "pt": lambda t: linked(slides(t / "f", ".pt"), "c.pt", outside(t, ".pt")),
    "one npy": lambda t: ((t / "f").mkdir(), linked(t / "f", "a.npy", outside(t, ".npy")))[1],
    "clip-retrieval": lambda t: (
        retrieval(t / "f"),
        linked(t / "f" / "img_emb", "img_emb_0.npy", outside(t, ".npy")),
        t / "f",
    )[2],
    "clip-retrieval, metadata": lambda t: (
        retrieval(t / "f"),
        linked(t / "f" / "metadata", "metadata_0.parquet", outside(t, ".parquet")),
        t / "f",
    )[2],
    "pipe among slides": lambda t: (slides(t / "f"), pipe(t / "f" / "c.h5"), t / "f")[2],
    "pipe in clip-retrieval": lambda t: (retrieval(t / "f"), pipe(t / "f" / "img_emb" / "img_emb_1.npy"), t / "f")[2],
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind, tmp_path):
    """A link that leads out of an imported folder is not followed, and a pipe in it is not waited for."""
    why = refused(FOLDERS[kind](tmp_path))
    assert "symbolic link out of" in why or "pipe" in why


def test_lance(tmp_path):
    """A Lance table that keeps its rows in another table, or has a link in it, is refused."""
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    table = pa.table({"id": list("abcd"), "v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)})
    lance.write_dataset(table, tmp_path / "x.lance")
    lance.dataset(tmp_path / "x.lance").shallow_clone(str(tmp_path / "y.lance"), 1)
    assert read_vectors(tmp_path / "x.lance", "image").shape == (4, 3)
    assert "in another table" in refused(tmp_path / "y.lance")
    shutil.copytree(tmp_path / "x.lance", tmp_path / "z.lance")
    (data,) = (tmp_path / "z.lance" / "data").iterdir()
    linked(data.parent, data.name, next((tmp_path / "x.lance" / "data").iterdir()))
    assert "symbolic link out of" in refused(tmp_path / "z.lance")


def test_what_is_honest_is_read(tmp_path):
    """Files that are linked by the user, packed as far as numbers pack, or in links within the folder, are read."""
    sparse = np.maximum(np.random.default_rng(0).standard_normal((600, 64)).astype(np.float32) - 2, 0)
    path = hdf5(tmp_path / "a.h5", lambda f: f.create_dataset("features", data=sparse, compression="gzip"))
    (tmp_path / "link.h5").symlink_to(path)
    assert read_vectors(tmp_path / "link.h5", "image").shape == (600, 64)
    np.savez_compressed(tmp_path / "a.npz", v=sparse, ids=np.array([f"é{i}".encode() for i in range(600)]))
    assert read_vectors(tmp_path / "a.npz", "image").samples.ids[1] == "é1"
    folder = slides(tmp_path / "f")
    linked(folder, "c.h5", "a.h5")
    assert read_vectors(folder, "image").shape == (12, 3)
    (tmp_path / "folder").symlink_to(folder)
    assert read_vectors(tmp_path / "folder", "image").shape == (12, 3)
    cache = tmp_path / "datasets--a--b"
    slides(cache / "snapshots" / "1" / "h5_files")
    (cache / "blobs").mkdir()
    (cache / "snapshots" / "1" / "h5_files" / "b.h5").rename(cache / "blobs" / "0")
    linked(cache / "snapshots" / "1" / "h5_files", "b.h5", "../../../blobs/0")
    assert read_vectors(cache / "snapshots" / "1", "image").shape == (8, 3)
    zeros = np.zeros((FREE // 4096, 1024), np.float32)
    np.savez_compressed(tmp_path / "z.npz", v=zeros[:-1])
    assert read_vectors(tmp_path / "z.npz", "image").shape == (4095, 1024)


@pytest.mark.parametrize("compression", ["zstd", "snappy", "uncompressed"])
@pytest.mark.parametrize("writer", ["polars", "pyarrow"])
def test_footers_of_parquet_are_understood(writer, compression, tmp_path):
    """The footers that two libraries write are read, with statistics, lists, words and nulls in them."""
    table = pl.DataFrame(
        {
            "id": [f"s{i}" for i in range(3000)],
            "v": np.random.default_rng(0).standard_normal((3000, 5)).tolist(),
            "age": [None if i % 2 else i for i in range(3000)],
            "flag": [i % 3 == 0 for i in range(3000)],
        }
    )
    if writer == "polars":
        table.write_parquet(tmp_path / "a.parquet", compression=compression, row_group_size=700)
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        packed = "none" if compression == "uncompressed" else compression
        pq.write_table(table.to_arrow(), tmp_path / "a.parquet", compression=packed, row_group_size=700)
    require_parquet_room(tmp_path / "a.parquet")
    assert read_vectors(tmp_path / "a.parquet", "image").shape == (3000, 5)


def test_memory_stays(tmp_path):
    """A refused bomb of 4 GB costs no more memory than any small file."""
    code = (
        "import resource, sys\n"
        "from headwater.sources import read_vectors\n"
        "from headwater.errors import VectorsError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_vectors(sys.argv[1], 'image')\n"
        "except VectorsError as error: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (1_000_000, 1024), "f4", compression="gzip", chunks=(1024, 1024))
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200_000  # KiB
