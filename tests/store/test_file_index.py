"""Keys of files that were read before."""

import os
import time
from pathlib import Path

import polars as pl
import pytest

from headwater.store import FileIndex
from headwater.store.file_index import NAME


def keys_of(index, files):
    """Return what an index knows of files, as a list."""
    return index.keys_of(pl.Series(files, dtype=pl.String)).to_list()


@pytest.fixture
def files(tmp_path):
    """Return three files that changed a while ago."""
    made = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        path.write_bytes(bytes([i]) * 10)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        made.append(str(path))
    return made


@pytest.fixture
def known(tmp_path, files):
    """Return an index on disk that knows the files."""
    index = FileIndex(tmp_path)
    index.remember({path: bytes([i]) * 16 for i, path in enumerate(files)})
    index.save()
    return FileIndex(tmp_path)


def test_unchanged_files_are_known(known, files):
    """Keys come back in the order that was asked for."""
    assert keys_of(known, files[::-1]) == [bytes([i]) * 16 for i in (2, 1, 0)]
    assert keys_of(known, ["/elsewhere.png"]) == [None]


@pytest.mark.parametrize("change", ["size", "time", "inode", "gone"])
def test_a_changed_file_is_not_known(known, files, change):
    """Another size, time of change or inode, or no file: it must be read."""
    path = Path(files[1])
    stat = path.stat()
    times = stat.st_atime_ns, stat.st_mtime_ns
    if change == "size":
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=times)
    elif change == "time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "inode":
        path.rename(path.with_suffix(".old"))
        path.write_bytes(b"\x01" * 10)
        os.utime(path, ns=times)
    else:
        path.unlink()
    assert [key is None for key in keys_of(known, files)] == [False, True, False]


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path, files):
    """A file that may change again within the tick of a clock is read again next time."""
    now = time.time_ns()
    os.utime(files[0], ns=(now, now))
    index = FileIndex(tmp_path)
    index.remember(dict.fromkeys(files, b"k" * 16))
    assert [key is None for key in keys_of(index, files)] == [True, False, False]


def test_a_damaged_index_is_none(known, tmp_path, files):
    """It is a cache: when it cannot be read, files are."""
    (tmp_path / NAME).write_bytes(b"PAR1 and nothing else")
    assert keys_of(FileIndex(tmp_path), files) == [None] * 3


def test_what_is_remembered_again_replaces_what_was(known, tmp_path, files):
    """A file stands once, with its latest key."""
    known.remember({files[0]: b"n" * 16})
    known.save()
    again = FileIndex(tmp_path)
    assert len(again) == 3
    assert keys_of(again, files[:1]) == [b"n" * 16]
