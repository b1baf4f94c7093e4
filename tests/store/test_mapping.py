"""Files are mapped without staying open, however many there are, and unmapped when nobody uses them."""

import errno
import gc
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from headwater.errors import DiskError
from headwater.store import MappedArray, layout
from headwater.store import blocks as blocks_module
from headwater.store.mapping import mapped

ROWS, CHUNKS = 4, 300


@contextmanager
def few_files():
    """Allow this process only a few more open files than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def maps_below(folder):
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.fixture
def array(tmp_path):
    """An array of 300 chunks of 4 rows."""
    array = MappedArray(tmp_path, (ROWS * CHUNKS, 2), ROWS, np.int64)
    for index in range(CHUNKS):
        array.write_chunk(index, values(range(index * ROWS, (index + 1) * ROWS)))
    return array


def values(rows):
    return np.asarray(rows)[:, None] * 2 + np.arange(2)


def test_more_chunks_than_files_may_be_open(array):
    """All chunks of an array are mapped at once by a process that may open only a few files."""
    with few_files():
        assert np.array_equal(array[:], values(range(len(array))))
        assert np.array_equal(array[np.arange(0, len(array), ROWS)], values(range(0, len(array), ROWS)))
        assert maps_below(array.folder) == CHUNKS


def test_keys_in_a_bucket_that_are_more_files_than_may_be_open(store, monkeypatch, write_features):
    """Keys of a store, fetched and checked together, are read one file after the other."""
    monkeypatch.setattr(layout, "KEY_CHUNK", ROWS)
    monkeypatch.setattr("headwater.store.reader.KEY_CHUNK", ROWS)
    monkeypatch.setattr("headwater.store.writer.KEY_CHUNK", ROWS)
    keys = np.random.default_rng(0).integers(0, 256, (200, 16), np.uint8)
    write_features(store, "f/image", np.ones((200, 2), np.float16), keys)
    found = store.features("f/image")
    with few_files():
        assert np.array_equal(found.keys, keys)
        assert np.array_equal(found.rows_of(keys[::-1]), np.arange(200)[::-1])


def test_what_nobody_uses_is_unmapped(array, tmp_path):
    """A view keeps its file mapped, also when that is gone; without one nothing stays."""
    again = MappedArray(array.folder, array.shape, ROWS, array.dtype)
    view = again[5:7]
    del again
    gc.collect()
    assert maps_below(tmp_path) == 1
    (tmp_path / "c.1.0").unlink()
    assert np.array_equal(view, values([5, 6]))
    del view
    gc.collect()
    assert maps_below(tmp_path) == 0


def test_not_all_chunks_stay_mapped(array, monkeypatch):
    """Of a long array old chunks are let go, those in use remain, and what is read is right."""
    monkeypatch.setattr(blocks_module, "MOST_MAPPED", 10)
    kept = array[2:4]
    for rows, found in array.blocks():
        assert np.array_equal(found, values(range(rows.start, rows.stop)))
        assert maps_below(array.folder) <= 12
    assert np.array_equal(kept, values([2, 3]))


def test_a_system_that_maps_no_more(array, monkeypatch):
    """Where the system refuses to map a file, the error names it and what to look at."""

    def refuse(file):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(blocks_module, "mapped", refuse)
    with pytest.raises(DiskError, match=r"c\.0\.0 cannot be mapped \(Cannot allocate memory\).*vm\.max_map_count"):
        array[:]


def test_a_mapped_file_is_read_only(tmp_path):
    """What is mapped has the bytes of the file and cannot be written to; an empty file is refused."""
    (tmp_path / "a").write_bytes(bytes(range(256)) * 33)
    with (tmp_path / "a").open("rb") as file:
        found = mapped(file)
    assert found.tobytes() == bytes(range(256)) * 33
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        found[:10].flags.writeable = True
    (tmp_path / "b").touch()
    with (tmp_path / "b").open("rb") as file, pytest.raises(ValueError, match="empty"):
        mapped(file)
